"""LOG_SOFTMAX as NUMERICS.md section 3 states it."""

import numpy as np

from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.kernels.finish import Int8, finish
from tinyfleet_compiler.layout import LOG_SOFTMAX_FRACTION_BITS
from tinyfleet_compiler.numerics import Int64, exp_negative, high_mul, rescale, round_shift

_LOG_BITS = 16
_INPUT_SHIFT = 16
_ONE_Q12 = 19


def log2_q12(total: Int64) -> Int64:
    """log2 of sums in Q12, at least 1, as steps of 2^-16: bit by bit, by squaring."""
    exponent = np.floor(np.log2(total.astype(np.float64))).astype(np.int64)
    x = total.astype(np.uint64) << (31 - exponent).astype(np.uint64)
    fraction = np.zeros_like(total)
    for _ in range(_LOG_BITS):
        x = (x * x) >> np.uint64(31)
        carry = x >> np.uint64(32)
        x >>= carry
        fraction = fraction * 2 + carry.astype(np.int64)
    return np.asarray(((exponent - _ONE_Q12) << _LOG_BITS) + fraction)


def log_softmax(image: Image, op: ImageOp, arena: Int8) -> Int8:
    """(N, rows x columns) int8."""
    q = arena[:, op.input : op.input + op.rows * op.columns].reshape(len(arena), op.rows, op.columns).astype(np.int64)
    d = q - q.max(axis=-1, keepdims=True)
    counts = d >= op.diff_min
    e = exp_negative(high_mul(np.where(counts, d, 0) << op.left_shift, op.multiplier))
    total = np.where(counts, round_shift(e, 12), 0).sum(axis=-1, keepdims=True)
    linear = rescale(d << _INPUT_SHIFT, op.input_multiplier, op.input_shift)
    logarithm = rescale(log2_q12(total), op.log_multiplier, op.log_shift)
    return finish(op, round_shift(linear - logarithm, LOG_SOFTMAX_FRACTION_BITS))
