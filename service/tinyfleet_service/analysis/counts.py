"""Rates of rare device events (first fault, revert, silence), candidate against control, by exposure.

The unit is the device: only its first event counts, and it is at risk until then, so a boot loop is one event. Given
that an event happened in an interval with exposures `t_c` and `t_k` (device-seconds at risk), under equal rates it
fell on the candidate side with probability `p = t_c / (t_c + t_k)`, whatever the common rate was. Against it stand
rate ratios r > 1, for which the probability is `q = r t_c / (r t_c + t_k)`. The product over events of q/p or
(1-q)/(1-p), averaged over a fixed grid of r, is a supermartingale for every ratio <= 1: it may be read at any time
(Ville), needs no base rate and is untouched by time-of-day changes common to both arms.

Source: Lindon and Malek, "Anytime-valid inference for multinomial count data" (NeurIPS 2022), with interval exposures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import comb
from typing import Any, NamedTuple

import numpy as np

_RATIOS = np.geomspace(1.5, 64.0, 16)
CAP_ALPHA = 0.01
RATE_FLOOR = 0.02
RATE_WITHOUT_CONTROL = 0.05


class Interval(NamedTuple):
    """First events and device-seconds at risk of both arms between two looks."""

    candidate_events: int
    control_events: int
    candidate_exposure_s: float
    control_exposure_s: float


@dataclass(frozen=True)
class CountEvidence:
    """Result of `count_e_process`: reject "the candidate's rate is no higher" when `e_value` >= 1/alpha."""

    e_value: float
    candidate_events: int
    control_events: int
    candidate_exposure_s: float
    control_exposure_s: float

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain numbers."""
        return asdict(self)


@dataclass(frozen=True)
class SilenceResult:
    """Result of `silence_test`: the e-process and the hard cap for small cohorts."""

    evidence: CountEvidence
    devices: int
    control_devices: int
    cap: int
    cap_reached: bool

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain numbers."""
        return {**self.evidence.to_dict(), "devices": self.devices, "control_devices": self.control_devices} | {
            "cap": self.cap,
            "cap_reached": self.cap_reached,
        }


def count_e_process(intervals: Iterable[Interval]) -> CountEvidence:
    """E-value against "the candidate's event rate is at most the control's" over all intervals so far.

    Intervals where one arm has no exposure carry no information and only add to the totals.
    """
    log_wealth = np.zeros_like(_RATIOS)
    totals = np.zeros(4)
    for interval in intervals:
        totals += interval
        x, y, risk, control_risk = interval
        if risk <= 0 or control_risk <= 0 or x + y == 0:
            continue
        share = risk / (risk + control_risk)
        alternative = _RATIOS * risk / (_RATIOS * risk + control_risk)
        log_wealth += x * np.log(alternative / share) + y * np.log((1 - alternative) / (1 - share))
    top = float(log_wealth.max())
    e_value = float(np.exp(min(top + float(np.log(np.mean(np.exp(log_wealth - top)))), 600.0)))
    return CountEvidence(e_value, int(totals[0]), int(totals[1]), float(totals[2]), float(totals[3]))


def hard_cap(devices: int, control_events: int, control_devices: int) -> int:
    """Events among `devices` at which a cohort stops at once, at least 2.

    The smallest count whose binomial tail is at most `CAP_ALPHA` at the control's rate (one event added, floor
    `RATE_FLOOR`): two of three bricked devices stop a canary, yet a fleet where a tenth is always offline does not
    stop by itself.
    """
    rate = RATE_WITHOUT_CONTROL
    if control_devices > 0:
        rate = max(RATE_FLOOR, (control_events + 1) / (control_devices + 2))
    for cap in range(2, devices + 1):
        if _binomial_tail(devices, cap, rate) <= CAP_ALPHA:
            return cap
    return max(2, devices)


def silence_test(
    intervals: Iterable[Interval], *, devices: int, control_devices: int, silent_now: int, control_silent_now: int
) -> SilenceResult:
    """Devices that fell silent after activation, against control's silence in the same time, with the hard cap.

    The e-process counts each device's first silence, the cap those silent now: a late report takes its device out of
    it. The cap is held in an outage: when control is silent at least half as often, more silence waits for evidence.
    """
    evidence = count_e_process(intervals)
    cap = hard_cap(devices, control_silent_now, control_devices)
    reached = silent_now >= cap
    if control_devices:
        reached &= control_silent_now / control_devices < silent_now / max(devices, 1) / 2
    elif devices > cap:
        reached &= silent_now < devices
    return SilenceResult(evidence, devices, control_devices, cap, reached)


def _binomial_tail(n: int, at_least: int, p: float) -> float:
    if n > 400:  # the exact sum overflows floats long before it matters; Chernoff bounds the tail from above
        share = at_least / n
        if share <= p:
            return 1.0
        if share >= 1:
            return float(p**n)
        divergence = share * np.log(share / p) + (1 - share) * np.log((1 - share) / (1 - p))
        return float(np.exp(-n * divergence))
    return float(sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(at_least, n + 1)))
