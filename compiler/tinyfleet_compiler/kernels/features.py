"""FEATURES as NUMERICS.md section 6 states it: framing, window, FFT, filters, logarithm, affine map, in integers."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.image import ELEMENT_TYPES, Image, ImageOp
from tinyfleet_compiler.kernels.finish import Int8
from tinyfleet_compiler.layout import FEATURES_TWIDDLE_BITS
from tinyfleet_compiler.operators import Element, FeatureForm

Int16 = npt.NDArray[np.int16]
Int64 = npt.NDArray[np.int64]
_LOG_BITS = 16


@dataclass(frozen=True, eq=False)
class Tables:
    """The constant section of one record (SPEC.md section 5): int16 halfwords in the order of `split_table`."""

    bias: Int64
    sine: Int64
    window: Int64
    spans: Int64
    weights: Int64
    matrix: Int64
    shifts: Int64


def read_tables(image: Image, op: ImageOp) -> Tables:
    """The tables behind a record, widened."""
    c, m, quarter = op.coefficients, op.mels, (1 << op.fft_log2) // 4 + 1
    cells = m if op.form & FeatureForm.DIAGONAL else c * m
    at = op.table

    def take(count: int, kind: str) -> Int64:
        nonlocal at
        size = np.dtype(kind).itemsize
        found = image.array(at, count * size, Element.INT8).view(kind).astype(np.int64)
        at += count * size
        return found

    return Tables(
        take(c, "<i8"),
        take(quarter, "<i4"),
        take(op.frame, "<i4"),
        take(2 * m, "<i2").reshape(m, 2),
        take(op.mel_weights, "<i2"),
        take(cells, "<i2"),
        take(c, "<i2"),
    )


def features(image: Image, op: ImageOp, arena: Int8) -> Int8:
    """(N, frames x coefficients) int8 from (N, samples) int16 or int32."""
    tables = read_tables(image, op)
    kind = np.dtype(ELEMENT_TYPES[op.input_element])
    flat = np.ascontiguousarray(arena[:, op.input : op.input + kind.itemsize * op.samples]).view(kind)
    products = _frames(flat.astype(np.int64), op) * tables.window
    shift = _normalise(products, op)
    spectrum = real_fft(_shifted(products, shift), tables.sine, op.fft_log2)
    logs = _log_energies(spectrum, shift, op, tables)
    return _affine(logs, op, tables).reshape(len(arena), -1)


def _frames(samples: Int64, op: ImageOp) -> Int64:
    wide = np.pad(samples, ((0, 0), (op.pad, op.frame + op.frames * op.hop)))
    return np.asarray(wide[:, np.arange(op.frames)[:, None] * op.hop + np.arange(op.frame)])


def _normalise(products: Int64, op: ImageOp) -> Int64:
    """(N, frames): the left shift (negative: right) that gives the largest product `input_bits` bits."""
    peak = np.abs(products).max(axis=-1)
    bits = np.zeros(peak.shape, np.int64)
    for bit in range(56):
        bits += (peak >> bit) > 0
    return np.asarray(np.minimum(op.input_bits - bits, op.most_shift))


def _shifted(products: Int64, shift: Int64) -> Int64:
    left, right = np.maximum(shift, 0)[..., None], np.maximum(-shift, 0)[..., None]
    half = (np.int64(1) << right) >> 1
    return np.asarray(((products << left) + half) >> right)


def real_fft(x: Int64, sine: Int64, log2: int) -> tuple[Int64, Int64]:
    """Twice the first half of the DFT of (..., L <= 2^log2) reals: (..., 2^(log2 - 1) + 1) real and imaginary parts."""
    n = 1 << log2
    padded = np.zeros((*x.shape[:-1], n), np.int64)
    padded[..., : x.shape[-1]] = x
    order = _bit_reversed(log2 - 1)
    re, im = padded[..., 0::2][..., order], padded[..., 1::2][..., order]
    half = 1
    while half < n // 2:
        cos, sin = twiddles(np.arange(half) * (n // (2 * half)), sine)
        a_re, b_re = (part.copy() for part in _halves(re, half))
        a_im, b_im = (part.copy() for part in _halves(im, half))
        t_re, t_im = _turn(b_re, b_im, cos, sin)
        re = np.concatenate([a_re + t_re, a_re - t_re], axis=-1).reshape(re.shape)
        im = np.concatenate([a_im + t_im, a_im - t_im], axis=-1).reshape(im.shape)
        half *= 2
    return _split(re, im, sine)


def _halves(x: Int64, half: int) -> tuple[Int64, Int64]:
    groups = x.reshape(*x.shape[:-1], -1, 2 * half)
    return groups[..., :half], groups[..., half:]


def _turn(re: Int64, im: Int64, cos: Int64, sin: Int64) -> tuple[Int64, Int64]:
    """(re + j im) * (cos - j sin), each part rounded once, halves up."""
    half = 1 << (FEATURES_TWIDDLE_BITS - 1)
    return (
        (re * cos + im * sin + half) >> FEATURES_TWIDDLE_BITS,
        (im * cos - re * sin + half) >> FEATURES_TWIDDLE_BITS,
    )


def twiddles(k: Int64, sine: Int64) -> tuple[Int64, Int64]:
    """cos and sin of 2 pi k / n from a quarter of a sine of n / 4 + 1 entries, 0 <= k <= n / 2."""
    quarter = len(sine) - 1
    first = k <= quarter
    cos = np.where(first, sine[np.abs(quarter - k)], -sine[np.abs(k - quarter)])
    sin = np.where(first, sine[np.minimum(k, quarter)], sine[np.clip(2 * quarter - k, 0, quarter)])
    return cos, sin


def _split(re: Int64, im: Int64, sine: Int64) -> tuple[Int64, Int64]:
    """Twice the spectrum of reals whose even and odd samples were the parts of a half as long complex signal."""
    k = np.arange(re.shape[-1] + 1)
    at, mirror = k % re.shape[-1], -k % re.shape[-1]
    sum_re, dif_re = re[..., at] + re[..., mirror], re[..., at] - re[..., mirror]
    sum_im, dif_im = im[..., at] + im[..., mirror], im[..., at] - im[..., mirror]
    # -j W (Z[k] - conj Z[-k]) = W (sum_im - j dif_re)
    cos, sin = twiddles(k, sine)
    t_re, t_im = _turn(sum_im, -dif_re, cos, sin)
    return sum_re + t_re, dif_im + t_im


def _bit_reversed(bits: int) -> Int64:
    index = np.arange(1 << bits)
    out = np.zeros_like(index)
    for bit in range(bits):
        out |= ((index >> bit) & 1) << (bits - 1 - bit)
    return out


def _log_energies(spectrum: tuple[Int64, Int64], shift: Int64, op: ImageOp, tables: Tables) -> Int64:
    """(N, frames, mels): log2 of floored energies in steps of 2^-16, the frame's own shift taken off."""
    re, im = spectrum
    energy = re * re + im * im
    magnitude = bool(op.form & FeatureForm.MAGNITUDE)
    if magnitude:
        energy = square_root(energy)
    energy >>= op.energy_shift
    step = 1 if magnitude else 2
    sums = np.zeros((*energy.shape[:-1], op.mels), np.int64)
    at = 0
    for mel, (first, count) in enumerate(tables.spans):
        sums[..., mel] = energy[..., first : first + count] @ tables.weights[at : at + count]
        at += count
    floor = _floor(op, step * shift)[..., None]
    sums = sums + floor if op.form & FeatureForm.ADD_FLOOR else np.maximum(sums, floor)
    return log2_q16(np.maximum(sums, 1)) - ((step * shift) << _LOG_BITS)[..., None]


