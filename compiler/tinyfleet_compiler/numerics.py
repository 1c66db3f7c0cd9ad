"""The integer arithmetic of NUMERICS.md section 1 and 3, vectorised, exact for every input."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Int8 = npt.NDArray[np.int8]
Array = npt.NDArray[Any]

INT32_MAX = (1 << 31) - 1
INT32_MIN = -(1 << 31)
BLOCK_ELEMENTS = 1 << 15
_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0.0))


def round_half_away(value: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Nearest integer, halves away from zero, in float64 (exact, unlike adding 0.5)."""
    real = np.asarray(value, dtype=np.float64)
    whole = np.trunc(real)
    return np.asarray(whole + np.where(np.abs(real - whole) >= 0.5, np.sign(real), 0.0))


def quantize(value: npt.ArrayLike, scale: float, zero_point: int, kind: npt.DTypeLike = np.int8) -> Array:
    """Real to int8 (or int16) as every device does it: one float32 division, exact rounding, NaN to zero_point.

    Float32 stays what it is.
    """
    if np.dtype(kind) == np.float32:
        return np.asarray(value, np.float32)
    real = np.asarray(value, np.float32)
    codes = np.empty(real.shape, kind)
    for place, block in _blocks(real, codes):
        block[...] = _whole(place, scale, zero_point, kind)
    return codes


def through_codes(value: npt.NDArray[np.float32], scale: float, zero_point: int, kind: npt.DTypeLike) -> Array:
    """What `dequantize` makes of what `quantize` makes of `value`, float32, without the codes between."""
    real = np.empty(value.shape, np.float32)
    for place, block in _blocks(value, real):
        np.subtract(_whole(place, scale, zero_point, kind), np.float32(zero_point), out=block)
        block *= np.float32(scale)
    return real


def _blocks(value: npt.NDArray[np.float32], result: Array) -> Iterator[tuple[npt.NDArray[np.float32], Array]]:
    """Parts of both that stay in the processor's cache: the passes over them are bound by memory."""
    flat, out = value.reshape(-1), result.reshape(-1)
    for start in range(0, flat.size, BLOCK_ELEMENTS):
        yield flat[start : start + BLOCK_ELEMENTS], out[start : start + BLOCK_ELEMENTS]


def _whole(value: npt.NDArray[np.float32], scale: float, zero_point: int, kind: npt.DTypeLike) -> Array:
    """Codes of int8 or int16 as float32, those of int32 as float64."""
    limits = np.iinfo(np.dtype(kind))
    with np.errstate(over="ignore", invalid="ignore"):
        ratio: Array = value / np.float32(scale)
    ratio[np.isnan(ratio)] = 0.0
    np.clip(ratio, 4.0 * limits.min, 4.0 * limits.max, out=ratio)
    # In float32 the largest number below a half is added: halves go up all the same, what is below stays below.
    half = _BELOW_HALF if limits.bits < 32 else np.float64(0.5)
    ratio = ratio + np.copysign(half, ratio)
    np.trunc(ratio, out=ratio)
    ratio += ratio.dtype.type(zero_point)
    np.clip(ratio, limits.min, limits.max, out=ratio)
    return ratio


def dequantize(value: Array, scale: float, zero_point: int) -> npt.NDArray[np.float32]:
    """Codes to real, float32."""
    return np.asarray((value.astype(np.float32) - np.float32(zero_point)) * np.float32(scale))


def quantize_multiplier(real: float) -> tuple[int, int]:
    """(Q31 multiplier, shift) of a non-negative real; positive shift is left (TFLM `QuantizeMultiplier`)."""
    if real <= 0.0:
        return 0, 0
    fraction, shift = np.frexp(np.float64(real))
    multiplier = int(round_half_away(float(fraction) * (1 << 31)))
    if multiplier == 1 << 31:
        multiplier, shift = 1 << 30, shift + 1
    if shift < -31:
        return 0, 0
    if shift > 30:
        return INT32_MAX, 30
    return multiplier, int(shift)


