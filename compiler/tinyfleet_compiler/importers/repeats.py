"""Importers of operators that repeat or choose: Expand, Tile, Where with a constant condition; and Cast."""

import numpy as np
from onnx import TensorProto

from tinyfleet_compiler.graph import Add, ArgMax, Binary, BinaryOperator, Lookup, Shape, TopK
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.importers.pads import take_places

_REAL = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_WHOLE = (TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64)


def import_expand(node: OnnxNode) -> None:
    """Expand-8/13 to a constant shape: axes of 1 repeat."""
    shape = node.shape()
    wanted = [int(d) for d in np.ravel(node.constant(1, "the shape"))]
    if len(wanted) > len(shape) + 1 or (len(wanted) == len(shape) + 1 and wanted[0] != 1):
        raise UnsupportedError(f"expands {(1, *shape)} to {wanted}", "keep the number of axes and the batch of 1")
    full = [1] * (len(shape) - len(wanted)) + wanted[-len(shape) :] if wanted else [1] * len(shape)
    if any(d not in (1, size) and size != 1 for d, size in zip(full, shape, strict=True)) or min(full) < 1:
        raise UnsupportedError(f"expands {(1, *shape)} to {wanted}", "give sizes that are equal or 1")
    _repeat(node, shape, [d if size == 1 else 1 for d, size in zip(full, shape, strict=True)])


def import_tile(node: OnnxNode) -> None:
    """Tile-6/13 with constant repeats, none of the batch."""
    shape = node.shape()
    repeats = [int(r) for r in np.ravel(node.constant(1, "repeats"))]
    if len(repeats) != len(shape) + 1 or repeats[0] != 1 or min(repeats) < 1:
        raise UnsupportedError(f"repeats {(1, *shape)} {repeats} times", "give a positive number an axis, the batch 1")
    _repeat(node, shape, repeats[1:])


def _repeat(node: OnnxNode, shape: Shape, repeats: list[int]) -> None:
    result = tuple(size * times for size, times in zip(shape, repeats, strict=True))
    node.require_size(result)
    if result == shape:
        node.context.aliases[node.output] = node.data(0)
        return
    places = [tuple(list(range(size)) * times) for size, times in zip(shape, repeats, strict=True)]
    for made, written in take_places(node.name, node.data(0), node.output, shape, places):
        node.context.add(made, written)


def import_where(node: OnnxNode) -> None:
    """Where-9/16 with a constant condition between an activation and a constant: x * mask + rest."""
    condition = np.asarray(node.constant(0, "the condition"), np.bool_)
    constants = [i for i in (1, 2) if node.inputs[i] in node.context.constants]
    if len(constants) != 1:
        raise UnsupportedError("chooses between two activations", "choose between an activation and a constant")
    index = constants[0]
    shape = node.shape(3 - index)
    mask = _fitted(~condition if index == 1 else condition, shape)
    other = _fitted(node.floats(index, "the other value"), shape)
    if not np.isfinite(other).all():
        raise UnsupportedError("writes a number that is not finite", "use a number that activations can hold")
    kept = mask.astype(np.float32)
    masked = f"{node.output}/masked"
    multiply = Binary(masked, (node.data(3 - index),), masked, operator=BinaryOperator.MUL, constant=kept)
    node.context.add(multiply, shape)
    rest = np.ascontiguousarray(np.broadcast_to(other * (1.0 - kept), shape)).astype(np.float32)
    node.context.add(Add(node.name, (masked,), node.output, constant=rest), shape)


def _fitted(values: np.ndarray, shape: Shape) -> np.ndarray:
    """With the activation's rank, batch left out. Raises `UnsupportedError` where it would grow the activation."""
    full = values.reshape((1,) * (len(shape) + 1 - values.ndim) + values.shape)
    if full.ndim != len(shape) + 1 or np.broadcast_shapes(full.shape, (1, *shape)) != (1, *shape):
        raise UnsupportedError(f"chooses by {values.shape} in {(1, *shape)}", "give the activation the full shape")
    return np.asarray(full[0])


def import_cast(node: OnnxNode) -> None:
    """Cast and CastLike between real types, which codes do not tell apart; to whole numbers it cuts fractions off."""
    to = node.integer("to", 0)
    if node.operator == "CastLike":
        kind = node.constant(1, "the tensor to be like").dtype
        to = TensorProto.FLOAT if kind.kind == "f" else TensorProto.INT64 if kind.kind == "i" else 0
    source = node.data(0)
    written = next((n for n in node.context.nodes if n.output == source), None)
    whole = isinstance(written, ArgMax) or (isinstance(written, TopK) and written.indices)
    if to in _REAL or (whole and to in (*_WHOLE, TensorProto.UINT8)):
        node.context.aliases[node.output] = source
    elif to in _WHOLE:
        node.context.add(Lookup(node.name, (source,), node.output, function=np.trunc, operator="Cast"), node.shape())
    else:
        raise UnsupportedError(f"casts to type {to}", "cast to float or signed integer types")
