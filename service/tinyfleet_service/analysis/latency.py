"""Latency from on-device histograms: within-device quantiles, candidate against control, against a budget.

Buckets are quarter octaves from 1 us, `4 * floor(log2 us) + next two bits` (protocol.cddl), so a value is known to
about 19 %. Latency of one class is nearly deterministic, devices differ by clock and load, so each device is its own
reference: y = -log2(quantile after / quantile before), larger is better. The arms are compared by the randomisation
test, which makes the unit the device; harm is a slowdown significantly beyond the budget ratio, not any slowdown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_service.analysis.randomisation import Progress, randomisation_test, unwatched


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
        return dict(vars(self))


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
    buckets = sorted(bucket for bucket, count in histogram.items() if count > 0)
    if not buckets:
        return None
    return float(histogram_quantiles(buckets, [[histogram[bucket] for bucket in buckets]], q)[0])


def histogram_quantiles(buckets: Sequence[int], counts: npt.ArrayLike, q: float) -> npt.NDArray[np.float64]:
    """The `q` quantile of each row of `counts` `(devices, len(buckets))` in microseconds, NaN for empty rows.

    `buckets` names the columns in ascending order.
    """
    table = np.asarray(counts, dtype=np.float64)
    if not table.size:
        return np.full(len(table), np.nan)
    edges = np.array([(bucket_floor_us(bucket), bucket_floor_us(bucket + 1)) for bucket in buckets])
    reached = table.cumsum(axis=1)
    wanted = q * reached[:, -1]
    column = ((reached >= wanted[:, None]) & (table > 0)).argmax(axis=1)
    rows = np.arange(len(table))
    inside = table[rows, column]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = (wanted - (reached[rows, column] - inside)) / inside
    low, high = edges[column].T
    quantiles: npt.NDArray[np.float64] = low + (high - low) * part
    return quantiles


def compare_latency(
    before_us: npt.ArrayLike,
    after_us: npt.ArrayLike,
    treated: npt.ArrayLike,
    strata: list[str],
    *,
    budget_ratio: float,
    alpha_harm: float,
    seed: int,
    progress: Progress = unwatched,
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
        progress=progress,
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
