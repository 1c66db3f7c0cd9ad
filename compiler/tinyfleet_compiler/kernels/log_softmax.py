"""LOG_SOFTMAX as NUMERICS.md section 3 states it."""

import numpy as np

from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.kernels.finish import Int8, clamp
from tinyfleet_compiler.numerics import INT32_MAX, INT32_MIN, exp_negative, high_mul, log_q12, rescale, round_shift


def log_softmax(image: Image, op: ImageOp, arena: Int8) -> Int8:
    """(N, rows x columns) int8."""
    q = arena[:, op.input : op.input + op.rows * op.columns].reshape(len(arena), op.rows, op.columns).astype(np.int64)
    d = q - q.max(axis=-1, keepdims=True)
    counts = d >= op.diff_min
    x = high_mul(np.where(counts, d, 0) << op.left_shift, op.multiplier)
    total = np.where(counts, round_shift(exp_negative(x), 12), 0).sum(axis=-1, keepdims=True)
    logarithm = log_q12(np.minimum(total, INT32_MAX))
    least = rescale(logarithm + INT32_MIN, op.reverse_multiplier, op.reverse_shift)
    steps = round_shift(x - logarithm, 22) + 127
    return clamp(op, np.where(d > np.maximum(op.diff_min - 1, least), steps, -128))