def high_mul(a: npt.ArrayLike, b: npt.ArrayLike) -> Int64:
    """Saturating rounding doubling high multiply of int32 values held in int64."""
    # floor((ab + 2^30) / 2^31) equals the truncating form of NUMERICS.md for either sign.
    product = np.asarray(a, dtype=np.int64) * np.asarray(b, dtype=np.int64)
    product += 1 << 30
    product >>= 31
    return np.minimum(product, INT32_MAX)


def round_shift(value: npt.ArrayLike, exponent: npt.ArrayLike) -> Int64:
    """Divide by 2^exponent, halves away from zero; exponent 0 .. 31, broadcasting."""
    x = np.asarray(value, dtype=np.int64)
    e = np.asarray(exponent, dtype=np.int64)
    half = np.where(e > 0, np.int64(1) << np.maximum(e - 1, 0), 0)
    out = x + half
    if (e > 0).all():
        out += x >> 63
    else:
        out += np.where(e > 0, x >> 63, 0)
    out >>= e
    return out


def rescale(value: Array, multiplier: npt.ArrayLike, shift: npt.ArrayLike) -> Int64:
    """`value` x multiplier x 2^(shift - 31), rounded twice as TFLM (`MultiplyByQuantizedMultiplier`)."""
    s = np.asarray(shift, dtype=np.int64)
    x = value.astype(np.int64)
    if (s > 0).any():
        x = x << np.maximum(s, 0)
        assert x.size == 0 or (x.max() <= INT32_MAX and x.min() >= INT32_MIN), "left shift leaves int32"
    return round_shift(high_mul(x, multiplier), np.maximum(-s, 0))


def rescale_wide(value: Array, multiplier: npt.ArrayLike, shift: npt.ArrayLike) -> Int64:
    """`value` within 48 bits x multiplier x 2^(shift - 31), rounded once, half up, by a multiplier reduced to 15 bits
    (TFLM's 64-bit `MultiplyByQuantizedMultiplier`); shift at most 7."""
    wide = np.asarray(multiplier, dtype=np.int64)
    reduced = np.where(wide < 0x7FFF0000, (wide + (1 << 15)) >> 16, 0x7FFF)
    total = 15 - np.asarray(shift, dtype=np.int64)
    return np.asarray((value.astype(np.int64) * reduced + (np.int64(1) << (total - 1))) >> total)


def lookup_int16(codes: Int64, table: Array) -> Int64:
    """Table of 513 entries, 128 codes apart, interpolated (TFLM `LUTLookup`)."""
    wide = table.astype(np.int64)
    index, offset = 256 + (codes >> 7), codes & 0x7F
    return np.asarray(wide[index] + (((wide[index + 1] - wide[index]) * offset + 64) >> 7))


def shift_left_saturating(value: Int64, bits: int) -> Int64:
    """`value` x 2^bits, saturated to int32."""
    return np.asarray(np.clip(value << bits, INT32_MIN, INT32_MAX))


_EXP_FACTORS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)


def exp_negative(x: Int64, integer_bits: int = 5) -> Int64:
    """exp of x <= 0 in Q5 or Q4, result in Q0 (gemmlowp `exp_on_negative_values`; NUMERICS.md section 3)."""
    quarter = 29 - integer_bits
    fraction = (x & ((1 << quarter) - 1)) - (1 << quarter)
    t = (fraction << integer_bits) + (1 << 28)
    t2 = high_mul(t, t)
    t3, t4 = high_mul(t2, t), high_mul(t2, t2)
    p = round_shift(high_mul(round_shift(t4, 2) + t3, 715827883) + t2, 1)
    e = 1895147668 + high_mul(1895147668, t + p)
    remainder = fraction - x
    for bit, factor in enumerate(_EXP_FACTORS[: integer_bits + 2], start=quarter):
        e = np.where(remainder & (1 << bit), high_mul(e, factor), e)
    return np.where(x == 0, INT32_MAX, e)


def reciprocal_one_plus(a: Int64) -> Int64:
    """1 / (1 + a) for a in Q0, 0 <= a < 1 (NUMERICS.md section 3)."""
    return shift_left_saturating(_twice_reciprocal(a), 1)


