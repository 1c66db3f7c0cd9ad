"""Importers of TFLite's operators over two operands that broadcast: ADD, SUB, MUL, DIV, MINIMUM, MAXIMUM."""

from typing import Any

import numpy as np
import numpy.typing as npt
import tflite

from tinyfleet_compiler.graph import Add, Binary, BinaryOperator, Shape, elements
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.tflite_context import CODES, TfNode, activation_bounds, read_quantization
from tinyfleet_compiler.importers.tflite_file import TfTensor
from tinyfleet_compiler.layout import ADD_LEFT_SHIFT_INT16
from tinyfleet_compiler.numerics import quantize_multiplier
from tinyfleet_compiler.operators import Element
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.quantize.taken import TakenConstant

_OPTIONS = {
    "ADD": tflite.AddOptions,
    "DIV": tflite.DivOptions,
    "MUL": tflite.MulOptions,
    "SUB": tflite.SubOptions,
}
_OPERATORS = {
    "ADD": BinaryOperator.ADD,
    "SUB": BinaryOperator.SUB,
    "MUL": BinaryOperator.MUL,
    "DIV": BinaryOperator.DIV,
    "MINIMUM": BinaryOperator.MIN,
    "MAXIMUM": BinaryOperator.MAX,
    "SQUARED_DIFFERENCE": BinaryOperator.SQUARED_DIFFERENCE,
}
MOST_PRODUCT_SHIFT = 14
"""Products of two codes take 17 bits: so many to the left stay in int32."""


def import_binary(node: TfNode) -> None:
    """Two activations, or one and a constant; each axis of 1 repeats."""
    low, high = -np.inf, np.inf
    if node.operator in _OPTIONS:
        low, high = activation_bounds(node.item.options(_OPTIONS[node.operator]).FusedActivationFunction())
    constants = [i for i in (0, 1) if node.is_constant(i)]
    if len(constants) == 2:
        raise UnsupportedError("has two constants", "fold constants before export")
    swapped = constants == [0] and node.operator in ("DIV", "SUB")  # the others commute
    names = tuple(node.data(i) for i in (0, 1) if i not in constants)
    shape = node.context.shapes[names[0]]
    output = node.context.define(node.output.index)
    constant = _constant(node, node.tensor(constants[0]), len(shape), output) if constants else None
    other = constant.shape if constant is not None else node.context.shapes[names[-1]]
    if np.broadcast_shapes(shape, other) != node.context.shapes[output] or len(shape) != len(other):
        raise UnsupportedError(
            f"joins {shape} and {other} to {node.context.shapes[output]}", "give both operands the same number of axes"
        )
    _check_scales(node, output, names, constant is not None)
    common: dict[str, Any] = {"low": low, "high": high}
    if node.operator == "ADD" and _fits_add(shape, other, node.context.shapes[output], constant=constant is not None):
        flat = None if constant is None else constant.reshape(-1)
        node.add(Add(node.name, names, output, constant=flat, **common))
        return
    common |= {"operator": _OPERATORS[node.operator], "swapped": swapped}
    node.add(Binary(node.name, names, output, constant=constant, **common))


def _fits_add(shape: Shape, other: Shape, result: Shape, *, constant: bool) -> bool:
    """Whether the smaller ADD record will do: equal shapes, or a constant that repeats along leading axes only."""
    repeats = constant and any(other == (*[1] * axis, *shape[axis:]) for axis in range(len(shape) + 1))
    return shape == result and (repeats or shape == other)


def _constant(node: TfNode, tensor: TfTensor, rank: int, output: str) -> npt.NDArray[np.float32]:
    """Real values with `rank` axes; in a quantised graph the codes are kept for the image."""
    shape = (*[1] * (rank + 1 - len(tensor.shape)), *tensor.shape)[-rank:]
    if tensor.values.size == 0 or elements(shape) != tensor.values.size:
        raise UnsupportedError(f"has a constant of shape {tensor.shape}", "give both operands the same number of axes")
    values = tensor.values.reshape(shape)
    if not node.quantized:
        if values.dtype != np.float32:
            raise UnsupportedError(f"has a constant of type {tensor.type}", "use float32")
        return values
    quantization = read_quantization(tensor)
    shifted = values.astype(np.int32) - (128 if tensor.type == "UINT8" else 0)
    codes = shifted.astype(np.int16) if tensor.type == "INT16" else shifted.astype(np.int8)
    node.context.constants[output] = TakenConstant(codes, quantization)
    return np.asarray((codes.astype(np.float64) - quantization.zero_point) * quantization.scale, np.float32)


def _check_scales(node: TfNode, output: str, names: tuple[str, ...], constant: bool) -> None:
    """TFLM's MINIMUM and MAXIMUM compare codes; ratios of the others must keep what a multiplier can hold."""
    if not node.quantized:
        return
    if any(node.source_type(i) not in CODES for i in (0, 1)):
        raise UnsupportedError("joins codes and other numbers", "quantise the whole model")
    if len({node.source_type(i) == "INT16" for i in (0, 1)}) > 1:  # a constant of another type
        raise UnsupportedError("joins int16 and int8", "put a QUANTIZE between them")
    parameters = [node.context.parameters[name] for name in names]
    if constant:
        parameters.append(node.context.constants[output].quantization)
    result = node.context.parameters[output]
    if node.operator in ("MINIMUM", "MAXIMUM") and any(q != result for q in parameters):
        raise UnsupportedError("compares numbers of different scales", "give operands and output one scale")
    scales = [q.scale for q in (*parameters, *parameters)][:2]
    wide = result.element is Element.INT16
    ratio = scales[0] * scales[1] / result.scale if node.operator == "MUL" else max(scales) / result.scale / 2.0**18
    if node.operator == "DIV":
        _check_quotient(node, output, [*parameters, *parameters][:2], result, constant=constant)
        return
    if node.operator == "SQUARED_DIFFERENCE":
        ratio = max(scales) ** 2 / result.scale / 2.0**12
    if node.operator != "MUL" and wide:
        ratio = 2.0 * max(scales) / result.scale / 2.0**ADD_LEFT_SHIFT_INT16
    if quantize_multiplier(ratio)[1] > (MOST_PRODUCT_SHIFT if node.operator == "MUL" and not wide else 0):
        raise UnsupportedError("has a vanishing output scale", "quantise again with typical samples")


def _check_quotient(
    node: TfNode, output: str, operands: list[Quantization], result: Quantization, *, constant: bool
) -> None:
    """TFLM divides by what it is given: a zero in a constant has no quotient."""
    codes = node.context.constants[output] if constant else None
    if codes is not None and not node.is_constant(0) and (codes.codes == codes.quantization.zero_point).any():
        raise UnsupportedError("divides by a constant that is zero", "remove the zeros")
    if max(q.scale for q in operands) / min(q.scale for q in operands) / result.scale > 2.0**22:
        raise UnsupportedError("has a vanishing scale", "quantise again with typical samples")
