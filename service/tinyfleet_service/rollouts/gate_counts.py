"""faults and silence: devices that fault, throw the candidate out or say nothing, against control."""

from __future__ import annotations

import numpy as np

from tinyfleet_service.analysis import CountEvidence, count_test, e_value_needed, silence_test, stopping_rejections
from tinyfleet_service.rollouts.judging import GateResult, Look
from tinyfleet_service.rollouts.observe import RETURN_S
from tinyfleet_service.rollouts.panel import Bools
from tinyfleet_service.rollouts.state_machine import ALL_CLASSES, Outcome
from tinyfleet_service.words import quantity

UNLIKE_CONTROL = 2.0
"""Up to so many times the control's share of faults is no harm but by a comparison."""


def judge_faults(look: Look) -> list[GateResult]:
    """Devices with a first fault or a rejected candidate, per class, against control."""
    return [_judge_faults(look, device_class) for device_class in look.classes]


def _judge_faults(look: Look, device_class: str) -> GateResult:
    canaries, controls = (look.arm(canary=side, device_class=device_class) for side in (True, False))
    alpha, devices, control_devices = look.alpha("faults", device_class), int(canaries.sum()), int(controls.sum())
    counted = look.panel.evidence(look.number, "fault", device_class)
    usual = _usual_share(look, canaries, counted.control_events / max(control_devices, 1))
    evidence = count_test(counted, devices=devices, alpha=alpha, usual=usual)
    rejected = int((canaries & look.panel.failed[look.row]).sum())
    answering, wanted = canaries & look.panel.alive(look.number), max(look.spec.min_inferences, 1)
    answers = look.panel.sums["shadow_inferences" if look.stage == "shadow" else "inferences"][look.row]
    numbers = evidence.to_dict() | {"alpha_harm": alpha, "devices": devices, "control_devices": control_devices}
    bar = stopping_rejections(devices)
    numbers |= {
        "usual_share": usual,
        "rejected": rejected,
        "rejections_stop": bar,
        "reached_inferences": look.reached(answering, answers),
    }
    text = f"{evidence.candidate_events} of {quantity(devices, 'device')} faulted,"
    text += f" {evidence.control_events} of {quantity(control_devices, 'control')} {_bars(evidence, alpha)}"
    text += f"; {rejected} threw it out, {bar} stop" if rejected else ""
    capped = evidence.cap is not None and evidence.candidate_events >= evidence.cap
    if evidence.harmful or capped or rejected >= bar:
        return look.result("faults", device_class, Outcome.ROLLBACK, text, numbers)
    if look.reached(answering, answers) < wanted:
        text = f"{text}; {look.few_of(answering, answers, wanted, 'inferences')}"
        return look.result("faults", device_class, Outcome.HOLD, text, numbers)
    return look.result("faults", device_class, Outcome.PROMOTE, text, numbers)


def _bars(evidence: CountEvidence, alpha: float) -> str:
    at_once = "no count" if evidence.cap is None else evidence.cap
    return f"(e {evidence.e_value:.2f} of {e_value_needed(alpha):.0f}, {at_once} stops at once)"


def _usual_share(look: Look, canaries: Bools, control_share: float) -> float:
    """How many of them may have faulted by now: at the rate of what they ran before, or of what controls run."""
    if not canaries.any():
        return 0.0
    faults, active_s = (look.panel.before[name][canaries] for name in ("faults", "active_s"))
    expected = faults / np.maximum(active_s, 1) * look.panel.at_risk_s[look.row][canaries]
    return max(float(-np.expm1(-expected).mean()), UNLIKE_CONTROL * control_share)


def judge_silence(look: Look) -> list[GateResult]:
    """Devices that say nothing after activation, against control's silence in the same time.

    Controls that were silent before and are still, in a store room perhaps, are no measure of that. Canaries that
    fell silent before they began, while downloading, count towards what stops at once; the e-process has no time at
    risk of theirs. What stops at once is who is lost: after an outage devices come back one by one, and those that have
    not yet done so are no harm.
    """
    canaries, controls = look.arm(canary=True), look.arm(canary=False) & look.panel.awake(look.number)
    alpha, silent, lost = look.alpha("silence", ALL_CLASSES), look.panel.silent[look.row], look.panel.lost[look.row]
    devices, control_devices = int(canaries.sum()) + look.taken, int(controls.sum())
    test = silence_test(
        look.panel.evidence(look.number, "silence"),
        devices=devices,
        control_devices=control_devices,
        silent_now=int(silent[canaries].sum()) + look.taken_silent,
        lost_now=int(lost[canaries].sum()) + look.taken_lost,
        control_silent_now=int(silent[controls].sum()),
        alpha=alpha,
    )
    numbers = test.to_dict() | {"alpha_harm": alpha, "silent_before_it_began": look.taken_silent}
    text = f"{test.silent} of {quantity(devices, 'device')} silent,"
    text += f" {test.control_silent} of {quantity(control_devices, 'control')} {_bars(test.evidence, alpha)}"
    if test.evidence.harmful or test.cap_reached:
        return [look.result("silence", ALL_CLASSES, Outcome.ROLLBACK, text, numbers)]
    if test.returning:
        text += f"; {test.lost} still after {RETURN_S} s in which others were heard, the others may come back"
        return [look.result("silence", ALL_CLASSES, Outcome.HOLD, text, numbers)]
    outcome = Outcome.PROMOTE if (canaries & look.panel.alive(look.number)).any() else Outcome.HOLD
    return [look.result("silence", ALL_CLASSES, outcome, text, numbers)]
