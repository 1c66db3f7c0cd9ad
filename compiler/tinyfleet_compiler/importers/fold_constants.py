"""Folding of nodes that read constants only, and of the shapes exporters compute."""

from collections.abc import Callable
from functools import partial

import numpy as np
from onnx import TensorProto, numpy_helper

from tinyfleet_compiler.importers import qdq
from tinyfleet_compiler.importers.audio_spectrum import WINDOW_FOLDERS
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.importers.onnx_file import MAX_ELEMENTS


def _constant(node: OnnxNode) -> np.ndarray:
    attributes = node.attributes
    if "value" in attributes:
        return numpy_helper.to_array(attributes["value"])
    for name, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if name in attributes:
            return np.asarray(attributes[name], dtype=dtype)
    raise UnsupportedError("holds neither a tensor nor numbers", "export the model again")


def _inputs(node: OnnxNode) -> list[np.ndarray]:
    return [node.context.constants[i] for i in node.inputs if i]


def _axes_of(node: OnnxNode) -> tuple[int, ...]:
    values = _inputs(node)
    return tuple(int(a) for a in values[1]) if len(values) > 1 else node.ints("axes", ())


def _constant_of_shape(node: OnnxNode) -> np.ndarray:
    shape = tuple(int(d) for d in _inputs(node)[0])
    if any(d < 0 for d in shape) or float(np.prod([float(d) for d in shape])) > MAX_ELEMENTS:
        raise UnsupportedError(f"makes a tensor of shape {shape}", "use smaller constants")
    value = numpy_helper.to_array(node.attributes["value"]) if "value" in node.attributes else np.zeros(1, np.float32)
    return np.full(shape, value.reshape(-1)[0])


_OF_TWO: dict[str, Callable[..., np.ndarray]] = {
    "And": np.logical_and,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Max": np.maximum,
    "Min": np.minimum,
    "Mod": np.mod,
    "Or": np.logical_or,
    "Pow": np.power,
}
_OF_ONE: dict[str, Callable[..., np.ndarray]] = {
    "Abs": np.abs,
    "Ceil": np.ceil,
    "Floor": np.floor,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Reciprocal": np.reciprocal,
    "Sqrt": np.sqrt,
}


def _two(function: Callable[..., np.ndarray], node: OnnxNode) -> np.ndarray:
    return _bounded(node, function)


def _one(function: Callable[..., np.ndarray], node: OnnxNode) -> np.ndarray:
    return np.asarray(function(_inputs(node)[0]))


