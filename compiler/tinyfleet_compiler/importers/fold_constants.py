"""Folding of nodes that read constants only, and of the shapes exporters compute."""

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, numpy_helper

from tinyfleet_compiler.graph import elements
from tinyfleet_compiler.importers import qdq
from tinyfleet_compiler.importers.audio_spectrum import WINDOW_FOLDERS
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.importers.dense import reshape_target
from tinyfleet_compiler.importers.fold_numbers import NUMBER_FOLDERS, axes_of, fitting, inputs_of, require_room
from tinyfleet_compiler.importers.moves import split_sizes
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


def _constant_of_shape(node: OnnxNode) -> np.ndarray:
    shape = tuple(int(d) for d in inputs_of(node)[0])
    if any(d < 0 for d in shape) or float(np.prod([float(d) for d in shape])) > MAX_ELEMENTS:
        raise UnsupportedError(f"makes a tensor of shape {shape}", "use smaller constants")
    value = numpy_helper.to_array(node.attributes["value"]) if "value" in node.attributes else np.zeros(1, np.float32)
    return np.full(shape, value.reshape(-1)[0])


def _expanded(array: np.ndarray, shape: np.ndarray) -> np.ndarray:
    wanted = np.broadcast_to(np.zeros((), array.dtype), [int(d) for d in shape])
    first, second = fitting([array, wanted])
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


def _reshape(node: OnnxNode) -> np.ndarray:
    """Reshape-5/13/14."""
    array = inputs_of(node)[0]
    return array.reshape(reshape_target(node, array.shape))


def _flatten(node: OnnxNode) -> np.ndarray:
    array, axis = inputs_of(node)[0], node.integer("axis", 1)
    axis += array.ndim if axis < 0 else 0
    return array.reshape(elements(array.shape[:axis]), -1)


def _concat(node: OnnxNode) -> np.ndarray:
    parts = [np.atleast_1d(array) for array in inputs_of(node)]
    require_room(sum(part.size for part in parts))
    return np.concatenate(parts, node.integer("axis", 0))


def _gather(node: OnnxNode) -> np.ndarray:
    array, indices = inputs_of(node)
    axis = node.integer("axis", 0)
    require_room(array.size // max(array.shape[axis], 1), indices.size)
    return np.asarray(np.take(array, indices, axis))


def _tile(node: OnnxNode) -> np.ndarray:
    array, repeats = inputs_of(node)
    require_room(array.size, *(int(r) for r in repeats))
    return np.tile(array, [int(r) for r in repeats])


def _split(node: OnnxNode) -> np.ndarray:
    """Split-11/13/18: the first part; the others are written here."""
    array = inputs_of(node)[0]
    axis = node.integer("axis", 0)
    ends = np.cumsum(split_sizes(node, array.shape[axis]))
    first, *rest = np.split(array, ends[:-1], axis)
    node.context.constants.update(zip(node.proto.output[1:], rest, strict=True))
    return first


def _expand(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.expand_dims(array, axes)


SIZES = ("Shape", "Size")
"""Operators that read no values: also of an activation they give a constant."""
RESHAPERS = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Folded operators after which a constant's codes are still its codes."""
FOLDERS: dict[str, Callable[[OnnxNode], np.ndarray]] = {
    "DequantizeLinear": qdq.fold_dequantize,
    "QuantizeLinear": qdq.fold_quantize,
    **WINDOW_FOLDERS,
    **NUMBER_FOLDERS,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Identity": lambda n: inputs_of(n)[0],
    "Cast": lambda n: inputs_of(n)[0].astype(_numpy_type(n.integer("to", 1))),
    "Reshape": _reshape,
    "Transpose": lambda n: inputs_of(n)[0].transpose(n.ints("perm", tuple(reversed(range(inputs_of(n)[0].ndim))))),
    "Concat": _concat,
    "Gather": _gather,
    "Unsqueeze": lambda n: _expand(inputs_of(n)[0], axes_of(n)),
    "Squeeze": lambda n: np.squeeze(inputs_of(n)[0], axes_of(n) or None),
    "Expand": lambda n: _expanded(inputs_of(n)[0], inputs_of(n)[1]),
    "Range": lambda n: _range(*(array.reshape(-1)[0] for array in inputs_of(n))),
    "Flatten": _flatten,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
    "Where": lambda n: np.where(*fitting(inputs_of(n))),
}


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
    if node.operator in SIZES and (full := _known_shape(node)) is not None:
        return (
            full[node.integer("start", 0) : node.attributes.get("end")]
            if node.operator == "Shape"
            else np.asarray(full.prod())
        )
    if node.operator not in FOLDERS or any(i and i not in constants for i in node.inputs):
        return None
    try:
        dequantized = node.context.dequantized
        if node.operator in RESHAPERS and node.inputs[0] in dequantized:
            dequantized[node.output] = dequantized[node.inputs[0]]
        with np.errstate(all="ignore"):  # 1 / 0 is infinite, as ONNX has it; who cannot use that says so
            return np.asarray(FOLDERS[node.operator](node))
    except (ValueError, IndexError, TypeError, KeyError, ZeroDivisionError) as error:
        raise UnsupportedError(f"cannot be folded: {error}", "export the model again") from error


def _known_shape(node: OnnxNode) -> np.ndarray | None:
    """The shape of the first input, with its batch; None where it has none (audio on the way to features)."""
    name = node.inputs[0] if node.inputs else ""
    if name in node.context.constants:
        return np.asarray(node.context.constants[name].shape, np.int64)
    if name in node.context.wide:
        return np.asarray(node.context.wide[name].shape, np.int64)
    if name not in node.context.shapes:
        return None
    shape, at = node.context.shapes[name], node.context.batch_axes.get(name, 0)
    return np.asarray((*shape[:at], 1, *shape[at:]), np.int64)
