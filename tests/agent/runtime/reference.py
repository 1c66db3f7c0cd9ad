"""NUMERICS.md once more in plain Python integers, one element at a time: slow, and written apart from both engines."""

from collections.abc import Iterator
from typing import Any

import numpy as np

INT32_MAX = 2**31 - 1


def high_mul(a: int, b: int) -> int:
    product = a * b
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    quotient = abs(nudged) // 2**31
    return min(quotient if nudged >= 0 else -quotient, INT32_MAX)


def round_shift(x: int, exponent: int) -> int:
    """Half away from zero."""
    half = 2**exponent // 2
    return (x + half) >> exponent if x >= 0 else -((-x + half) >> exponent)


def rescale(x: int, multiplier: int, shift: int) -> int:
    return round_shift(high_mul(x << max(shift, 0), multiplier), max(-shift, 0))


def finish(x: int, op: dict[str, Any]) -> int:
    return min(max(x + op["output_zero_point"], op["activation_min"]), op["activation_max"])


def taps(op: dict[str, Any], oy: int, ox: int) -> Iterator[tuple[int, int, int, int]]:
    """(ky, kx, iy, ix) of every tap; iy, ix may lie outside."""
    for ky in range(op["kernel_h"]):
        for kx in range(op["kernel_w"]):
            iy = oy * op["stride_h"] - op["pad_top"] + ky * op["dilation_h"]
            ix = ox * op["stride_w"] - op["pad_left"] + kx * op["dilation_w"]
            yield ky, kx, iy, ix


def inside(op: dict[str, Any], iy: int, ix: int) -> bool:
    return 0 <= iy < op["in_h"] and 0 <= ix < op["in_w"]


def conv(op: dict[str, Any], x: np.ndarray, weights: np.ndarray, channels: Any) -> np.ndarray:
    """x (in_h, in_w, in_c), weights (out_c, kernel_h, kernel_w, in_c / groups)."""
    y = np.empty((op["out_h"], op["out_w"], op["out_c"]), np.int8)
    per_group = op["out_c"] // op["groups"]
    group_c = op["in_c"] // op["groups"]
    for oy, ox, o in np.ndindex(*y.shape):
        first = o // per_group * group_c
        total = int(channels.biases[o])
        for ky, kx, iy, ix in taps(op, oy, ox):
            for c in range(group_c):
                q = int(x[iy, ix, first + c]) if inside(op, iy, ix) else op["input_zero_point"]
                total += q * int(weights[o, ky, kx, c])
        y[oy, ox, o] = finish(rescale(total, int(channels.multipliers[o]), int(channels.shifts[o])), op)
    return y


def max_pool(op: dict[str, Any], x: np.ndarray) -> np.ndarray:
    y = np.empty((op["out_h"], op["out_w"], op["out_c"]), np.int8)
    for oy, ox, c in np.ndindex(*y.shape):
        best = max(int(x[iy, ix, c]) for _, _, iy, ix in taps(op, oy, ox) if inside(op, iy, ix))
        y[oy, ox, c] = min(max(best, op["activation_min"]), op["activation_max"])
    return y


def average_pool(op: dict[str, Any], x: np.ndarray, include_pad: bool) -> np.ndarray:
    y = np.empty((op["out_h"], op["out_w"], op["out_c"]), np.int8)
    for oy, ox, c in np.ndindex(*y.shape):
        values = [int(x[iy, ix, c]) for _, _, iy, ix in taps(op, oy, ox) if inside(op, iy, ix)]
        if include_pad:
            values += [op["input_zero_point"]] * (op["kernel_h"] * op["kernel_w"] - len(values))
        total, n = sum(values), len(values)
        mean = (total + n // 2) // n if total > 0 else -((-total + n // 2) // n)
        y[oy, ox, c] = min(max(mean, op["activation_min"]), op["activation_max"])
    return y


def fully_connected(op: dict[str, Any], x: np.ndarray, weights: np.ndarray, channels: Any) -> np.ndarray:
    """x (rows, in_features), weights (out_features, in_features)."""
    sums = x.astype(np.int64) @ weights.astype(np.int64).T + channels.biases.astype(np.int64)
    y = np.empty(sums.shape, np.int8)
    for r, o in np.ndindex(*sums.shape):
        y[r, o] = finish(rescale(int(sums[r, o]), int(channels.multipliers[o]), int(channels.shifts[o])), op)
    return y


def add(op: dict[str, Any], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    y = np.empty(a.size, np.int8)
    for i in range(a.size):
        left = rescale((int(a[i]) - op["input_zero_point"]) << 20, op["input_multiplier"], op["input_shift"])
        second = int(b[i % b.size]) - op["input_b_zero_point"]
        right = rescale(second << 20, op["input_b_multiplier"], op["input_b_shift"])
        y[i] = finish(rescale(left + right, op["output_multiplier"], op["output_shift"]), op)
    return y


def rescale_op(op: dict[str, Any], x: np.ndarray) -> np.ndarray:
    values = [finish(rescale(int(q) - op["input_zero_point"], op["multiplier"], op["shift"]), op) for q in x]
    return np.array(values, np.int8)


def transpose(op: dict[str, Any], x: np.ndarray) -> np.ndarray:
    index = sum(np.indices(op["dims"])[axis] * op["strides"][axis] for axis in range(4))
    return x[np.asarray(index)].ravel()


def window_distance(op: dict[str, Any]) -> int:
    """SPEC section 6: max over pixels p of (p + 1) x out_c - low(p)."""
    lows = []
    for p in range(op["out_h"] * op["out_w"]):
        oy, ox = divmod(p, op["out_w"])
        read = [iy * op["in_w"] + ix for _, _, iy, ix in taps(op, oy, ox) if inside(op, iy, ix)]
        lows.append(min(read, default=op["in_h"] * op["in_w"]) * op["in_c"])
    return max((p + 1) * op["out_c"] - min(lows[p:]) for p in range(len(lows)))


def reversed_window_distance(op: dict[str, Any]) -> int:
    """SPEC section 6 with REVERSED, smallest output - input: max over pixels p of high(p) - p x out_c."""
    highs = []
    for p in range(op["out_h"] * op["out_w"]):
        oy, ox = divmod(p, op["out_w"])
        read = [iy * op["in_w"] + ix + 1 for _, _, iy, ix in taps(op, oy, ox) if inside(op, iy, ix)]
        highs.append(max(read, default=0) * op["in_c"])
    return max(max(highs[: p + 1]) - p * op["out_c"] for p in range(len(highs)))