def _fitting(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The arrays, when what they broadcast to is not too large."""
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    if float(np.prod([float(d) for d in shape])) > MAX_ELEMENTS:
        raise UnsupportedError("makes a huge constant", "use smaller constants")
    return arrays


def _expanded(array: np.ndarray, shape: np.ndarray) -> np.ndarray:
    wanted = np.broadcast_to(np.zeros((), array.dtype), [int(d) for d in shape])
    first, second = _fitting([array, wanted])
    return np.broadcast_to(first, np.broadcast_shapes(first.shape, second.shape)).copy()


def _range(start: np.ndarray, end: np.ndarray, step: np.ndarray) -> np.ndarray:
    if step == 0 or not abs((float(end) - float(start)) / float(step)) <= MAX_ELEMENTS:
        raise UnsupportedError(f"counts from {start} to {end} by {step}", "use smaller constants")
    return np.arange(start.item(), end.item(), step.item()).astype(start.dtype)


def _slice(node: OnnxNode) -> np.ndarray:
    """Slice-10/11/13."""
    array, starts, ends = (node.constant(i, "what is cut") for i in range(3))
    axes = node.constant(3, "axes") if node.has_input(3) else np.arange(len(starts))
    steps = node.constant(4, "steps") if node.has_input(4) else np.ones(len(starts), np.int64)
    cuts = [slice(None)] * array.ndim
    for axis, first, last, by in zip(axes, starts, ends, steps, strict=True):
        found = range(*slice(int(first), int(last), int(by)).indices(array.shape[int(axis)]))
        stop = found.stop if found.stop >= 0 else None
        cuts[int(axis)] = slice(found.start, stop, found.step) if len(found) else slice(0, 0)
    return np.asarray(array[tuple(cuts)])


def _expand(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.expand_dims(array, axes)


RESHAPERS = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Folded operators after which a constant's codes are still its codes."""
FOLDERS: dict[str, Callable[[OnnxNode], np.ndarray]] = {
    "DequantizeLinear": qdq.fold_dequantize,
    "QuantizeLinear": qdq.fold_quantize,
    **WINDOW_FOLDERS,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Identity": lambda n: _inputs(n)[0],
    "Cast": lambda n: _inputs(n)[0].astype(_numpy_type(n.integer("to", 1))),
    "Reshape": lambda n: _inputs(n)[0].reshape([int(d) for d in _inputs(n)[1]]),
    "Transpose": lambda n: _inputs(n)[0].transpose(n.ints("perm", tuple(reversed(range(_inputs(n)[0].ndim))))),
    "Concat": lambda n: np.concatenate([np.atleast_1d(a) for a in _inputs(n)], n.integer("axis", 0)),
    "Gather": lambda n: np.take(_inputs(n)[0], _inputs(n)[1], n.integer("axis", 0)),
    "Unsqueeze": lambda n: _expand(_inputs(n)[0], _axes_of(n)),
    "Squeeze": lambda n: np.squeeze(_inputs(n)[0], _axes_of(n) or None),
    "Add": lambda n: _bounded(n, np.add),
    "Sub": lambda n: _bounded(n, np.subtract),
    "Mul": lambda n: _bounded(n, np.multiply),
    "Div": lambda n: _bounded(n, np.divide if np.issubdtype(_inputs(n)[0].dtype, np.floating) else np.floor_divide),
    **{name: partial(_two, function) for name, function in _OF_TWO.items()},
    **{name: partial(_one, function) for name, function in _OF_ONE.items()},
    "Expand": lambda n: _expanded(_inputs(n)[0], _inputs(n)[1]),
    "Range": lambda n: _range(*(array.reshape(-1)[0] for array in _inputs(n))),
    "ReduceProd": lambda n: np.prod(_inputs(n)[0], axis=_axes_of(n) or None, keepdims=bool(n.integer("keepdims", 1))),
    "Slice": lambda n: _slice(n),
    "Where": lambda n: np.where(*_fitting(_inputs(n))),
}


def _bounded(node: OnnxNode, function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    left, right = _inputs(node)
    if float(np.prod([float(d) for d in np.broadcast_shapes(left.shape, right.shape)])) > MAX_ELEMENTS:
        raise UnsupportedError("makes a huge constant", "use smaller constants")
    return np.asarray(function(left, right))


def _numpy_type(code: int) -> type[np.generic]:
    known: dict[int, type[np.generic]] = {
        TensorProto.FLOAT: np.float32,
        TensorProto.INT32: np.int32,
        TensorProto.INT64: np.int64,
        TensorProto.BOOL: np.bool_,
        TensorProto.FLOAT16: np.float16,
        TensorProto.DOUBLE: np.float64,
    }
    if code not in known:
        raise UnsupportedError(f"casts to type {code}", "export float32 or int64 constants")
    return known[code]


def fold_constant(node: OnnxNode) -> np.ndarray | None:
    """Value of a node all of whose inputs are constants, None when it is none. Raises `UnsupportedError`."""
    constants = node.context.constants
    if node.operator == "Shape" and node.has_input(0) and node.inputs[0] in node.context.shapes:
        shape, at = node.context.shapes[node.inputs[0]], node.context.batch_axes.get(node.inputs[0], 0)
        full = np.asarray((*shape[:at], 1, *shape[at:]), dtype=np.int64)
        return full[node.integer("start", 0) : node.attributes.get("end")]
    if node.operator not in FOLDERS or any(i and i not in constants for i in node.inputs):
        return None
    try:
        dequantized = node.context.dequantized
        if node.operator in RESHAPERS and node.inputs[0] in dequantized:
            dequantized[node.output] = dequantized[node.inputs[0]]
        return np.asarray(FOLDERS[node.operator](node))
    except (ValueError, IndexError, TypeError, KeyError, ZeroDivisionError) as error:
        raise UnsupportedError(f"cannot be folded: {error}", "export the model again") from error