def minus_one_plus_ratio(a: Int64) -> Int64:
    """(1 - a) / (1 + a) = 2 / (1 + a) - 1 for a in Q0, 0 <= a < 1."""
    return shift_left_saturating(_twice_reciprocal(a) - (1 << 29), 2)


def _twice_reciprocal(a: Int64) -> Int64:
    """2 / (1 + a) in Q2 (gemmlowp Newton iteration)."""
    d = (a + INT32_MAX + 1) // 2
    x = 1515870810 + high_mul(d, -1010580540)
    for _ in range(3):
        x = x + shift_left_saturating(high_mul(x, (1 << 29) - high_mul(d, x)), 2)
    return np.asarray(x)


def softmax_int8(q: Int8, multiplier: int, left_shift: int, diff_min: int) -> Int8:
    """Softmax over the last axis, (..., columns) int8 to int8 at scale 1/256, zero point -128."""
    wide = q.astype(np.int64)
    d = wide - wide.max(axis=-1, keepdims=True)
    counts = d >= diff_min
    e = exp_negative(high_mul(np.where(counts, d, 0) << left_shift, multiplier))
    total = np.where(counts, round_shift(e, 12), 0).sum(axis=-1, keepdims=True)
    headroom = 31 - np.floor(np.log2(total.astype(np.float64))).astype(np.int64)
    r = reciprocal_one_plus((total << headroom) - (1 << 31))
    y = round_shift(high_mul(r, e), 35 - headroom) - 128
    return np.where(counts, np.clip(y, -128, 127), -128).astype(np.int8)


def leading_zeros(x: Int64) -> Int64:
    """Of 32-bit numbers >= 1."""
    return np.asarray(31 - np.floor(np.log2(np.maximum(x, 1).astype(np.float64))).astype(np.int64))


def log_q12(total: Int64) -> Int64:
    """Natural logarithm of sums in Q12, at least 1; Q5 (TFLM `log_x_for_x_greater_than_or_equal_to_1`)."""
    half_root, quarter = 1518500250, 8388608
    zeros_a = leading_zeros(total)
    zeros_b = leading_zeros(high_mul(total, half_root)) - 1
    first = high_mul(total << (zeros_a - 1), half_root) * 2
    second = np.minimum(total << zeros_b, INT32_MAX)
    power = np.maximum(((12 - zeros_a) << 25) + quarter, ((12 - zeros_b) << 25) - quarter)
    whole = high_mul(power, 1488522236) + _log_of_rest(np.minimum(first, second))
    return shift_left_saturating(whole, 1)


def _log_of_rest(r: Int64) -> Int64:
    fourth_root = 1805811301
    total = r + fourth_root
    p = np.sign(total) * ((np.abs(total) + 1) // 2)
    q = 2 * (r - fourth_root)
    q2 = high_mul(q, q)
    above = high_mul(q, r) + high_mul(high_mul(q, q2), 117049297)
    below = high_mul(p, 1057819769 + q + high_mul(127690142, q2)) + high_mul(638450708, q)
    return high_mul(round_shift(above, 6), reciprocal_one_plus(below))


def inverse_square_root(x: Int64) -> tuple[Int64, Int64]:
    """(multiplier Q31, shift, positive = left) of 1 / sqrt(x) for x >= 0; 0 counts as 1 (TFLM
    `GetInvSqrtQuantizedMultiplierExp`)."""
    value, right = np.maximum(x, 2), np.full(np.shape(x), 11, np.int64)
    for _ in range(2):  # below 2^31
        large = value >= 1 << 29
        value, right = np.where(large, value // 4, value), right + large
    pairs = (leading_zeros(value) - 1) // 2 - 1
    right -= pairs
    half = round_shift((value << 2 * pairs) >> 1, 1)
    y = np.full(np.shape(x), 1 << 28, np.int64)
    for _ in range(5):
        cube = shift_left_saturating(high_mul(high_mul(y, y), y), 6)
        y = shift_left_saturating(high_mul((1 << 28) + (1 << 27), y) - high_mul(half, cube), 3)
    y = high_mul(y, 1518500250) << np.maximum(-right, 0)
    one = x <= 1
    return np.where(one, INT32_MAX, y), np.where(one, 0, -np.maximum(right, 0))
