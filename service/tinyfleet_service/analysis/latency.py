"""Latency from on-device histograms: within-device quantiles, candidate against control, against a budget.

Buckets are quarter octaves from 1 us, `4 * floor(log2 us) + next two bits` (protocol.cddl), so a value is known to
about 19 %. Latency of one class is nearly deterministic, devices differ by clock and load, so each device is its own
reference: y = -log2(quantile after / quantile before), larger is better. The arms are compared by the randomisation
test, which makes the unit the device; harm is a slowdown significantly beyond the budget ratio, not any slowdown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_service.analysis.randomisation import randomisation_test


@dataclass(frozen=True)
class LatencyResult:
    """Result of `compare_latency`: `ratio` is candidate's slowdown against control, 1.0 = none."""

    devices: int
    control_devices: int
    ratio: float | None
    budget_ratio: float
    p_harm: float
    smallest_p: float
    within_budget: bool
    harmful: bool

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain numbers."""
        return asdict(self)


def bucket_floor_us(bucket: int) -> float:
    """Lower edge of a latency bucket in microseconds."""
    return float(2 ** (bucket // 4) * (1 + (bucket % 4) / 4))


def merge_histograms(histograms: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """Bucket-wise sum."""
    merged: dict[int, int] = {}
    for histogram in histograms:
        for bucket, count in histogram.items():
            merged[bucket] = merged.get(bucket, 0) + count
    return merged


def histogram_quantile(histogram: Mapping[int, int], q: float) -> float | None:
    """The `q` quantile in microseconds, linear within its bucket; None for an empty histogram."""
    total = sum(histogram.values())
    if total <= 0:
        return None
    wanted, seen = q * total, 0
    for bucket in sorted(histogram):
        count = histogram[bucket]
        if count > 0 and seen + count >= wanted:
            low, high = bucket_floor_us(bucket), bucket_floor_us(bucket + 1)
            return low + (high - low) * (wanted - seen) / count
        seen += count
    return None


def compare_latency(
    before_us: npt.ArrayLike,
    after_us: npt.ArrayLike,
    treated: npt.ArrayLike,
    strata: list[str],
    *,
    budget_ratio: float,
    alpha_harm: float,
    seed: int,
) -> LatencyResult:
    """Within-device slowdown of canaries against control for one device class; arrays `(devices,)` in microseconds."""
    mask = np.asarray(treated, dtype=bool)
    values = -np.log2(np.asarray(after_us, dtype=np.float64) / np.asarray(before_us, dtype=np.float64))
    budget = float(np.log2(budget_ratio))
    result = randomisation_test(
        values,
        mask,
        strata,
        margin=budget,
        harm_beyond=budget,
        alpha_promote=alpha_harm,
        alpha_harm=alpha_harm,
        seed=seed,
    )
    ratio = None if result.difference is None else float(2**-result.difference)
    return LatencyResult(
        devices=result.canaries,
        control_devices=result.controls,
        ratio=ratio,
        budget_ratio=budget_ratio,
        p_harm=result.p_harm,
        smallest_p=result.smallest_p,
        within_budget=ratio is not None and ratio <= budget_ratio,
        harmful=ratio is not None and ratio > budget_ratio and result.p_harm <= alpha_harm,
    )
