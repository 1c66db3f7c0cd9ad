"""Importers of matrix products, sums, activations, normalisation and softmax."""

import numpy as np

from tinyfleet_compiler.graph import Affine, Clip, Gemm, LogSoftmax, Reshape, Softmax, elements
from tinyfleet_compiler.importers import products
from tinyfleet_compiler.importers.along import along_last
from tinyfleet_compiler.importers.batch_axis import moved_axis
from tinyfleet_compiler.importers.batch_moves import reshape_batch, squeeze_batch, unsqueeze_batch
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.importers.qdq import read_number


def import_gemm(node: OnnxNode) -> None:
    """Gemm-9/11/13 with a constant B. The batch is its first axis: there are no products of two activations."""
    if node.integer("transA", 0):
        raise UnsupportedError("transposes its first input, the batch with it", "export with transA = 0")
    if node.has_input(1) and node.inputs[1] not in node.context.constants:
        raise UnsupportedError("multiplies two activations along the batch", "use MatMul of (N, rows, depth) tensors")
    weights = node.floats(1, "B") * np.float32(node.real("alpha", 1.0))
    if weights.ndim != 2:
        raise UnsupportedError(f"B has {weights.ndim} dimensions", "export a 2-D B")
    weights = weights if node.integer("transB", 0) else weights.T
    bias = np.zeros(weights.shape[0], np.float32)
    if node.has_input(2):
        given = node.floats(2, "C") * np.float32(node.real("beta", 1.0))
        if given.size not in (1, weights.shape[0]):
            raise UnsupportedError(f"C has shape {given.shape}", "use one bias per output")
        bias = bias + given.reshape(-1)
    _add_gemm(node, weights, bias)


def import_matmul(node: OnnxNode) -> None:
    """MatMul-9/13: an activation and a constant matrix make a layer, anything else is a product."""
    constant = node.has_input(1) and node.inputs[1] in node.context.constants
    if not constant or node.constant(1, "the right side").ndim != 2:
        products.import_product(node)
        return
    weights = node.floats(1, "the right side")
    _add_gemm(node, weights.T, np.zeros(weights.shape[1], np.float32))


def _add_gemm(node: OnnxNode, weights: np.ndarray, bias: np.ndarray) -> None:
    shape = node.shape()
    if shape[-1] != weights.shape[1]:
        raise UnsupportedError(f"expects {weights.shape[1]} features, gets {shape[-1]}", "export the model again")
    gemm = Gemm(node.name, (node.data(0),), node.output, weights=np.ascontiguousarray(weights), bias=bias)
    node.context.add(gemm, (*shape[:-1], weights.shape[0]))


def import_relu(node: OnnxNode) -> None:
    """Relu-6/13/14."""
    node.context.add(Clip(node.name, (node.data(0),), node.output, low=0.0), node.shape())


def import_clip(node: OnnxNode) -> None:
    """Clip-6/11/12/13 with constant bounds."""
    low = read_number(node, 1, "min") if node.has_input(1) else node.real("min", -np.inf)
    high = read_number(node, 2, "max") if node.has_input(2) else node.real("max", np.inf)
    if low > high or np.isnan(low) or np.isnan(high):
        raise UnsupportedError(f"clips to [{low}, {high}]", "give min below max")
    node.context.add(Clip(node.name, (node.data(0),), node.output, low=low, high=high), node.shape())


def import_batch_normalization(node: OnnxNode) -> None:
    """BatchNormalization-9/14/15 in inference form: x * scale + shift per channel."""
    if node.integer("training_mode", 0):
        raise UnsupportedError("is in training mode", "export in evaluation mode")
    gamma, beta, mean, variance = (
        node.floats(i, name).astype(np.float64) for i, name in enumerate(("scale", "B", "mean", "var"), 1)
    )
    shape = node.shape()
    if not gamma.shape == beta.shape == mean.shape == variance.shape == (shape[0],):
        raise UnsupportedError(f"parameters do not have {shape[0]} channels", "export the model again")
    if (variance < 0).any():
        raise UnsupportedError("has a negative variance", "export the model again")
    scale = gamma / np.sqrt(variance + node.real("epsilon", 1e-5))
    shift = beta - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise UnsupportedError("has a zero variance and no epsilon", "export with epsilon above 0")
    affine = Affine(
        node.name, (node.data(0),), node.output, scale=scale.astype(np.float32), shift=shift.astype(np.float32)
    )
    node.context.add(affine, shape)


