"""Statistics that decide rollouts: pure numpy, no I/O, imports nothing of ours.

Every function takes plain counts or arrays and returns a frozen dataclass with `to_dict()`; the service stores those
numbers with each decision and can recompute them from stored snapshots.

* `paired_shadow_test`: candidate and active model on the same labelled inputs (betting confidence sequence).
* `randomisation_test`: before/after differences, canary against control, over the stratified draw (exact for few
  devices).
* `count_test`, `stopping_count`, `silence_test`: devices that fault, revert or fall silent, by exposure.
* `compare_latency`: within-device latency quantiles against a budget.
* `answer_drift`: whether and how far the canaries' answers moved otherwise than the controls'.
* `alpha_shares`, `alpha_at_look`, `look_due`, `next_look_s`: how the error budget is spent.
"""

from tinyfleet_service.analysis.counts import (
    CountEvidence,
    CountSeries,
    Interval,
    SilenceResult,
    cap_without_control,
    count_e_process,
    count_series,
    count_test,
    e_value_needed,
    silence_test,
    silences_that_stop,
    stopping_count,
    stopping_rejections,
)
from tinyfleet_service.analysis.drift import Drift, answer_drift, jensen_shannon
from tinyfleet_service.analysis.latency import (
    LatencyResult,
    compare_latency,
    histogram_quantile,
    histogram_quantiles,
    merge_histograms,
)
from tinyfleet_service.analysis.paired import NO_DEVICE_ALONE, PairedShadow, paired_shadow_test
from tinyfleet_service.analysis.randomisation import Randomisation, count_draws, randomisation_test, smallest_p
from tinyfleet_service.analysis.spending import alpha_at_look, alpha_shares, deciding_looks, look_due, next_look_s

__all__ = [
    "NO_DEVICE_ALONE",
    "CountEvidence",
    "CountSeries",
    "Drift",
    "Interval",
    "LatencyResult",
    "PairedShadow",
    "Randomisation",
    "SilenceResult",
    "alpha_at_look",
    "alpha_shares",
    "answer_drift",
    "cap_without_control",
    "compare_latency",
    "count_draws",
    "count_e_process",
    "count_series",
    "count_test",
    "deciding_looks",
    "e_value_needed",
    "histogram_quantile",
    "histogram_quantiles",
    "jensen_shannon",
    "look_due",
    "merge_histograms",
    "next_look_s",
    "paired_shadow_test",
    "randomisation_test",
    "silence_test",
    "silences_that_stop",
    "smallest_p",
    "stopping_count",
    "stopping_rejections",
]
