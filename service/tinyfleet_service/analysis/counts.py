"""Rates of rare device events (first fault, revert, silence), candidate against control, by exposure.

The unit is the device: only its first event counts, and it is at risk until then, so a boot loop is one event. Given
that an event happened in an interval with exposures `t_c` and `t_k` (device-seconds at risk), under equal rates it
fell on the candidate side with probability `p = t_c / (t_c + t_k)`, whatever the common rate was. Against it stand
rate ratios r > 1, for which the probability is `q = r t_c / (r t_c + t_k)`. The product over events of q/p or
(1-q)/(1-p), averaged over a fixed grid of r, is a supermartingale for every ratio <= 1: it may be read at any time
(Ville), needs no base rate and is untouched by time-of-day changes common to both arms.

Rates differ from stratum to stratum: a site with bad radio, a class that sleeps. Each event is weighed by the exposures
of its own stratum, since over all of them a common rate would not cancel: canaries that stand beside fewer controls
where rates are high would look like harm.

Source: Lindon and Malek, "Anytime-valid inference for multinomial count data" (NeurIPS 2022), with interval exposures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import exp, lgamma, log, log1p
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
_RATIOS = np.geomspace(1.5, 64.0, 16)
CAP_ALPHA = 0.001
CAP_PART = 0.8
LEAST_SHARE = 0.0001
LEVEL_RATIO = 0.1
MOST_LEVELS = 300
"""Levels of further events are too small for a number."""
NOTHING = 2.0**-54
"""Of a sum: less than the last bit of it."""
RATE_WITHOUT_CONTROL = 0.15
REJECTION_RATE = 0.001


class Interval(NamedTuple):
    """First events and device-seconds at risk of both arms of a stratum between two looks."""

    candidate_events: int
    control_events: int
    candidate_exposure_s: float
    control_exposure_s: float


@dataclass(frozen=True)
class CountEvidence:
    """Result of `count_test`: harm when `harmful` (e-value) or when `cap` candidate events are reached.

    `share` is the chance that an event so far fell on the candidate side, on average; 0 without a control.
    """

    e_value: float
    candidate_events: int
    control_events: int
    candidate_exposure_s: float
    control_exposure_s: float
    share: float = 0.0
    cap: int | None = None
    harmful: bool = False

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain numbers."""
        return dict(vars(self))


@dataclass(frozen=True)
class CountSeries:
    """Evidence after each interval: `totals` `(n, 4)`, `e_values` and candidate shares of the events so far `(n,)`."""

    totals: Floats
    e_values: Floats
    shares: Floats

    def upto(self, row: int) -> CountEvidence:
        """The evidence after interval `row`; none at all for an empty series."""
        if not len(self.e_values):
            return CountEvidence(1.0, 0, 0, 0.0, 0.0)
        x, y, risk_s, control_risk_s = self.totals[row].tolist()
        share = float(self.shares[row])
        return CountEvidence(float(self.e_values[row]), int(x), int(y), risk_s, control_risk_s, share)


