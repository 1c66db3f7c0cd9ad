"""Range estimators: which real interval an int8 activation covers."""

from collections.abc import Callable

import numpy as np

from tinyfleet_compiler.numerics import round_half_away
from tinyfleet_compiler.quantize.calibrate import Observed

PERCENTILE = 99.99
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


ESTIMATORS: dict[str, Callable[[Observed], tuple[float, float]]] = {
    "min-max": min_max,
    "percentile": percentile,
    "mse": mean_squared_error,
}
