"""Folding of arithmetic on constants: functions of one element, of several operands, along axes; matrix products."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.importers import unary
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.importers.onnx_file import MAX_ELEMENTS

Array = npt.NDArray[Any]
Folder = Callable[[OnnxNode], Array]
MAX_PRODUCTS = 1 << 30
"""Multiplications of one product of constants: a second of work."""


def inputs_of(node: OnnxNode) -> list[Array]:
    """The constants a node reads, those left out not counted."""
    return [node.context.constants[i] for i in node.inputs if i]


def axes_of(node: OnnxNode) -> tuple[int, ...]:
    """Attribute or second input `axes`; () for none."""
    values = inputs_of(node)
    return tuple(int(a) for a in np.ravel(values[1])) if len(values) > 1 else node.ints("axes", ())


def require_room(*sizes: int, most: int = MAX_ELEMENTS) -> None:
    """Raises `UnsupportedError` for a constant of too many elements, before it is made."""
    if float(np.prod([float(size) for size in sizes])) > most:
        raise UnsupportedError("makes a huge constant", "use smaller constants")


def fitting(arrays: list[Array]) -> list[Array]:
    """The arrays, when what they broadcast to is not too large."""
    require_room(*np.broadcast_shapes(*(array.shape for array in arrays)))
    return arrays


def _divide(left: Array, right: Array) -> Array:
    """Div of whole numbers cuts the fraction off, where Python's `//` goes down."""
    if left.dtype.kind not in "iu":
        return np.asarray(left / right)
    _require_divisor(right)
    down = left // right
    return np.asarray(down + ((down < 0) & (down * right != left)))


def _require_divisor(right: Array) -> None:
    if right.dtype.kind in "iu" and not right.all():
        raise UnsupportedError("divides by zero", "export the model again")


def _modulo(node: OnnxNode) -> Array:
    """Mod-10/13: the sign of the divisor, with `fmod` that of the dividend."""
    left, right = fitting(inputs_of(node))
    _require_divisor(right)
    return np.asarray(np.fmod(left, right) if node.integer("fmod", 0) else np.mod(left, right))


def _two(function: Callable[..., Array], node: OnnxNode) -> Array:
    left, right = fitting(inputs_of(node))
    return np.asarray(function(left, right))


def _as_first(function: Callable[..., Array], node: OnnxNode) -> Array:
    """In the type of the first operand, as ONNX has it: numpy takes the wider of both."""
    return _two(function, node).astype(inputs_of(node)[0].dtype)


def _many(function: Callable[..., Array], node: OnnxNode) -> Array:
    return np.asarray(reduce(function, fitting(inputs_of(node))))


def _mean(node: OnnxNode) -> Array:
    return np.asarray(_many(np.add, node) / np.float32(len(inputs_of(node))))


def _one(function: Callable[..., Array], node: OnnxNode) -> Array:
    return np.asarray(function(inputs_of(node)[0]))


def _function(node: OnnxNode) -> Array:
    """What would be a table, computed here: in float64, as tables are."""
    (array, *_) = inputs_of(node)
    node.require_size(array.shape)
    return np.asarray(unary.MAKERS[node.operator](node)(array.astype(np.float64))).astype(array.dtype)


def _clip(node: OnnxNode) -> Array:
    array = inputs_of(node)[0]
    low, high = (
        node.constant(i, name) if node.has_input(i) else node.attributes.get(name)
        for i, name in ((1, "min"), (2, "max"))
    )
    for bound, function in ((low, np.maximum), (high, np.minimum)):
        if bound is not None:
            array = function(array, np.asarray(bound).reshape(()).astype(array.dtype))
    return np.asarray(array)


def _along(function: Callable[..., Array], node: OnnxNode) -> Array:
    array, axes = inputs_of(node)[0], axes_of(node)
    node.require_size(array.shape)
    if not axes and node.integer("noop_with_empty_axes", 0):
        return array
    wide = array.astype(np.float64) if array.dtype.kind == "f" else array
    made = function(wide, axis=axes or None, keepdims=bool(node.integer("keepdims", 1)))
    return np.asarray(made).astype(array.dtype)


def _matmul(node: OnnxNode) -> Array:
    left, right = inputs_of(node)
    columns = right.shape[-1] if right.ndim > 1 else 1
    batches = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    rows = left.shape[-2] if left.ndim > 1 else 1
    require_room(*batches, rows, columns)
    require_room(*batches, rows, columns, left.shape[-1], most=MAX_PRODUCTS)
    return np.asarray(left @ right)


_COMPARED: dict[str, Callable[..., Array]] = {
    "And": np.logical_and,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Or": np.logical_or,
}
_OF_TWO: dict[str, Callable[..., Array]] = {
    "Add": np.add,
    "Div": _divide,
    "Mul": np.multiply,
    "Pow": np.power,
    "Sub": np.subtract,
}
_OF_MANY: dict[str, Callable[..., Array]] = {"Max": np.maximum, "Min": np.minimum, "Sum": np.add}
_OF_ONE: dict[str, Callable[..., Array]] = {
    "Abs": np.abs,
    "Ceil": np.ceil,
    "Floor": np.floor,
    "Log": np.log,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Reciprocal": np.reciprocal,
    "Relu": lambda x: np.maximum(x, x.dtype.type(0)),
    "Sqrt": np.sqrt,
}
"""Where a table of `unary.MAKERS` has a number for what is none (the logarithm of 0), or takes no whole numbers."""
_ALONG: dict[str, Callable[..., Array]] = {
    "ReduceL1": lambda x, **along: np.sum(np.abs(x), **along),
    "ReduceL2": lambda x, **along: np.sqrt(np.sum(np.square(x), **along)),
    "ReduceMax": np.max,
    "ReduceMean": np.mean,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
    "ReduceSumSquare": lambda x, **along: np.sum(np.square(x), **along),
}

NUMBER_FOLDERS: dict[str, Folder] = {
    **dict.fromkeys(unary.MAKERS, _function),
    **{name: partial(_one, function) for name, function in _OF_ONE.items()},
    **{name: partial(_two, function) for name, function in _COMPARED.items()},
    **{name: partial(_as_first, function) for name, function in _OF_TWO.items()},
    **{name: partial(_many, function) for name, function in _OF_MANY.items()},
    **{name: partial(_along, function) for name, function in _ALONG.items()},
    "Clip": _clip,
    "MatMul": _matmul,
    "Mean": _mean,
    "Mod": _modulo,
}
