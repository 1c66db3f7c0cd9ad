"""Builders of operators on int16 tensors whose records have no int8 twin (NUMERICS.md section 8)."""

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.build_scope import Op, Scope, make_op
from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.functions import sigmoid
from tinyfleet_compiler.graph import Clip, Lookup, Softmax, elements
from tinyfleet_compiler.numerics import quantize_multiplier
from tinyfleet_compiler.operators import Element, Function, OpCode
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.tables_int16 import INT16_MAX, INT16_MIN, interpolation_table

_MOST_SHIFT = 14
"""17-bit differences may be shifted left this far and stay inside int32."""
_TABLE_STEPS = 12288.0
"""LOGISTIC and TANH read their table at input x 3 x 2^12."""


def lookup(scope: Scope, node: Lookup) -> Op:
    """LOGISTIC_INT16, TANH_INT16, or LUT_INT16 for any other function."""
    size = elements(scope.graph.shapes[node.output])
    source, result = scope.quantization(node.inputs[0]), scope.quantization(node.output)
    if node.function in (sigmoid, np.tanh):
        multiplier, shift = _table_multiplier(node, source.scale)
        code = OpCode.LOGISTIC_INT16 if node.function is sigmoid else OpCode.TANH_INT16
        return make_op(scope, node, code, 0, {"size": size, "multiplier": multiplier, "right_shift": shift})
    unary = node.unary
    if unary is not None and unary.function is Function.LEAKY_RELU and unary.alpha >= 0.0:
        return _leaky_relu(scope, node, unary.alpha)
    return make_op(scope, node, OpCode.LUT_INT16, 0, {"size": size}, constant=lookup_table(node, source, result))


def _leaky_relu(scope: Scope, node: Lookup, slope: float) -> Op:
    source, result = (scope.quantization(name).scale for name in (node.inputs[0], node.output))
    fields = {"size": elements(scope.graph.shapes[node.output])}
    for name, real in (("", source / result), ("slope_", source * slope / result)):
        multiplier, shift = quantize_multiplier(real)
        if shift > _MOST_SHIFT:
            raise ModelError(f"'{node.name}' keeps a vanishing part of its input's range; calibrate with real samples")
        fields |= {f"{name}multiplier": multiplier, f"{name}shift": shift}
    return make_op(scope, node, OpCode.LEAKY_RELU_INT16, 0, fields)


def _table_multiplier(node: Lookup, scale: float) -> tuple[int, int]:
    """(multiplier, right shift) as TFLM prepares them: the multiplier is cut, not rounded."""
    real, shift = scale * _TABLE_STEPS, 0
    while real <= INT16_MAX / 2.0 and shift <= 30:
        real, shift = real * 2.0, shift + 1
    if real > INT16_MAX:
        raise ModelError(f"'{node.name}' has an input scale of {scale:g}; quantise it with typical samples")
    return int(real), shift


def lookup_table(node: Lookup, source: Quantization, result: Quantization) -> npt.NDArray[np.int16]:
    """513 outputs for the inputs -32768, -32640 .. 32768, in float64."""

    def real(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        with np.errstate(all="ignore"):
            return np.clip(np.nan_to_num(node.function(x) / result.scale, nan=0.0), 4.0 * INT16_MIN, 4.0 * INT16_MAX)

    return interpolation_table(real, INT16_MIN * source.scale, -INT16_MIN * source.scale, 1.0, np.float64)


def rescale(scope: Scope, node: Clip) -> Op:
    """RESCALE_INT16: either side may be int8."""
    source, result = scope.quantization(node.inputs[0]), scope.quantization(node.output)
    multiplier, shift = quantize_multiplier(source.scale / result.scale)
    if shift > _MOST_SHIFT:
        raise ModelError(
            f"'{node.name}' keeps a vanishing part of its input's range; remove it or calibrate with real samples"
        )
    size = elements(scope.graph.shapes[node.output])
    widens = source.element is Element.INT8 and result.element is Element.INT16
    fields = {
        "size": size,
        "multiplier": multiplier,
        "shift": shift,
        "input_element": source.element,
        "output_element": result.element,
    }
    # Element i of a wider output ends where element 2i + 1 of its input did: nothing unread may lie below it.
    return make_op(scope, node, OpCode.RESCALE_INT16, size - 1 if widens else 0, fields)


def softmax(scope: Scope, node: Softmax) -> Op:
    """SOFTMAX_INT16."""
    shape = scope.graph.shapes[node.inputs[0]]
    multiplier, shift = quantize_multiplier(scope.quantization(node.inputs[0]).scale * node.beta / (10.0 / 65535.0))
    if shift > _MOST_SHIFT:
        raise ModelError(f"'{node.name}' has a wide input range; calibrate with typical samples")
    fields = {"rows": elements(shape[:-1]), "columns": shape[-1], "multiplier": multiplier, "shift": shift}
    return make_op(scope, node, OpCode.SOFTMAX, 0, fields)
