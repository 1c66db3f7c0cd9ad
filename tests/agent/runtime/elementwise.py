"""NUMERICS.md once more in plain Python integers, for element-wise operators: written apart from both engines."""

from typing import Any

import numpy as np

from agent.runtime.reference import finish, high_mul, rescale, round_shift
from tinyfleet_compiler.numerics import reciprocal_one_plus
from tinyfleet_compiler.operators import OpCode, OpFlag


def prelu(op: dict[str, Any], x: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    y = np.empty(x.size, np.int8)
    for i, q in enumerate(x.ravel()):
        real = int(q) - op["input_zero_point"]
        if real >= 0:
            value = rescale(real, op["multiplier"], op["shift"])
        else:
            value = rescale(real * int(slopes[i % slopes.size]), op["slope_multiplier"], op["slope_shift"])
        y[i] = finish(value, op)
    return y


def binary(code: OpCode, op: dict[str, Any], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a, b flat; output elements in order."""
    dims = op["dims"]
    sizes, sizes_b = ([1 if op[m] & 1 << i else d for i, d in enumerate(dims)] for m in ("repeats", "repeats_b"))
    left = np.broadcast_to(a.reshape(sizes), dims).astype(int) - op["input_zero_point"]
    right = np.broadcast_to(b.reshape(sizes_b), dims).astype(int) - op["input_b_zero_point"]
    y = np.empty(dims, np.int8)
    for at in np.ndindex(*dims):
        y[at] = finish(_combine(code, op, int(left[at]), int(right[at])), op)
    return y.ravel()


def _combine(code: OpCode, op: dict[str, Any], a: int, b: int) -> int:
    swapped = bool(op.get("flags", 0) & OpFlag.SWAPPED)
    if code is OpCode.MUL:
        return rescale(a * b, op["output_multiplier"], op["output_shift"])
    if code is OpCode.DIV:
        return _divide(op, b, a) if swapped else _divide(op, a, b)
    if code is OpCode.SQUARED_DIFFERENCE:
        left = rescale(a << 7, op["input_multiplier"], op["input_shift"])
        right = rescale(b << 7, op["input_b_multiplier"], op["input_b_shift"])
        return rescale((left - right) ** 2, op["output_multiplier"], op["output_shift"])
    bits = 0 if code in (OpCode.MINIMUM, OpCode.MAXIMUM) else 20
    left = rescale(a << bits, op["input_multiplier"], op["input_shift"])
    right = rescale(b << bits, op["input_b_multiplier"], op["input_b_shift"])
    if bits == 0:
        return min(left, right) if code is OpCode.MINIMUM else max(left, right)
    total = left + right if code is OpCode.ADD_BROADCAST else right - left if swapped else left - right
    return rescale(total, op["output_multiplier"], op["output_shift"])


def _divide(op: dict[str, Any], a: int, b: int) -> int:
    if b == 0:
        return 1000 if a > 0 else -1000 if a < 0 else 0
    a, b = (-a, -b) if b < 0 else (a, b)
    zeros, headroom = 32 - b.bit_length(), 31 - (~a if a < 0 else a).bit_length()
    inverse = int(reciprocal_one_plus(np.int64((b << zeros) - 2**31)))
    scaled = high_mul(high_mul(a << headroom, inverse), op["output_multiplier"])
    right = 31 - zeros + headroom - op["output_shift"]
    return 0 if right > 31 else round_shift(scaled, right)


def reduction(code: OpCode, op: dict[str, Any], x: np.ndarray) -> np.ndarray:
    outer, count, inner = op["outer"], op["count"], op["inner"]
    y = np.empty(outer * inner, np.int8)
    for at in range(y.size):
        start = at // inner * count * inner + at % inner
        values = [int(q) for q in x[start : start + count * inner : inner]]
        if code is OpCode.REDUCE_SUM:
            total = sum(q - op["input_zero_point"] for q in values)
            y[at] = finish(rescale(total, op["multiplier"], op["shift"]), op)
        else:
            extreme = min(values) if code is OpCode.ARG_MIN else max(values)
            index = values.index(extreme) - 128
            value = {
                OpCode.REDUCE_MAX: max(values),
                OpCode.REDUCE_MIN: min(values),
                OpCode.ARG_MAX: index,
                OpCode.ARG_MIN: index,
            }[code]
            y[at] = min(max(value, op["activation_min"]), op["activation_max"])
    return y
