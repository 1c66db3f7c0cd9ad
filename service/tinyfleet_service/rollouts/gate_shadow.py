"""shadow: candidate and active model on the same labelled inputs."""

from __future__ import annotations

from tinyfleet_service.analysis import NO_DEVICE_ALONE, paired_shadow_test
from tinyfleet_service.rollouts.judging import GateResult, Look, points
from tinyfleet_service.rollouts.state_machine import ALL_CLASSES, Outcome
from tinyfleet_service.words import quantity


def judge_shadow(look: Look) -> list[GateResult]:
    """Paired counts of all shadowing devices together: nobody relies on the candidate yet, so harm stops all of it.

    No device decides alone (`analysis/paired.py`). A loss that is shown to be within the margin is none, however sure
    it is: with labels enough every loss is sure.
    """
    spec, alpha, canaries = look.spec, look.alpha("shadow", ALL_CLASSES), look.arm(canary=True)
    pairs = look.panel.pairs[look.row][canaries] if canaries.any() else [(0, 0, 0, 0)]
    test = paired_shadow_test(pairs, margin=spec.margin, alpha_promote=spec.alpha, alpha_harm=alpha)
    numbers = test.to_dict() | {"margin": spec.margin, "alpha_promote": spec.alpha, "alpha_harm": alpha}
    alive, labels = canaries & look.panel.alive(look.number), look.panel.pairs[look.row].sum(axis=1)
    judged = f"{quantity(test.labels, 'labelled pair')} of {quantity(test.devices, 'device')}"
    text = f"{points(test.difference)} points on {judged}"
    bounds = f"bounds {points(test.lower)} to {points(test.upper)}"
    bounds += ", whichever device is left out" if test.devices >= NO_DEVICE_ALONE else ""
    outcome, text, within = Outcome.HOLD, f"{text}, {bounds}", test.lower > -spec.margin
    if not test.labels:
        text = f"no labelled pairs yet; {spec.min_labels} per device wanted"
    elif test.upper < 0 and not within:
        outcome, text = Outcome.ROLLBACK, f"worse: {text}"
    elif not alive.any() or look.reached(alive, labels) < spec.min_labels:
        text = f"{text}; {look.few_of(alive, labels, spec.min_labels, 'labelled pairs')}"
    elif within:
        outcome, text = Outcome.PROMOTE, f"no worse: {text}"
    else:
        text = f"undecided: {text}"
    return [look.result("shadow", ALL_CLASSES, outcome, text, numbers)]
