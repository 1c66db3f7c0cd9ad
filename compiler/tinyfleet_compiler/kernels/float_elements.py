"""Float32 operators that work element by element or over two operands, as NUMERICS.md section 7 states them."""

from collections.abc import Callable

import numpy as np

from tinyfleet_compiler import float_math
from tinyfleet_compiler.float_math import F32
from tinyfleet_compiler.image import ELEMENT_TYPES, Image, ImageOp
from tinyfleet_compiler.kernels.binary import walk_index
from tinyfleet_compiler.kernels.finish import Array, Int8
from tinyfleet_compiler.kernels.float_windows import finish, inputs
from tinyfleet_compiler.numerics import dequantize, quantize
from tinyfleet_compiler.operators import ELEMENT_BYTES, Element, Function, OpCode, OpFlag

ONE, HALF = np.float32(1), np.float32(0.5)


def smaller(a: F32, b: F32) -> F32:
    """The second of two equals; not-a-number where either is."""
    return np.where((a < b) | np.isnan(a), a, b)


def larger(a: F32, b: F32) -> F32:
    """The second of two equals; not-a-number where either is."""
    return np.where((a > b) | np.isnan(a), a, b)


def _binary(combine: Callable[[F32, F32], F32]) -> Callable[[Image, ImageOp, Int8], F32]:
    def kernel(image: Image, op: ImageOp, arena: Int8) -> F32:
        index, index_b = walk_index(op.dims, op.repeats), walk_index(op.dims, op.repeats_b)
        a, span = inputs(op, arena, int(index.max()) + 1)[:, index], int(index_b.max()) + 1
        if OpFlag.CONSTANT_B in OpFlag(op.flags):
            b = image.array(op.input_b, span, Element.FLOAT32)[None, index_b]
        else:
            b = float_math.view(arena[:, op.input_b : op.input_b + 4 * span])[:, index_b]
        return finish(op, combine(b, a) if OpFlag.SWAPPED in OpFlag(op.flags) else combine(a, b))

    return kernel


def _celu(x: F32, alpha: np.float32) -> F32:
    negative = np.asarray(np.where(x > 0, np.float32(0), x) / alpha, np.float32)
    return np.where(x > 0, x, alpha * float_math.expm1(negative))


def _elu(x: F32, alpha: np.float32, gamma: np.float32) -> F32:
    negative = alpha * float_math.expm1(np.where(x > 0, np.float32(0), x))
    return gamma * np.where(x > 0, x, negative)


def _unit(x: F32) -> F32:
    return np.where(x < 0, np.float32(0), np.where(x > ONE, ONE, x))


FUNCTIONS: dict[Function, Callable[[F32, np.float32, np.float32], F32]] = {
    Function.IDENTITY: lambda x, a, b: x,
    Function.ABS: lambda x, a, b: np.abs(x),
    Function.NEGATE: lambda x, a, b: -x,
    Function.SIGN: lambda x, a, b: np.where(x > 0, ONE, np.where(x < 0, -ONE, x)),
    Function.FLOOR: lambda x, a, b: np.floor(x),
    Function.CEIL: lambda x, a, b: np.ceil(x),
    Function.ROUND: lambda x, a, b: np.rint(x),
    Function.SQRT: lambda x, a, b: np.sqrt(np.where(x < 0, np.float32(0), x)),
    Function.LEAKY_RELU: lambda x, a, b: np.where(x < 0, a * x, x),
    Function.HARD_SIGMOID: lambda x, a, b: _unit(a * x + b),
    Function.HARD_SWISH: lambda x, a, b: x * _unit(x / np.float32(6) + HALF),
    Function.SOFTSIGN: lambda x, a, b: np.asarray(x / (ONE + np.abs(x)), np.float32),
    Function.RECIPROCAL: lambda x, a, b: np.asarray(ONE / x, np.float32),
    Function.THRESHOLDED_RELU: lambda x, a, b: np.where(x > a, x, np.where(np.isnan(x), x, np.float32(0))),
    Function.WHOLE_POWER: lambda x, a, b: float_math.whole_power(x, int(a)),
    Function.EXP: lambda x, a, b: float_math.exp(x),
    Function.LOG: lambda x, a, b: float_math.log(x),
    Function.SIGMOID: lambda x, a, b: float_math.sigmoid(x),
    Function.TANH: lambda x, a, b: float_math.tanh(x),
    Function.ELU: _elu,
    Function.CELU: lambda x, a, b: _celu(x, a),
    Function.SOFTPLUS: lambda x, a, b: float_math.softplus(x),
    Function.MISH: lambda x, a, b: float_math.mish(x),
    Function.ERF: lambda x, a, b: float_math.erf(x),
    Function.GELU: lambda x, a, b: float_math.gelu(x),
    Function.GELU_TANH: lambda x, a, b: float_math.gelu_tanh(x),
    Function.POWER: lambda x, a, b: float_math.power(x, float(a)),
    Function.SIN: lambda x, a, b: float_math.sin(x),
    Function.COS: lambda x, a, b: float_math.cos(x),
}


def _unary(image: Image, op: ImageOp, arena: Int8) -> F32:
    x = inputs(op, arena, op.size)
    return finish(op, FUNCTIONS[Function(op.function)](x, np.float32(op.alpha), np.float32(op.beta)))


def _prelu(image: Image, op: ImageOp, arena: Int8) -> F32:
    slopes = np.resize(image.array(op.slopes, op.slope_count, Element.FLOAT32), op.size)
    x = inputs(op, arena, op.size)
    return finish(op, np.where(x < 0, x * slopes, x))


def _dequantize(image: Image, op: ImageOp, arena: Int8) -> F32:
    element = Element(op.input_element)
    codes = np.ascontiguousarray(arena[:, op.input : op.input + op.size * ELEMENT_BYTES[element]])
    return dequantize(codes.view(ELEMENT_TYPES[element]), op.scale, op.zero_point)


def _quantize(image: Image, op: ImageOp, arena: Int8) -> Array:
    return quantize(inputs(op, arena, op.size), op.scale, op.zero_point, ELEMENT_TYPES[Element(op.output_element)])


KERNELS: dict[OpCode, Callable[[Image, ImageOp, Int8], Array]] = {
    OpCode.ADD_F32: _binary(lambda a, b: a + b),
    OpCode.SUB_F32: _binary(lambda a, b: a - b),
    OpCode.MUL_F32: _binary(lambda a, b: a * b),
    OpCode.DIV_F32: _binary(lambda a, b: a / b),
    OpCode.MINIMUM_F32: _binary(smaller),
    OpCode.MAXIMUM_F32: _binary(larger),
    OpCode.PRELU_F32: _prelu,
    OpCode.UNARY_F32: _unary,
    OpCode.EXPONENTIAL_F32: _unary,
    OpCode.TRIGONOMETRIC_F32: _unary,
    OpCode.DEQUANTIZE: _dequantize,
    OpCode.QUANTIZE: _quantize,
}
