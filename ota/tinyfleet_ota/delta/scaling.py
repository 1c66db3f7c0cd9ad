"""Runs of 32-bit words that changed by one ratio: found by the encoder, sent as one number per run."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyfleet_ota.delta.models import RATIO_BITS

HEAD_BITS = 70.0
"""What a segment with a ratio costs before its first word."""
TOLERANCE = 8
_OUTLIERS = 2


def scaled_runs(old: NDArray[Any], new: NDArray[Any]) -> list[tuple[int, int, int]]:
    """(start, end, ratio) tiling the words; ratio 0 marks words that follow none and are coded by difference."""
    before, after = old.astype(np.int64), new.astype(np.int64)
    runs: list[tuple[int, int, int]] = []
    at = loose = 0
    while at < len(before):
        ratio = _ratio(int(before[at]), int(after[at]))
        end = _run_end(before, after, at, ratio) if ratio else at
        if end == at or _gain_bits(before[at:end], after[at:end], ratio) < HEAD_BITS:
            at += 1
            continue
        if loose < at:
            runs.append((loose, at, 0))
        runs.append((at, end, _best_ratio(before[at:end], after[at:end], ratio)))
        at = loose = end
    return [*runs, (loose, len(before), 0)] if loose < len(before) else runs


def _ratio(old: int, new: int) -> int:
    """new / old in units of 2^-30; 0 where there is none worth sending: equal, of other sign, or out of range."""
    if old == 0 or old == new or (old < 0) != (new < 0):
        return 0
    ratio = round((new << RATIO_BITS) / old)
    return ratio if 0 < ratio < 1 << 32 else 0


def _near(old: NDArray[np.int64], new: NDArray[np.int64], ratio: int) -> NDArray[np.bool_]:
    scaled = np.rint(old * (ratio / (1 << RATIO_BITS)))
    return np.asarray(np.abs(scaled - new) <= TOLERANCE, np.bool_)


def _run_end(old: NDArray[np.int64], new: NDArray[np.int64], at: int, ratio: int) -> int:
    """End of the run from `at`, across single words that doubled or halved because their shift changed."""
    near = _near(old[at:], new[at:], ratio)
    misses = np.flatnonzero(~near)
    end = at + (int(misses[0]) if len(misses) else len(near))
    while end < len(old):
        ahead = near[end - at + 1 : end - at + 1 + _OUTLIERS + 1]
        if len(ahead) == 0 or int(ahead.sum()) < _OUTLIERS:
            break
        later = misses[misses > end - at]
        end = at + (int(later[0]) if len(later) else len(near))
    return end


def _gain_bits(old: NDArray[np.int64], new: NDArray[np.int64], ratio: int) -> float:
    """Bits a run saves against plain differences."""
    scaled = np.rint(old * (ratio / (1 << RATIO_BITS)))
    return float((np.log2(np.abs(new - old) + 1) - np.log2(np.abs(new - scaled) + 1)).sum())


def _best_ratio(old: NDArray[np.int64], new: NDArray[np.int64], first: int) -> int:
    """The median of the ratios near `first`: one word alone fixes it only to its rounding."""
    near = _near(old, new, first)
    return round(float(np.median(new[near] / old[near])) * (1 << RATIO_BITS))
