"""Tables of the int16 operators (NUMERICS.md section 8), the same in the simulator and, generated, in C."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.layout import LUT_INT16_ENTRIES, SIGMOID_ENTRIES
from tinyfleet_compiler.numerics import Array, round_half_away

INT16_MIN, INT16_MAX = -32768, 32767
_RANGE = np.float32(INT16_MAX - INT16_MIN)


def interpolation_table(
    function: Callable[[Array], Array],
    first: float,
    last: float,
    steps_per_unit: float,
    real: Any,
) -> npt.NDArray[np.int16]:
    """Entries of a table whose 512 even steps lead from `first` to `last`, in arithmetic of type `real`.

    Each entry but the last is lowered by half of what straight lines are too high in the middle of its step.
    """
    step = (real(last) - real(first)) / real(LUT_INT16_ENTRIES - 1)
    index = np.arange(LUT_INT16_ENTRIES).astype(real)
    low, gain = real(first), real(steps_per_unit)
    at = function(low + index * step) * gain
    sample = round_half_away(at).astype(real)
    middle = round_half_away(function(low + index[:-1] * step + step / real(2)) * gain).astype(real)
    line = round_half_away((at[1:] + sample[:-1]) / real(2)).astype(real)
    lowered = sample[:-1] - round_half_away((line - middle) / real(2)).astype(real)
    final = round_half_away(function(np.array([last], real)) * gain)
    return np.asarray(np.clip(np.concatenate([lowered, final]), INT16_MIN, INT16_MAX), dtype=np.int16)


def _exp(x: Array) -> Array:
    return np.exp(x.astype(np.float64)).astype(np.float32)


def _one_over_one_plus(x: Array) -> Array:
    return np.asarray(np.float32(1.0) / (np.float32(1.0) + x))


def _float32_table(
    function: Callable[[Array], Array], scale: np.float32, zero_point: int, output: np.float32
) -> npt.NDArray[np.int16]:
    first, last = (scale * np.float32(code - zero_point) for code in (INT16_MIN, INT16_MAX))
    reach = output * np.float32(INT16_MAX) - output * np.float32(INT16_MIN)
    return interpolation_table(
        function, float(first), float(last), float((_RANGE + np.float32(1.0)) / reach), np.float32
    )


EXP = _float32_table(_exp, np.float32(10.0) / _RANGE, INT16_MAX, np.float32(2.0) / _RANGE)
"""exp over [-10, 0], Q15."""
RECIPROCAL = _float32_table(_one_over_one_plus, np.float32(1.0) / _RANGE, INT16_MIN, np.float32(2.0) / _RANGE)
"""1 / (1 + x) over [0, 1], Q15."""


def _sigmoid_table() -> npt.NDArray[np.int64]:
    index = np.arange(SIGMOID_ENTRIES, dtype=np.float64)
    low, middle, high = (65536.0 / (1.0 + np.exp(-(index + part) / 24.0)) for part in (0.0, 0.5, 1.0))
    raised = round_half_away(low + (middle - (low + high) / 2.0) / 2.0).astype(np.int64)
    return np.append(raised[:-1], 65535)


SIGMOID = _sigmoid_table()
"""sigmoid(i / 24), Q16, raised by half of what straight lines are too low in the middle of a step; it ends below 1."""

TABLES = (
    ("FLEET_EXP_INT16", EXP),
    ("FLEET_RECIPROCAL_INT16", RECIPROCAL),
    ("FLEET_SIGMOID_UINT16", SIGMOID),
)
