"""Multipliers as numbers on a grid: found by the encoder, sent as factors of a segment.

A multiplier is the product of factors common to its layer and of one float32 number of 24 bits, the largest weight of
its channel; so it says 24 bits, not 31, once the common factor is known. The factor is found from the words alone, as
the one whose multiples they all are.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyfleet_ota.delta.segments import grid_number
from tinyfleet_ota.delta.words import FACTOR_BITS, FLOAT_BITS, WORD_BITS, Grid

Floats: TypeAlias = NDArray[np.float64]

ROWS_MIN = 24
"""Shorter runs do not pay for a factor, nor do they tell it."""
_FINEST = 64.0
"""Distance of multiples next to each other, with the factor 1: 2^30 / 2^24."""
_FIRST_DIFFERENCE = float(1 << 21)
_STEP_SCALE = 1 << FACTOR_BITS - 1
_EXACT = 0.93
_KEPT = 64
_FIRST_GAPS = 6


def grid_of(old: NDArray[Any], new: NDArray[Any]) -> Grid | None:
    """The grid that makes `new` cheap to say given `old`; both (n,) int32 multipliers. None where there is none."""
    before, after = old.astype(np.int64), new.astype(np.int64)
    if len(after) == 0 or not (_normal(before) and _normal(after)):
        return None
    same = Grid(WORD_BITS, _ratio(before, after))
    if len(after) < ROWS_MIN or np.mean(np.abs(_misses(same, before, after)) <= 2) > 0.75:
        return same
    step, old_step = common_step(after), common_step(before)
    if step is None:
        return same
    grid = Grid(FLOAT_BITS, _inverse(old_step) if old_step else _ratio(before, after), step)
    pairs = list(zip(before.tolist(), after.tolist(), strict=True))
    exact = all(grid.word(grid_number(grid, a, b)) == b for a, b in pairs)
    return grid if exact else same


def common_step(words: NDArray[np.int64]) -> int | None:
    """The 40-bit factor of which all words are 24-bit multiples, rounded; None when they are of no such kind."""
    ordered = np.unique(words)
    gaps = _differences(ordered)
    if len(gaps) < ROWS_MIN:
        return None
    limit = max(_FIRST_DIFFERENCE, float(gaps[ROWS_MIN - 1]))
    if limit > 16 * _FIRST_DIFFERENCE:
        return None
    found = np.arange(1.0 / (2 * _FINEST), 1.0 / _FINEST, 1.0 / (8 * limit))
    for gap in gaps[gaps <= limit][-_FIRST_GAPS:]:  # a score above _EXACT leaves none of its cosines below this
        found = found[np.cos(2 * np.pi * found * gap) > 1.0 - _FIRST_GAPS * (1.0 - _EXACT)]
    found = found[_score(found, gaps[gaps <= limit][-_FIRST_GAPS:]) > _EXACT]
    while len(found):
        score = _score(found, gaps[gaps <= limit][-48:])
        keep = score > _EXACT
        found = found[keep][np.argsort(-score[keep])[:_KEPT]]
        if limit >= float(ordered[-1]) or not len(found):
            break
        limit *= 4
        spread = np.arange(-4, 5) / (8 * limit)
        found = np.unique((found[:, None] + spread).ravel())
    return _polished(words, found)


def _polished(words: NDArray[np.int64], found: Floats) -> int | None:
    """The step whose multiples all words are after rounding: the middle of what each of them allows."""
    for frequency in found:
        numbers = np.rint(words * frequency)
        for _ in range(3):
            frequency = float((numbers * words).sum() / (words.astype(np.float64) ** 2).sum())
            numbers = np.rint(words * frequency)
        low, high = float(((words - 0.5) / numbers).max()), float(((words + 0.5) / numbers).min())
        step = round(_STEP_SCALE * (low + high) / 2 / _FINEST)
        if low < high and _STEP_SCALE <= step < 2 * _STEP_SCALE:
            return step
    return None


def _differences(ordered: NDArray[np.int64]) -> Floats:
    every = (ordered[None, :] - ordered[:, None])[np.triu_indices(len(ordered), 1)]
    return np.sort(every.astype(np.float64))


def _score(frequencies: Floats, gaps: Floats) -> Floats:
    return np.asarray(np.cos(2 * np.pi * frequencies[:, None] * gaps[None, :]).mean(axis=1))


def _normal(words: NDArray[np.int64]) -> bool:
    return bool((words >= 1 << WORD_BITS - 1).all())


def _ratio(old: NDArray[np.int64], new: NDArray[np.int64]) -> int:
    """The median of new / old within an octave, as a factor of 40 bits."""
    octave = np.log2(new / old) % 1.0
    turned = octave - octave[0]
    middle = float(np.median(turned - np.rint(turned))) + octave[0]
    exact = (new / old)[np.argmin(np.abs(turned - np.rint(turned) + octave[0] - middle))]
    return _factor(float(exact))


def _inverse(step: int) -> int:
    return _factor(1.0 / step)


def _factor(real: float) -> int:
    """40 bits, the highest set, of a positive number up to a power of two."""
    fraction, _ = np.frexp(real)
    return min(round(float(fraction) * (1 << FACTOR_BITS)), (1 << FACTOR_BITS) - 1)


def _misses(grid: Grid, old: NDArray[np.int64], new: NDArray[np.int64]) -> NDArray[np.int64]:
    expected = [grid.number(word) for word in old.tolist()]
    return np.asarray(new - np.array(expected, np.int64))
