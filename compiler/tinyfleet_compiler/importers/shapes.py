"""Importers that move or rename data: Transpose, Identity, Dropout, and the folding of constant nodes."""

from collections.abc import Callable

import numpy as np
from onnx import numpy_helper

from tinyfleet_compiler.graph import Transpose
from tinyfleet_compiler.importers import qdq
from tinyfleet_compiler.importers.audio_spectrum import WINDOW_FOLDERS
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.importers.onnx_file import MAX_ELEMENTS
from tinyfleet_compiler.importers.recurrent import transpose_batch


def import_transpose(node: OnnxNode) -> None:
    """Transpose-1/13; a batch of 1 may move, as around recurrent layers."""
    if transpose_batch(node):
        return
    rank = len(node.shape()) + 1
    perm = node.ints("perm", tuple(reversed(range(rank))))
    if sorted(perm) != list(range(rank)) or perm[0] != 0:
        raise UnsupportedError(f"permutes axes {perm}", "leave the batch as first axis")
    inner = tuple(p - 1 for p in perm[1:])
    shape = tuple(node.shape()[p] for p in inner)
    node.context.add(Transpose(node.name, (node.data(0),), node.output, perm=inner), shape)


def import_identity(node: OnnxNode) -> None:
    """Identity, and Dropout in inference: the same tensor under another name."""
    node.context.aliases[node.output] = node.data(0)


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
}


def _bounded(node: OnnxNode, function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    left, right = _inputs(node)
    if float(np.prod([float(d) for d in np.broadcast_shapes(left.shape, right.shape)])) > MAX_ELEMENTS:
        raise UnsupportedError("makes a huge constant", "use smaller constants")
    return np.asarray(function(left, right))


def _numpy_type(code: int) -> type[np.generic]:
    known: dict[int, type[np.generic]] = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}
    if code not in known:
        raise UnsupportedError(f"casts to type {code}", "export float32 or int64 constants")
    return known[code]


def fold_constant(node: OnnxNode) -> np.ndarray | None:
    """Value of a node all of whose inputs are constants, None when it is none. Raises `UnsupportedError`."""
    constants = node.context.constants
    if node.operator == "Shape" and node.has_input(0) and node.inputs[0] in node.context.shapes:
        return np.asarray((1, *node.context.shapes[node.inputs[0]]), dtype=np.int64)[
            node.integer("start", 0) : node.attributes.get("end")
        ]
    if node.operator not in FOLDERS or any(i and i not in constants for i in node.inputs):
        return None
    try:
        dequantized = node.context.dequantized
        if node.operator in RESHAPERS and node.inputs[0] in dequantized:
            dequantized[node.output] = dequantized[node.inputs[0]]
        return np.asarray(FOLDERS[node.operator](node))
    except (ValueError, IndexError, TypeError, KeyError, ZeroDivisionError) as error:
        raise UnsupportedError(f"cannot be folded: {error}", "export the model again") from error
