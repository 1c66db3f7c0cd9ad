"""Importer of Attention, written out as PyTorch writes it: products, a mask, a softmax."""

import numpy as np

from tinyfleet_compiler.graph import Floats, MatMul, Reshape, Shape, Softmax, Transpose
from tinyfleet_compiler.importers.binary import import_binary
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError

MASKED = -1e9
"""Added to a score that does not count: its probability is 0, in float32 exactly, and sums of it stay finite."""
_CACHE = "keep earlier keys and values outside, joined by Concat with a state, and give K and V whole"
_PLAIN = "export it written out (opset 22 or earlier), or leave it out"
_INPUTS = {4: "past keys", 5: "past values", 6: "a number of keys that count"}
_OUTPUTS = {1: "present keys", 2: "present values", 3: "scores"}
_SETTINGS = {"softcap": 0.0, "softmax_precision": 1.0, "left_window_size": -1.0, "right_window_size": -1.0}
"""Attributes that would change what is computed, and where they do not."""


def import_attention(node: OnnxNode) -> None:
    """Attention-23 (24, 25): softmax(scale Q K^T + mask) V, of queries, keys and values in 3 or 4 dimensions, without a
    cache. Fewer heads of keys than of queries repeat: queries of one such head are rows of one product."""
    _check_form(node)
    shapes = [node.shape(index) for index in range(3)]
    flat = len(shapes[0]) == 2
    heads, shared = _heads(node, shapes)
    q, k, v = (_split(node, index, count) for index, count in enumerate((heads, shared, shared)))
    (_, rows, depth), (_, keys, _), (_, _, width) = (node.context.shapes[name] for name in (q, k, v))
    if node.context.shapes[k] != (shared, keys, depth) or node.context.shapes[v] != (shared, keys, width):
        raise UnsupportedError(f"reads Q, K, V {shapes}", "give K the depth of Q, and V the length of K")
    scale = node.real("scale", 1.0 / float(np.sqrt(depth)))
    if not np.isfinite(scale) or scale == 0.0:
        raise UnsupportedError(f"has scale {scale}", "use a positive number")
    node.require_size((heads, rows, keys))
    stacked = (shared, heads // shared * rows)
    scores = _product(node, "scores", _shaped(node, q, "queries", (*stacked, depth)), k, (0, 2, 1), scale)
    masked = _masked(node, _shaped(node, scores, "scores by head", (heads, rows, keys)), (heads, rows, keys))
    weights = f"{node.output}/weights"
    node.context.add(Softmax(weights, (masked,), weights), (heads, rows, keys))
    mixed = _product(node, "mixed", _shaped(node, weights, "weights by key head", (*stacked, keys)), v, (0, 1, 2), 1.0)
    result = _shaped(node, mixed, "mixed by head", (heads, rows, width))
    shape = (rows, heads * width) if flat else (heads, rows, width)
    if flat:
        turned = f"{node.output}/turned"
        node.context.add(Transpose(turned, (result,), turned, perm=(1, 0, 2)), (rows, heads, width))
        result = turned
    node.context.add(Reshape(node.name, (result,), node.output, shape=shape), shape)


def _check_form(node: OnnxNode) -> None:
    for index, what in _INPUTS.items():
        if node.has_input(index):
            raise UnsupportedError(f"is given {what}", _CACHE)
    for output, what in zip(node.proto.output[1:], _OUTPUTS.values(), strict=False):
        if output and node.context.is_read(output):
            raise UnsupportedError(f"gives out {what}", "use its first output only")
    for name, plain in _SETTINGS.items():
        if node.real(name, plain) != plain:
            raise UnsupportedError(f"has {name} {node.attributes[name]}", _PLAIN)


def _heads(node: OnnxNode, shapes: list[Shape]) -> tuple[int, int]:
    """Of queries, and of keys and values."""
    if {len(shape) for shape in shapes} not in ({2}, {3}):
        raise UnsupportedError(f"reads Q, K, V {shapes}", "give all three 3 dimensions, or all 4")
    first = (0, 0) if len(shapes[0]) == 2 else (shapes[0][0], shapes[1][0])
    names = ("q_num_heads", "kv_num_heads")
    heads, shared = (node.integer(name, count) for name, count in zip(names, first, strict=True))
    if heads < 1 or shared < 1 or heads % shared or (len(shapes[0]) == 3 and (heads, shared) != first):
        raise UnsupportedError(f"has {heads} heads of queries, {shared} of keys", "use a multiple of the heads of keys")
    for shape, count in zip(shapes, (heads, shared, shared), strict=True):
        if len(shape) == 2 and shape[1] % count:
            raise UnsupportedError(f"cuts {shape} into {count} heads", "use heads that divide the width")
    return heads, shared


def _split(node: OnnxNode, index: int, heads: int) -> str:
    """An input as (heads, length, depth)."""
    source, shape = node.data(index), node.shape(index)
    if len(shape) == 3:
        return source
    length, depth = shape[0], shape[1] // heads
    parts = _shaped(node, source, f"parts{index}", (length, heads, depth))
    turned = f"{node.output}/heads{index}"
    node.context.add(Transpose(turned, (parts,), turned, perm=(1, 0, 2)), (heads, length, depth))
    return turned


def _shaped(node: OnnxNode, source: str, end: str, shape: Shape) -> str:
    if node.context.shapes[source] == shape:
        return source
    made = f"{node.output}/{end}"
    node.context.add(Reshape(made, (source,), made, shape=shape), shape)
    return made


def _product(node: OnnxNode, end: str, a: str, b: str, b_axes: Shape, alpha: float) -> str:
    made, straight, shapes = f"{node.output}/{end}", (0, 1, 2), node.context.shapes
    product = MatMul(made, (a, b), made, a_axes=straight, b_axes=b_axes, out_axes=straight, alpha=alpha)
    node.context.add(product, (*shapes[a][:2], shapes[b][b_axes[2]]))
    return made


def _masked(node: OnnxNode, scores: str, shape: Shape) -> str:
    """The scores plus what the mask says: a tensor, a constant, and what lies ahead of each query."""
    constant = np.zeros((1, 1, 1), np.float32)
    if node.has_input(3) and node.inputs[3] not in node.context.constants:
        _check_mask(node.shape(3), shape)
        given = f"{node.output}/masked"
        import_binary(node.part("Add", [scores, node.data(3)], given))
        scores = given
    elif node.has_input(3):
        constant = _constant_mask(node, shape)
    if node.integer("is_causal", 0):
        ahead = np.triu(np.ones(shape[1:], np.bool_), 1)
        constant = np.where(ahead, np.float32(MASKED), constant)
    constant = np.maximum(constant, np.float32(MASKED))
    if (constant == MASKED).all(axis=-1).any():
        raise UnsupportedError("has queries that no key counts for", "leave those queries out")
    if not constant.any():
        return scores
    name, made = f"{node.output}/mask", f"{node.output}/counted"
    node.context.constants[name] = constant.reshape((1,) * (4 - constant.ndim) + constant.shape)
    import_binary(node.part("Add", [scores, name], made))
    return made


def _constant_mask(node: OnnxNode, shape: Shape) -> Floats:
    """(heads or 1, rows or 1, keys): what is added; of a boolean mask False does not count."""
    mask = node.constant(3, "the mask")
    if mask.dtype.kind not in "bf" or np.isnan(mask).any() or np.isposinf(mask).any():
        raise UnsupportedError(f"has a mask of {mask.dtype}", "use booleans, or numbers to add")
    added = np.where(mask, 0.0, MASKED) if mask.dtype.kind == "b" else mask
    if added.ndim == 4 and added.shape[0] == 1:
        added = added[0]
    _check_mask(added.shape, shape)
    return np.asarray(added.reshape((1,) * (3 - added.ndim) + added.shape), np.float32)


def _check_mask(given: Shape, shape: Shape) -> None:
    fits = 1 <= len(given) <= 3 and given[-1] == shape[-1]
    if not fits or any(d not in (1, size) for d, size in zip(reversed(given), reversed(shape), strict=False)):
        raise UnsupportedError(f"has a mask {given} for {shape}", f"use {shape}, or 1 for heads and queries")
