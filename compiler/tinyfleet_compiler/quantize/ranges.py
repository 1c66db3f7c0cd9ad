"""Range estimators: which real interval an int8 activation covers."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.numerics import round_half_away
from tinyfleet_compiler.quantize.calibrate import Observed

PERCENTILE = 99.99
Reals = npt.NDArray[np.float64]
_BINS = 2048
_SHRINKS = np.linspace(1.0, 0.4, 25)


def min_max(seen: Observed) -> tuple[float, float]:
    """Everything that was seen."""
    return seen.low, seen.high


def percentile(seen: Observed) -> tuple[float, float]:
    """The central 99.98 % of the values."""
    low, high = np.percentile(seen.values, [100.0 - PERCENTILE, PERCENTILE])
    return float(low), float(high)


def mean_squared_error(seen: Observed) -> tuple[float, float]:
    """The shrunken interval whose quantisation loses least energy on the observed values."""
    best, best_error = (seen.low, seen.high), np.inf
    for shrink in _SHRINKS:
        low, high = min(seen.low, 0.0) * shrink, max(seen.high, 0.0) * shrink
        scale = max((high - low) / 255.0, 1e-12)
        zero = round_half_away(-low / scale)
        codes = np.clip(np.rint(seen.values / scale) + zero, 0.0, 255.0)
        error = float(np.square((codes - zero) * scale - seen.values, dtype=np.float64).mean())
        if error < best_error:
            best, best_error = (low, high), error
    return best


def entropy(seen: Observed) -> tuple[float, float]:
    """The shrunken interval under which the histogram of values loses least information (Kullback-Leibler)."""
    start, end = min(seen.low, 0.0), max(seen.high, 0.0)
    if end <= start:
        return seen.low, seen.high
    counts, _ = np.histogram(seen.values, bins=_BINS, range=(start, end))
    centers = start + (np.arange(_BINS) + 0.5) * (end - start) / _BINS
    # Zeros of a Relu are a spike that any interval holds; they say nothing about where to cut.
    counts[int(np.clip(-start / (end - start) * _BINS, 0, _BINS - 1))] = 0
    # One end at a time: an outlier on one side must not cost the other side its values.
    high = end * min(_SHRINKS, key=lambda s: (_divergence(counts, centers, start, end * s), -s))
    low = start * min(_SHRINKS, key=lambda s: (_divergence(counts, centers, start * s, high), -s))
    return float(low), float(high)


def _divergence(counts: npt.NDArray[np.int64], centers: Reals, low: float, high: float) -> float:
    """Of the clipped histogram from its own picture in 255 steps, values cut off counted at the ends."""
    inside = (centers >= low) & (centers <= high)
    if not inside.any() or not counts.any():
        return np.inf
    clipped = np.where(inside, counts, 0).astype(np.float64)
    first, last = np.flatnonzero(inside)[[0, -1]]
    clipped[first] += counts[:first].sum()
    clipped[last] += counts[last + 1 :].sum()
    step = np.clip(((centers - low) / max(high - low, 1e-30) * 255.0).astype(np.int64), 0, 254)
    filled = inside & (clipped > 0)
    mass = np.bincount(step[inside], weights=np.where(inside, counts, 0)[inside], minlength=255)
    bins = np.bincount(step[filled], minlength=255)
    picture = np.where(filled, mass[step] / np.maximum(bins[step], 1), 0.0)
    p, q = clipped / clipped.sum(), picture / max(picture.sum(), 1e-30)
    used = p > 0
    return float((p[used] * np.log(p[used] / np.maximum(q[used], 1e-9))).sum())


ESTIMATORS: dict[str, Callable[[Observed], tuple[float, float]]] = {
    "min-max": min_max,
    "percentile": percentile,
    "mse": mean_squared_error,
    "entropy": entropy,
}
