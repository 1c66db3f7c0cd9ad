"""Int8 operators over two operands with broadcasting, as NUMERICS.md states them."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.kernels.finish import Array, Int8, finish
from tinyfleet_compiler.layout import ADD_LEFT_SHIFT, SQUARED_DIFFERENCE_LEFT_SHIFT
from tinyfleet_compiler.numerics import (
    INT32_MAX,
    high_mul,
    leading_zeros,
    reciprocal_one_plus,
    rescale,
    round_shift,
)
from tinyfleet_compiler.operators import Element, OpCode, OpFlag

Operands = tuple[Array, Array]


def walk_index(dims: tuple[int, ...], repeats: int) -> npt.NDArray[np.int64]:
    """Element of an operand that every output element meets, in output order."""
    shape = [1 if repeats >> axis & 1 else size for axis, size in enumerate(dims)]
    return np.broadcast_to(np.arange(np.prod(shape)).reshape(shape), dims).reshape(-1)


def _operands(image: Image, op: ImageOp, arena: Int8) -> Operands:
    """Both operands less their zero points, (N or 1, size) int64."""
    a = arena[:, op.input + walk_index(op.dims, op.repeats)].astype(np.int64)
    index = walk_index(op.dims, op.repeats_b)
    if OpFlag.CONSTANT_B in OpFlag(op.flags):
        b = image.array(op.input_b, int(index.max()) + 1, Element.INT8)[None, index].astype(np.int64)
    else:
        b = arena[:, op.input_b + index].astype(np.int64)
    return a - op.input_zero_point, b - op.input_b_zero_point


def _scaled(op: ImageOp, a: Array, b: Array, left_shift: int) -> Operands:
    return (
        rescale(a << left_shift, op.input_multiplier, op.input_shift),
        rescale(b << left_shift, op.input_b_multiplier, op.input_b_shift),
    )


def _add(op: ImageOp, a: Array, b: Array) -> Array:
    left, right = _scaled(op, a, b, ADD_LEFT_SHIFT)
    return rescale(left + right, op.output_multiplier, op.output_shift)


def _subtract(op: ImageOp, a: Array, b: Array) -> Array:
    left, right = _scaled(op, a, b, ADD_LEFT_SHIFT)
    difference = right - left if OpFlag.SWAPPED in OpFlag(op.flags) else left - right
    return rescale(difference, op.output_multiplier, op.output_shift)


def _multiply(op: ImageOp, a: Array, b: Array) -> Array:
    return rescale(a * b, op.output_multiplier, op.output_shift)


def _divide(op: ImageOp, a: Array, b: Array) -> Array:
    if OpFlag.SWAPPED in OpFlag(op.flags):
        a, b = b, a
    a, b = np.broadcast_arrays(np.where(b < 0, -a, a), b)
    below = np.maximum(np.abs(b), 1)
    zeros = leading_zeros(below)
    free = np.where(a < 0, ~a, a)
    headroom = np.where(free == 0, 31, leading_zeros(free) - 1)
    quotient = high_mul(a << headroom, reciprocal_one_plus((below << zeros) - (1 << 31)))
    right = 31 - zeros + headroom - op.output_shift
    rounded = round_shift(high_mul(quotient, op.output_multiplier), np.clip(right, 0, 31))
    # The zero points of the output are at most 128: these stay beyond every clamp.
    endless = np.sign(a) * (INT32_MAX // 2)
    return np.asarray(np.where(b == 0, endless, np.where(right > 31, 0, rounded)))


def _minimum(op: ImageOp, a: Array, b: Array) -> Array:
    return np.asarray(np.minimum(*_scaled(op, a, b, 0)))


def _maximum(op: ImageOp, a: Array, b: Array) -> Array:
    return np.asarray(np.maximum(*_scaled(op, a, b, 0)))


def _squared_difference(op: ImageOp, a: Array, b: Array) -> Array:
    left, right = _scaled(op, a, b, SQUARED_DIFFERENCE_LEFT_SHIFT)
    return rescale(np.square(left - right), op.output_multiplier, op.output_shift)


def _kernel(combine: Callable[[ImageOp, Array, Array], Array]) -> Callable[[Image, ImageOp, Int8], Int8]:
    return lambda image, op, arena: finish(op, combine(op, *_operands(image, op, arena)))


KERNELS: dict[OpCode, Callable[[Image, ImageOp, Int8], Int8]] = {
    OpCode.ADD_BROADCAST: _kernel(_add),
    OpCode.SUB: _kernel(_subtract),
    OpCode.MUL: _kernel(_multiply),
    OpCode.DIV: _kernel(_divide),
    OpCode.MINIMUM: _kernel(_minimum),
    OpCode.MAXIMUM: _kernel(_maximum),
    OpCode.SQUARED_DIFFERENCE: _kernel(_squared_difference),
}
