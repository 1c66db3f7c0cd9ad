"""drift: do the canaries answer otherwise than before, by class or by confidence, where the controls do not?

It needs no labels and says nothing of right and wrong: the world may have moved, or the candidate may be the better
model. So it never rolls back. What it finds holds the stage where it is required, and is told once as an event.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyfleet_service.analysis import Drift, alpha_at_look, answer_drift
from tinyfleet_service.rollouts.judging import PAID_LOOK_GROWTH, GateResult, Look
from tinyfleet_service.rollouts.panel import Bools, Histograms
from tinyfleet_service.rollouts.state_machine import ALL_CLASSES, Outcome

KINDS = {"predicted": "classes", "confidence": "confidence"}
ANSWERS = 500
"""Of all canaries together: of fewer, a tenth of the mass moves between ten buckets by chance in two of five cases."""


def judge_drift(look: Look) -> list[GateResult]:
    """All canaries of the stage together; strata hold the device classes apart."""
    earlier = dict(look.earlier.get(("drift", ALL_CLASSES), {}))
    counted = {kind: _counted(look, kind) for kind in KINDS}
    answers = {kind: _answers(look, kind, devices) for kind, devices in counted.items()}
    paid, most = int(earlier.get("paid_look", 0)), max(answers.values())
    if not most and _silent_about_answers(look):
        text = "these models count neither classes nor confidence"
        return [_result(look, Outcome.PROMOTE, text, {"paid_look": paid})]
    if most < ANSWERS * PAID_LOOK_GROWTH**paid:
        if paid:  # nothing new to pay for: what the last paid look said still holds
            return [_result(look, Outcome(earlier["outcome"]), earlier["summary"], earlier | {"alert": False})]
        text = f"{most} of the {ANSWERS} answers of canaries that a comparison needs"
        return [_result(look, Outcome.HOLD, text, {"paid_look": 0})]
    found = {kind: _compare(look, kind, devices) for kind, devices in counted.items() if answers[kind] >= ANSWERS}
    return [_at_look(look, found, paid + 1, earlier)]


def _at_look(look: Look, found: dict[str, Drift], paid: int, earlier: dict[str, Any]) -> GateResult:
    """Half of the level for each histogram, and of that what this paid look may spend."""
    alpha, limit = alpha_at_look(look.spec.alpha / len(KINDS), paid), look.spec.drift_distance
    drifted = {k: d for k, d in found.items() if d.distance is not None and d.p <= alpha and d.distance >= limit}
    text = ", ".join(f"{KINDS[k]} {d.distance:.2f}" for k, d in found.items() if d.distance is not None)
    text = f"distance to control: {text}; {limit:.2f} is drift" if text else "no control in the canaries' strata"
    smallest = min(drift.smallest_p for drift in found.values())
    if drifted:
        text = f"answers drifted ({', '.join(KINDS[kind] for kind in drifted)}): {text}"
    elif smallest > alpha:
        text = f"this draw cannot tell drift from chance: {text}"
    numbers: dict[str, Any] = {kind: drift.to_dict() for kind, drift in found.items()}
    numbers |= {"alpha": alpha, "limit": limit, "paid_look": paid, "drifted": sorted(drifted)}
    numbers["alert"] = bool(drifted) and not earlier.get("drifted")
    return _result(look, Outcome.HOLD if drifted else Outcome.PROMOTE, text, numbers)


def _result(look: Look, outcome: Outcome, text: str, numbers: dict[str, Any]) -> GateResult:
    return look.result("drift", ALL_CLASSES, outcome, text, numbers | {"summary": text})


def _histograms(look: Look, kind: str) -> Histograms:
    return look.panel.histograms(kind, look.number)


def _counted(look: Look, kind: str) -> Bools:
    """Devices of the draw with answers on both sides of their start."""
    counts = _histograms(look, kind)
    both = (counts.before.sum(axis=1) > 0) & (counts.gained.sum(axis=1) > 0)
    mask: Bools = both & ~look.panel.joiner & look.panel.seen(look.number)
    return mask


def _answers(look: Look, kind: str, devices: Bools) -> int:
    return int(_histograms(look, kind).gained[devices & look.panel.canary].sum())


def _silent_about_answers(look: Look) -> bool:
    """Whether canaries have answered as often as is wanted, and nobody has counted a class or a confidence."""
    answered = look.panel.sums["inferences"][look.row][look.panel.canary & look.panel.seen(look.number)]
    return not any(_histograms(look, kind).buckets for kind in KINDS) and int(answered.sum()) >= ANSWERS


def _compare(look: Look, kind: str, devices: Bools) -> Drift:
    counts, chosen, panel = _histograms(look, kind), np.flatnonzero(devices), look.panel
    return answer_drift(
        counts.before[chosen],
        counts.gained[chosen],
        panel.canary[chosen],
        [panel.strata[i] for i in chosen],
        seed=look.seed,
    )