@dataclass(frozen=True)
class SilenceResult:
    """Result of `silence_test`: the evidence of all looks, and whether enough devices are lost now, or may be soon."""

    evidence: CountEvidence
    devices: int
    control_devices: int
    silent: int
    control_silent: int
    lost: int
    cap_reached: bool
    returning: bool

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain numbers."""
        own = {name: value for name, value in vars(self).items() if name != "evidence"}
        return self.evidence.to_dict() | own


def count_series(intervals: npt.ArrayLike | Sequence[Interval]) -> CountSeries:
    """E-values against "the candidate's event rate is at most the control's in each stratum" after each interval.

    `intervals` are `(n, 4)`, of several strata `(n, S, 4)`. Where one arm has no exposure they carry no information
    and only add to the totals.
    """
    table = np.asarray(intervals, dtype=np.float64)
    table = table.reshape(len(table), -1, 4) if table.size else np.zeros((len(table), 1, 4))
    both: Bools = np.all(table[:, :, 2:] > 0, axis=2)
    e_values = np.exp(np.minimum(_log_wealth(table, both), 600.0)).mean(axis=1)
    totals = table.sum(axis=1).cumsum(axis=0)
    return CountSeries(totals, e_values, np.where(both.any(axis=1).cumsum() > 0, _shares(table, totals), 0.0))


def _log_wealth(table: Floats, both: Bools) -> Floats:
    """Of a bet on each of the ratios after each interval `(n, ratios)`: only intervals with events change it."""
    rows, strata = np.nonzero(both & table[:, :, :2].any(axis=2))
    x, y, risk, control_risk = table[rows, strata].T[:, :, None]
    less = (risk + control_risk) / (_RATIOS * risk + control_risk)  # (1 - q) / (1 - p); q / p is r times that
    gains = np.zeros((len(table), len(_RATIOS)))
    np.add.at(gains, rows, x * np.log(_RATIOS * less) + y * np.log(less))
    wealth: Floats = gains.cumsum(axis=0)
    return wealth


def _shares(table: Floats, totals: Floats) -> Floats:
    """Mean candidate share of exposure at the events so far, each in its own stratum; of all exposure before any."""
    x, y, risk, control_risk = np.moveaxis(table, 2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.nan_to_num(risk / (risk + control_risk))
        at_events = ((x + y) * share).sum(axis=1).cumsum() / totals[:, :2].sum(axis=1)
        of_all = totals[:, 2] / totals[:, 2:].sum(axis=1)
    shares: Floats = np.where(totals[:, :2].any(axis=1), at_events, of_all)
    return shares


def count_e_process(intervals: npt.ArrayLike | Sequence[Interval]) -> CountEvidence:
    """The evidence after all of `intervals`."""
    return count_series(intervals).upto(-1)


@lru_cache(maxsize=65536)
def stopping_count(share: float, control_events: int, alpha: float, limit: int) -> int | None:
    """The fewest candidate events, 2 to `limit`, that stop a cohort at once beside so many control events.

    Under equal rates each event falls on the candidate side with probability `share`, so before its j-th event control
    has had a negative binomial number of events. The j-th event stops when so few are improbable: P(at most
    `control_events` before it) within the level of j, 0.9 alpha for j = 2 and a tenth of the last for each further j.
    Where shares differ from event to event, their mean bounds that tail (Hoeffding, "On the distribution of the number
    of successes in independent trials", 1956). The levels sum to alpha, so the rule may be read at any time. Two
    bricked devices of a canary of three stop it, yet a fleet in which a tenth is always offline does not stop by
    itself. None when no count up to `limit` does.
    """
    for events in range(2, min(limit, MOST_LEVELS) + 1):
        level = alpha * (1 - LEVEL_RATIO) * LEVEL_RATIO ** (events - 2)
        usual = events <= int((events + control_events) * share)  # below the mean: a tail of half or more
        if not usual and _binomial_tail(events + control_events, events, share) <= level * (1 + 1e-9):
            return events
    return None


def silences_that_stop(sizes: Sequence[tuple[int, int]], alpha: float) -> int | None:
    """How many devices of a cohort have to fall silent to stop it while no control is; None: not even all of them.

    `sizes` are devices and controls per stratum; those that are alone in theirs count beside the most controls.
    """
    devices, beside = sum(own for own, _ in sizes), sorted(((n, own) for own, n in sizes if n), reverse=True)
    if not beside:
        alone = cap_without_control(devices)
        return alone if alone <= devices else None
    beside[0] = beside[0][0], beside[0][1] + sum(own for own, controls in sizes if not controls)
    share = round(sum(own * own / (own + controls) for controls, own in beside) / devices, 4)
    cap = _cap_beside_control(stopping_count(share, 0, alpha * CAP_PART, devices), devices)
    for silent in range(1, min(devices, MOST_LEVELS) + 1):
        evidence = count_e_process([Interval(silent, 0, share, 1 - share)])
        if silent == cap or evidence.e_value >= e_value_needed(alpha):
            return silent
    return cap


def cap_without_control(devices: int, usual: float = 0.0) -> int:
    """Events among `devices` that stop a cohort which nothing can be compared with, at least 2.

    What is improbable when `RATE_WITHOUT_CONTROL` of devices fault or fall silent of themselves, or the share that is
    `usual` among these; more than there are where that may be all of them. A stop for safety's sake, outside alpha.
    """
    improbable = _improbable(devices, max(RATE_WITHOUT_CONTROL, usual))
    return improbable or (max(2, devices) if usual <= RATE_WITHOUT_CONTROL else devices + 1)


def stopping_rejections(devices: int) -> int:
    """Devices that threw a candidate out, among `devices`, that stop a cohort, at least 2; outside alpha as well.

    Controls have nothing to throw out, so no arm tells the usual rate: it is taken to be `REJECTION_RATE`, devices that
    are unplugged, reset or idle all through a trial.
    """
    return _improbable(devices, REJECTION_RATE) or 2


def _cap_beside_control(cap: int | None, devices: int, usual: float = 0.0) -> int | None:
    """`cap` of the comparison with control, or what no fleet shows by itself where that is less."""
    return min(filter(None, (cap, _improbable(devices, max(RATE_WITHOUT_CONTROL, usual)))), default=None)


def _improbable(devices: int, rate: float) -> int | None:
    """The smallest count from 2 on whose binomial tail is at most `CAP_ALPHA`; None where all of them are too few."""
    counts = range(max(2, int(devices * rate) + 1), devices + 1)  # at the mean it is half or more
    return next((n for n in counts if _binomial_tail(devices, n, rate) <= CAP_ALPHA), None)


def e_value_needed(alpha: float) -> float:
    """The e-value from which `count_test` calls harm."""
    return 1 / (alpha * (1 - CAP_PART))


def count_test(evidence: CountEvidence, *, devices: int, alpha: float, usual: float = 0.0) -> CountEvidence:
    """The e-process at a fifth of `alpha`, and the count that stops at once at the rest: few devices depend on it.

    What stops a cohort that has no control stops it beside few, too: that all of its devices have an event may be
    shown by no ratio. `usual`: the share of these devices with an event by now if nothing had changed.
    """
    if not evidence.share:
        return replace(evidence, cap=cap_without_control(devices, usual))
    cap = stopping_count(max(round(evidence.share, 4), LEAST_SHARE), evidence.control_events, alpha * CAP_PART, devices)
    cap = _cap_beside_control(cap, devices, usual)
    return replace(evidence, cap=cap, harmful=evidence.e_value >= e_value_needed(alpha))


def silence_test(
    counted: CountEvidence,
    *,
    devices: int,
    control_devices: int,
    silent_now: int,
    lost_now: int,
    control_silent_now: int,
    alpha: float,
) -> SilenceResult:
    """Devices that fell silent after activation, against control's silence in the same time.

    The e-process counts each device's first silence, the count that stops at once those lost now: silent for so long
    while others were heard that no outage explains it. A late report takes its device out of it. It is held in an
    outage: when control is silent at least half as often, more silence waits for evidence. Of few devices without
    control, of which only all stop it, nobody is left to be heard.
    """
    evidence = count_test(counted, devices=devices, alpha=alpha)
    cap = evidence.cap or devices + 1
    if not control_devices and devices <= cap:
        lost_now = silent_now
    reached = lost_now >= cap
    if control_devices:
        reached &= control_silent_now / control_devices < silent_now / max(devices, 1) / 2
    returning = lost_now < cap <= silent_now
    return SilenceResult(
        evidence, devices, control_devices, silent_now, control_silent_now, lost_now, reached, returning
    )


@lru_cache(maxsize=65536)
def _binomial_tail(n: int, at_least: int, p: float) -> float:
    """P(X >= at_least), X binomial."""
    if p >= 1:
        return 1.0
    log_odds, mass = log(p) - log1p(-p), 0.0
    log_mass = lgamma(n + 1) - lgamma(at_least + 1) - lgamma(n - at_least + 1)
    log_mass += at_least * log(p) + (n - at_least) * log1p(-p)
    for k in range(at_least, n + 1):
        term = exp(log_mass)
        if k > n * p and term <= mass * NOTHING:
            break  # this term and all later ones, which are smaller, no longer change the sum
        mass += term
        log_mass += log_odds + log((n - k) / (k + 1)) if k < n else 0.0
    return min(mass, 1.0)