def import_softmax(node: OnnxNode) -> None:
    """Softmax and LogSoftmax (1, 11, 13) over any axis; opset 11 flattens from `axis`."""
    shape = node.shape()
    rank = len(shape) + 1
    axis = node.integer("axis", 1 if node.context.opset < 13 else -1)
    if not -rank <= axis < rank or axis % rank == 0:
        raise UnsupportedError(f"runs over axis {axis} of {rank}", "use an axis after the batch")
    axis = axis % rank - 1
    if node.context.opset < 13 and elements(shape[axis + 1 :]) != 1:
        raise UnsupportedError("flattens several axes (opset below 13)", "export with opset 13 or later")
    made = LogSoftmax if node.operator == "LogSoftmax" else Softmax
    along_last(node, axis, lambda source, output, at: made(node.name, (source,), output, axis=at), shape)


def import_reshape(node: OnnxNode) -> None:
    """Reshape-5/13/14 with a constant shape that keeps the batch."""
    at = moved_axis(node)
    old = (*node.shape()[:at], 1, *node.shape()[at:])
    target = whole_target(old, reshape_target(node, old))
    if not reshape_batch(node, list(target)):
        _reshape(node, target)


def reshape_target(node: OnnxNode, old: tuple[int, ...]) -> list[int]:
    """The constant shape of a Reshape, zeros replaced by the sizes they stand for."""
    target = [int(v) for v in np.ravel(node.constant(1, "the shape"))]
    if node.integer("allowzero", 0):
        return target
    return [old[i] if d == 0 and i < len(old) else d for i, d in enumerate(target)]


def whole_target(old: tuple[int, ...], target: list[int]) -> tuple[int, ...]:
    """The shape of a Reshape, its -1 worked out. Raises `UnsupportedError`."""
    known = int(np.prod([d for d in target if d != -1], dtype=np.float64))
    if target.count(-1) > 1 or min(target, default=0) < -1 or known < 1 or (-1 in target and elements(old) % known):
        raise UnsupportedError(f"cannot reshape {old} to {target}", "export the model again")
    return tuple(elements(old) // known if d == -1 else d for d in target)


def import_flatten(node: OnnxNode) -> None:
    """Flatten-9/11/13/21/23 from axis 1."""
    axis = node.integer("axis", 1)
    rank = len(node.shape()) + 1
    if axis not in (1, 1 - rank):
        raise UnsupportedError(f"flattens from axis {axis}", "flatten from axis 1, the batch stays")
    _reshape(node, (1, elements(node.shape())))


def import_squeeze(node: OnnxNode) -> None:
    """Squeeze-1/11/13: drops axes of one."""
    old = (1, *node.shape())
    axes = axes_of(node, tuple(i for i, d in enumerate(old) if d == 1 and i), len(old))
    if squeeze_batch(node, axes):
        return
    if any(old[a] != 1 for a in axes) or 0 in axes:
        raise UnsupportedError(f"squeezes axes {axes} of {old}", "keep the batch, squeeze only axes of 1")
    _reshape(node, tuple(d for i, d in enumerate(old) if i not in axes))


def import_unsqueeze(node: OnnxNode) -> None:
    """Unsqueeze-1/11/13: adds axes of one."""
    old = [1, *node.shape()]
    axes = added_axes(node, len(old))
    if unsqueeze_batch(node, axes):
        return
    for axis in sorted(axes):
        old.insert(axis, 1)
    _reshape(node, tuple(old))


def added_axes(node: OnnxNode, rank: int) -> tuple[int, ...]:
    """Where an Unsqueeze of a tensor of `rank` has its new axes."""
    added = node.constant(1, "axes").size if node.has_input(1) else len(node.ints("axes", ()))
    return axes_of(node, (), rank + added)


def axes_of(node: OnnxNode, default: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Attribute or second input `axes`, counted from the front. Raises `UnsupportedError`."""
    axes = (
        tuple(int(a) for a in np.ravel(node.constant(1, "axes"))) if node.has_input(1) else node.ints("axes", default)
    )
    if any(not -rank <= a < rank for a in axes):
        raise UnsupportedError(f"axes {axes} are outside rank {rank}", "export the model again")
    return tuple(a % rank for a in axes)


def _reshape(node: OnnxNode, shape: tuple[int, ...]) -> None:
    if len(shape) < 2 or len(shape) > 4 or shape[0] != 1 or elements(shape) != elements(node.shape()):
        raise UnsupportedError(
            f"turns {(1, *node.shape())} into {shape}", "keep the batch as first axis and two to four dimensions"
        )
    node.context.add(Reshape(node.name, (node.data(0),), node.output, shape=shape[1:]), shape[1:])