def _floor(op: ImageOp, shift: Int64) -> Int64:
    total = op.floor_exponent + shift
    left, right = np.maximum(total, 0), np.minimum(np.maximum(-total, 0), 63)
    return np.asarray((np.int64(op.floor_mantissa) << left) >> right)


def square_root(value: Int64) -> Int64:
    """Whole part of the square root, below 2^63."""
    root = np.floor(np.sqrt(value.astype(np.float64))).astype(np.int64)
    root -= root * root > value
    return np.asarray(root + ((root + 1) * (root + 1) <= value))


def log2_q16(value: Int64) -> Int64:
    """log2 of 1 .. 2^63 - 1 in steps of 2^-16, rounded down bit by bit; the mantissa is cut to 32 bits."""
    exponent = np.zeros_like(value)
    for step in (32, 16, 8, 4, 2, 1):
        exponent += np.where((value >> (exponent + step)) > 0, step, 0)
    x = ((value << (62 - exponent)) >> 31).astype(np.uint64)
    fraction = np.zeros_like(value)
    for _ in range(_LOG_BITS):
        x = (x * x) >> np.uint64(31)
        carry = x >> np.uint64(32)
        x >>= carry
        fraction = fraction * 2 + carry.astype(np.int64)
    return np.asarray((exponent << _LOG_BITS) + fraction)


def _affine(logs: Int64, op: ImageOp, tables: Tables) -> Int8:
    if op.form & FeatureForm.DIAGONAL:
        total = logs * tables.matrix
    else:
        total = logs @ tables.matrix.reshape(op.coefficients, op.mels).T
    half = np.int64(1) << (tables.shifts - 1)
    y = ((total + tables.bias + half) >> tables.shifts) + op.output_zero_point
    return np.asarray(np.clip(y, op.activation_min, op.activation_max), np.int8)
