"""Int16 operators as NUMERICS.md section 8 states them: (image, record, arenas (N, bytes)) -> (N, size)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.kernels.binary import walk_index
from tinyfleet_compiler.kernels.windows import Geometry, convolve, pad_image, tap_counts, taps, transpose_convolve
from tinyfleet_compiler.layout import ADD_LEFT_SHIFT_INT16, LUT_INT16_ENTRIES, NO_OFFSET
from tinyfleet_compiler.numerics import lookup_int16, rescale, rescale_wide
from tinyfleet_compiler.operators import Element, OpCode, OpFlag
from tinyfleet_compiler.tables_int16 import EXP, INT16_MAX, INT16_MIN, RECIPROCAL, SIGMOID

Int8 = npt.NDArray[np.int8]
Array = npt.NDArray[Any]


def read_codes(arena: Int8, offset: int, count: int, element: Element = Element.INT16) -> npt.NDArray[np.int64]:
    """(N, count) codes of a tensor."""
    size = 2 if element is Element.INT16 else 1
    part = np.ascontiguousarray(arena[:, offset : offset + size * count])
    return part.view("<i2" if size == 2 else np.int8).astype(np.int64)


def _clamp(op: ImageOp, values: Array) -> Array:
    return np.clip(values, op.activation_min, op.activation_max).astype(np.int16).reshape(len(values), -1)


def _geometry(op: ImageOp) -> Geometry:
    return Geometry(**{name: op.fields[name] for name in Geometry.__dataclass_fields__})


def _pixels(op: ImageOp, arena: Int8, g: Geometry) -> Array:
    codes = read_codes(arena, op.input, g.in_h * g.in_w * g.in_c)
    return codes.reshape(len(arena), g.in_h, g.in_w, g.in_c)


def _requantize(image: Image, op: ImageOp, sums: Array, channels: int) -> Array:
    low, multipliers, shifts = image.channels(op, channels)
    biases = low.astype(np.int64)
    if op.biases_high != NO_OFFSET:
        high = image.array(op.biases_high, channels, Element.INT16).astype(np.int64)
        biases = (high << 32) + (biases & 0xFFFFFFFF)
    return _clamp(op, rescale_wide(sums.astype(np.int64) + biases, multipliers, shifts))


def _weights(image: Image, op: ImageOp, rows: int, length: int) -> Array:
    # Sums of 2^15 x 2^7 stay exact in float64 up to 2^31 of them.
    return image.array(op.weights, rows * length, Element.INT8).reshape(rows, length).astype(np.float64)


def _convolution(image: Image, op: ImageOp, arena: Int8) -> Array:
    g = _geometry(op)
    per_group = g.in_c // g.groups
    rows = _weights(image, op, g.out_c, g.kernel_h * g.kernel_w * per_group)
    padded = pad_image(_pixels(op, arena, g).astype(np.float64), g, 0.0)
    sums = convolve(padded, rows.reshape(g.out_c, g.kernel_h, g.kernel_w, per_group), g)
    return _requantize(image, op, sums, g.out_c)


def _transpose_convolution(image: Image, op: ImageOp, arena: Int8) -> Array:
    g = _geometry(op)
    rows = _weights(image, op, g.out_c, g.kernel_h * g.kernel_w * (g.in_c // g.groups))
    weights = rows.reshape(g.out_c, g.kernel_h, g.kernel_w, -1)
    sums = transpose_convolve(_pixels(op, arena, g).astype(np.float64), weights, g)
    return _requantize(image, op, sums, g.out_c)


def _fully_connected(image: Image, op: ImageOp, arena: Int8) -> Array:
    rows = _weights(image, op, op.out_features, op.in_features)
    x = read_codes(arena, op.input, op.rows * op.in_features).astype(np.float64)
    sums: Array = x.reshape(len(arena), op.rows, op.in_features) @ rows.T
    return _requantize(image, op, sums, op.out_features)


def _operands(image: Image, op: ImageOp, arena: Int8) -> tuple[Array, Array]:
    index, index_b = walk_index(op.dims, op.repeats), walk_index(op.dims, op.repeats_b)
    a = read_codes(arena, op.input, int(index.max()) + 1)[:, index]
    count = int(index_b.max()) + 1
    if OpFlag.CONSTANT_B in OpFlag(op.flags):
        b = image.array(op.input_b, count, Element.INT16)[None].astype(np.int64)
    else:
        b = read_codes(arena, op.input_b, count)
    return a, b[:, index_b]


def _scaled(op: ImageOp, a: Array, b: Array, bits: int) -> tuple[Array, Array]:
    return (
        rescale(a << bits, op.input_multiplier, op.input_shift),
        rescale(b << bits, op.input_b_multiplier, op.input_b_shift),
    )


def _add(op: ImageOp, a: Array, b: Array) -> Array:
    left, right = _scaled(op, a, b, ADD_LEFT_SHIFT_INT16)
    return rescale(left + right, op.output_multiplier, op.output_shift)


def _subtract(op: ImageOp, a: Array, b: Array) -> Array:
    left, right = _scaled(op, a, b, ADD_LEFT_SHIFT_INT16)
    difference = right - left if OpFlag.SWAPPED in OpFlag(op.flags) else left - right
    return rescale(difference, op.output_multiplier, op.output_shift)


def _multiply(op: ImageOp, a: Array, b: Array) -> Array:
    return rescale(a * b, op.output_multiplier, op.output_shift)


def _minimum(op: ImageOp, a: Array, b: Array) -> Array:
    return np.asarray(np.minimum(*_scaled(op, a, b, 0)))


def _maximum(op: ImageOp, a: Array, b: Array) -> Array:
    return np.asarray(np.maximum(*_scaled(op, a, b, 0)))


def _binary(combine: Callable[[ImageOp, Array, Array], Array]) -> Callable[[Image, ImageOp, Int8], Array]:
    return lambda image, op, arena: _clamp(op, combine(op, *_operands(image, op, arena)))


def _max_pool(image: Image, op: ImageOp, arena: Int8) -> Array:
    g = _geometry(op)
    return _clamp(op, np.maximum.reduce(list(taps(pad_image(_pixels(op, arena, g), g, INT16_MIN), g))))


def _average_pool(image: Image, op: ImageOp, arena: Int8) -> Array:
    g = _geometry(op)
    total = np.add.reduce(list(taps(pad_image(_pixels(op, arena, g), g, 0), g)))
    include = OpFlag.COUNT_INCLUDE_PAD in OpFlag(op.flags)
    count: Array = np.asarray(g.kernel_h * g.kernel_w) if include else tap_counts(g)
    return _clamp(op, np.sign(total) * ((np.abs(total) + count // 2) // count))


def _softmax(image: Image, op: ImageOp, arena: Int8) -> Array:
    q = read_codes(arena, op.input, op.rows * op.columns).reshape(len(arena), op.rows, op.columns)
    below = rescale(q - q.max(axis=-1, keepdims=True), op.multiplier, op.shift)
    e = lookup_int16(np.clip(below + INT16_MAX, INT16_MIN, INT16_MAX), EXP)
    total = e.sum(axis=-1, keepdims=True)
    zeros = 31 - np.floor(np.log2(total.astype(np.float64))).astype(np.int64)
    fraction = ((total << (zeros - 1)) + (1 << 13)) >> 14
    centred = np.clip(fraction - (1 << 15) - (1 << 16), INT16_MIN, INT16_MAX)
    right = 31 - zeros
    product = e * lookup_int16(centred, RECIPROCAL) + (np.int64(1) << (right - 1))
    return np.asarray(np.clip(product >> right, 0, INT16_MAX), dtype=np.int16).reshape(len(arena), -1)


def _places(op: ImageOp, arena: Int8) -> Array:
    """Inputs in steps of 1 / 12288 (a third of Q12)."""
    half = (1 << op.right_shift) >> 1
    return np.asarray((read_codes(arena, op.input, op.size) * op.multiplier + half) >> op.right_shift)


def _between(magnitude: Array, bits: int) -> Array:
    """Sigmoid table at magnitude / 2^bits, interpolated, times 2^bits; callers replace what lies beyond it."""
    index = np.minimum(magnitude >> bits, len(SIGMOID) - 2)
    step = SIGMOID[index + 1] - SIGMOID[index]
    return np.asarray((SIGMOID[index] << bits) + (magnitude & ((1 << bits) - 1)) * step)


def logistic(places: Array) -> Array:
    """Sigmoid in Q15 at places in steps of 1 / 12288."""
    positive, magnitude = places >= 0, np.abs(places)
    y = np.where(magnitude >> 9 >= 255, INT16_MAX << 10, _between(magnitude, 9))
    half = 1 << 9
    return (np.where(positive, y + half, (1 << 25) - y + half - 1) >> 10).astype(np.int16)


def tanh(places: Array) -> Array:
    """Hyperbolic tangent in Q15 at places in steps of 1 / 12288."""
    positive, magnitude = places >= 0, np.abs(places)
    y = np.where(magnitude >> 8 >= 255, 0xFFFF << 8, _between(magnitude, 8)) - (1 << 23)
    half = 1 << 7
    return (np.where(positive, y + half, half - 1 - y) >> 8).astype(np.int16)


def _lut(image: Image, op: ImageOp, arena: Int8) -> Array:
    table = image.array(op.table, LUT_INT16_ENTRIES, Element.INT16)
    return _clamp(op, lookup_int16(read_codes(arena, op.input, op.size), table))


def _leaky_relu(image: Image, op: ImageOp, arena: Int8) -> Array:
    x = read_codes(arena, op.input, op.size)
    above, below = rescale(x, op.multiplier, op.shift), rescale(x, op.slope_multiplier, op.slope_shift)
    return _clamp(op, np.where(x < 0, below, above))


def _rescale(image: Image, op: ImageOp, arena: Int8) -> Array:
    x = read_codes(arena, op.input, op.size, Element(op.input_element)) - op.input_zero_point
    y = _clamp(op, rescale(x, op.multiplier, op.shift) + op.output_zero_point)
    return y if op.output_element == Element.INT16 else y.astype(np.int8)


def _runs(op: ImageOp, arena: Int8) -> Array:
    codes = read_codes(arena, op.input, op.outer * op.count * op.inner)
    return codes.reshape(len(arena), op.outer, op.count, op.inner)


def _sum(image: Image, op: ImageOp, arena: Int8) -> Array:
    return _clamp(op, rescale(_runs(op, arena).sum(axis=2), op.multiplier, op.shift))


def _max(image: Image, op: ImageOp, arena: Int8) -> Array:
    return _clamp(op, _runs(op, arena).max(axis=2))


def _min(image: Image, op: ImageOp, arena: Int8) -> Array:
    return _clamp(op, _runs(op, arena).min(axis=2))


KERNELS: dict[OpCode, Callable[[Image, ImageOp, Int8], Array]] = {
    OpCode.CONV_2D_INT16: _convolution,
    OpCode.DEPTHWISE_CONV_2D_INT16: _convolution,
    OpCode.FULLY_CONNECTED_INT16: _fully_connected,
    OpCode.TRANSPOSE_CONV_2D_INT16: _transpose_convolution,
    OpCode.ADD_INT16: _binary(_add),
    OpCode.SUB_INT16: _binary(_subtract),
    OpCode.MUL_INT16: _binary(_multiply),
    OpCode.MINIMUM_INT16: _binary(_minimum),
    OpCode.MAXIMUM_INT16: _binary(_maximum),
    OpCode.MAX_POOL_2D_INT16: _max_pool,
    OpCode.AVERAGE_POOL_2D_INT16: _average_pool,
    OpCode.SOFTMAX_INT16: _softmax,
    OpCode.LOGISTIC_INT16: lambda image, op, arena: logistic(_places(op, arena)),
    OpCode.TANH_INT16: lambda image, op, arena: tanh(_places(op, arena)),
    OpCode.LUT_INT16: _lut,
    OpCode.LEAKY_RELU_INT16: _leaky_relu,
    OpCode.RESCALE_INT16: _rescale,
    OpCode.REDUCE_SUM_INT16: _sum,
    OpCode.REDUCE_MAX_INT16: _max,
    OpCode.REDUCE_MIN_INT16: _min,
}
