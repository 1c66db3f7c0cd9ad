"""latency: a device's own 95th percentile before and after, per class, against the budget ratio.

As many canaries as `coverage` asks for are waited for: those that answer often are first, and say nothing of the
others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyfleet_service.analysis import alpha_at_look, compare_latency, histogram_quantiles
from tinyfleet_service.rollouts.judging import PAID_LOOK_GROWTH, GateResult, Look
from tinyfleet_service.rollouts.panel import Bools
from tinyfleet_service.rollouts.state_machine import Outcome

LATENCY_QUANTILE = 0.95


def judge_latency(look: Look) -> list[GateResult]:
    """Within-device p95 before and after, per class, against the budget ratio."""
    return [_judge_latency(look, device_class) for device_class in look.classes]


def _judge_latency(look: Look, device_class: str) -> GateResult:
    spec, panel = look.spec, look.panel
    earlier = dict(look.earlier.get(("latency", device_class), {}))
    known = _known_before(look, device_class)
    measured = known & _measured(look)
    inferences = np.where(measured, panel.sums["inferences"][look.row], 0)
    counted = known & panel.canary & (measured | panel.alive(look.number))
    paid = int(earlier.get("paid_look", 0))
    if look.reached(counted, inferences) < max(spec.min_inferences, 1) * PAID_LOOK_GROWTH**paid:
        if paid:
            return look.result("latency", device_class, Outcome(earlier["outcome"]), str(earlier["summary"]), earlier)
        text = look.few_of(counted, inferences, spec.min_inferences, "inferences to compare with before")
        return look.result("latency", device_class, Outcome.HOLD, text, {"paid_look": 0, "summary": text})
    return _at_look(look, device_class, measured, paid + 1)


def _at_look(look: Look, device_class: str, measured: Bools, paid: int) -> GateResult:
    spec, panel, chosen = look.spec, look.panel, np.flatnonzero(measured)
    counted = panel.histograms("latency", look.number)
    alpha = alpha_at_look(look.alpha("latency", device_class), paid)
    test = compare_latency(
        histogram_quantiles(counted.buckets, counted.before[chosen], LATENCY_QUANTILE),
        histogram_quantiles(counted.buckets, counted.gained[chosen], LATENCY_QUANTILE),
        panel.canary[chosen],
        [panel.strata[i] for i in chosen],
        budget_ratio=spec.latency_ratio,
        alpha_harm=alpha,
        seed=look.seed,
        progress=look.keep,
    )
    text = f"p95 {test.ratio or float('nan'):.2f}x of before, budget {spec.latency_ratio:.2f}x (p {test.p_harm:.4f})"
    if test.ratio is None:
        text = "no control in the canaries' strata has enough inferences"
    outcome = Outcome.ROLLBACK if test.harmful else Outcome.PROMOTE if test.within_budget else Outcome.HOLD
    levels: dict[str, Any] = {"alpha_harm": alpha, "paid_look": paid, "quantile": LATENCY_QUANTILE, "summary": text}
    return look.result("latency", device_class, outcome, text, test.to_dict() | levels)


def _known_before(look: Look, device_class: str) -> Bools:
    """Devices of the draw with a histogram before."""
    panel, before = look.panel, look.panel.histograms("latency", look.number).before
    mask: Bools = panel.of_class(device_class) & ~panel.joiner & panel.seen(look.number) & (before.sum(axis=1) > 0)
    return mask


def _measured(look: Look) -> Bools:
    """Devices with a histogram and enough inferences after."""
    gained = look.panel.histograms("latency", look.number).gained
    enough = look.panel.sums["inferences"][look.row] >= look.spec.min_inferences
    mask: Bools = enough & (gained.sum(axis=1) > 0)
    return mask
