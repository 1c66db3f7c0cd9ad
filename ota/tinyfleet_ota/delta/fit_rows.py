"""Biases from the sums of their weights: zero points and common ratio of a layer, found by the encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyfleet_ota.delta.words import FIRST_ROWS, UNIT_RATIO, Rows

Floats: TypeAlias = NDArray[np.float64]

_ZEROS = ((0, 0), (-128, -128))


def fit_rows(rows: Rows, old: bytes, new: bytes, old_biases: NDArray[Any], new_biases: NDArray[Any]) -> Rows:
    """`rows` with the parameters that make the new biases (n,) int32 cheapest to say."""
    count = len(new_biases)
    old_weights, new_weights = (
        np.frombuffer(image, np.int8, count * rows.length, at).astype(np.float64).reshape(count, rows.length)
        for image, at in ((old, rows.old_rows), (new, rows.new_rows))
    )
    factors, window = _row_factors(rows, old, new, old_weights, new_weights)
    before, after = old_biases.astype(np.float64), new_biases.astype(np.float64)
    sums = old_weights.sum(axis=1), new_weights.sum(axis=1)
    best = (np.inf, rows)
    for zero_old, zero_new in {*_ZEROS, _fitted_zeros(factors, before, after, sums)}:
        scaled, wanted = (before + zero_old * sums[0]) * factors, after + zero_new * sums[1]
        for ratio in {UNIT_RATIO, _common_ratio(scaled, wanted)}:
            miss = np.abs(wanted - np.rint(scaled * (ratio / UNIT_RATIO)))
            bits = float(np.log2(miss + 1).sum()) + (32 if ratio != UNIT_RATIO else 0)
            one = replace(rows, zero_old=zero_old, zero_new=zero_new, window=window, ratio=ratio)
            best = min(best, (bits, one), key=lambda pair: pair[0])
    return best[1]


def _row_factors(rows: Rows, old: bytes, new: bytes, old_weights: Floats, new_weights: Floats) -> tuple[Floats, int]:
    """Old over new multiplier of each row, and the window that brings it near to what the weights show."""
    count = len(old_weights)
    words = [
        np.frombuffer(image, "<u4", count, at).astype(np.float64)
        for image, at in ((old, rows.old_words), (new, rows.new_words))
    ]
    if np.array_equal(words[0], words[1]):
        return np.ones(count), FIRST_ROWS.window
    grown = (old_weights * new_weights).sum(axis=1) / np.maximum((old_weights**2).sum(axis=1), 1.0)
    raw = words[0] / np.maximum(words[1], 1.0)
    # What all rows have in common (activations' scales) is in the words too: the window leaves room on both sides.
    octave = np.log2(np.maximum(raw, 2.0**-20)) - np.log2(np.maximum(grown, 2.0**-6))
    turned = (octave - np.median(octave) + 0.5) % 1.0 - 0.5
    middle = float(np.median(turned + np.log2(np.maximum(grown, 2.0**-6)))) + float(np.median(octave)) % 1.0
    low = 2.0 ** ((middle % 1.0) - 0.5)
    window = int(np.clip(round(low * 64), 32, 127))
    factor = raw.copy()
    for _ in range(3):
        factor = np.where(factor >= window / 32, factor / 2, np.where(factor < window / 64, factor * 2, factor))
    return factor, window


def _fitted_zeros(factors: Floats, before: Floats, after: Floats, sums: tuple[Floats, Floats]) -> tuple[int, int]:
    """Zero points by least squares: after = r f before + (r zero_old) f old_sum - zero_new new_sum."""
    columns = np.stack([factors * before, factors * sums[0], -sums[1]], axis=1)
    ratio, scaled_zero, zero_new = np.linalg.lstsq(columns, after, rcond=None)[0]
    zero_old = scaled_zero / ratio if abs(ratio) > 2**-20 else 0.0
    old_zero, new_zero = np.clip(np.rint(np.nan_to_num([zero_old, zero_new])), -128, 127)
    return int(old_zero), int(new_zero)


def _common_ratio(scaled: Floats, wanted: Floats) -> int:
    """wanted / scaled in units of 2^-30: the median first, then least squares over what lies near."""
    large = np.abs(scaled) >= max(1.0, float(np.median(np.abs(scaled))))
    if not large.any():
        return UNIT_RATIO
    ratio = float(np.median(wanted[large] / scaled[large]))
    miss = np.abs(wanted - ratio * scaled)
    near = miss <= 3 * max(1.0, float(np.median(miss)))
    power = float((scaled[near] ** 2).sum())
    if power > 0:
        ratio = float((scaled[near] * wanted[near]).sum()) / power
    number = round(ratio * UNIT_RATIO)
    return number if 0 < number < 1 << 32 else UNIT_RATIO
