"""accuracy: a device's own change across the swap, canaries against controls, over the stratified draw.

Labels come late. What a canary's earlier image is credited with after the swap answers inputs from before it, and a
control cannot tell such labels from new ones. So both arms are compared over the same labels: all that came since the
start, whichever image they credit. A canary's candidate made only a share of those; an effect d on the candidate
moves the sum by that share of d, and margin and difference are scaled by it.

As many canaries as `coverage` asks for are waited for until they have enough labels, but for those that had too few
before: those come no more. Who is left out like that was settled before the swap, the same for both arms.

A loss that is shown to be within the margin is none, however sure it is: with labels enough every loss is sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyfleet_service.analysis import alpha_at_look, deciding_looks, randomisation_test, smallest_p
from tinyfleet_service.rollouts.judging import PAID_LOOK_GROWTH, GateResult, Look, points
from tinyfleet_service.rollouts.panel import Bools, Floats, Ints
from tinyfleet_service.rollouts.spec import RolloutSpec
from tinyfleet_service.rollouts.state_machine import ALL_CLASSES, Outcome

CONTROL_LABELS = 0.5
"""A device counts from this share of the wanted labels on: waiting for every control would lose half of the draw's
size, and with it the smallest p-value, at the moment the canaries are ready."""
WAVE_LOOKS = 3
"""A wave whose draw cannot decide accuracy in so many looks leaves that verdict to the canary."""


def judge_accuracy(look: Look) -> list[GateResult]:
    """Before/after differences, canaries against controls, over the stratified draw; a harm check per class."""
    scopes = [ALL_CLASSES, *(c for c in look.classes if f"accuracy|{look.stage}|{c}" in look.shares)]
    return [_judge_accuracy(look, scope) for scope in scopes]


def wave_decides(spec: RolloutSpec, sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether a wave drawn like this can decide accuracy by itself."""
    return deciding_looks(spec.alpha, smallest_p(list(sizes))) >= WAVE_LOOKS


def _judge_accuracy(look: Look, scope: str) -> GateResult:
    if look.stage.startswith("waves") and not wave_decides(look.spec, look.sizes):
        text = "too few devices are left to decide here: the canary's verdict stands"
        return look.result("accuracy", scope, Outcome.PROMOTE, text, {"paid_look": 0, "summary": text})
    earlier, panel = dict(look.earlier.get(("accuracy", scope), {})), look.panel
    drawn = panel.of_class(None if scope == ALL_CLASSES else scope) & ~panel.joiner & panel.seen(look.number)
    wanted, after = max(look.spec.min_labels, 1), panel.sums["labelled"][look.row]
    comparable = drawn & panel.canary & (panel.before["labelled"] >= wanted)
    counted = comparable & ((after >= wanted) | panel.alive(look.number))
    paid = int(earlier.get("paid_look", 0))
    if look.reached(counted, after) < wanted * PAID_LOOK_GROWTH**paid:
        return _between_looks(look, scope, earlier, paid, _waiting_text(look, drawn, counted))
    labels = np.minimum(panel.before["labelled"], after)
    return _at_look(look, scope, drawn & (labels >= max(look.spec.min_labels * CONTROL_LABELS, 1)), paid + 1)


def _between_looks(look: Look, scope: str, earlier: dict[str, Any], paid: int, text: str) -> GateResult:
    """Nothing new to pay for: what the last paid look said still holds."""
    if paid:
        outcome = Outcome(earlier["outcome"])
        return look.result("accuracy", scope, outcome, str(earlier["summary"]), earlier)
    return look.result("accuracy", scope, Outcome.HOLD, text, {"paid_look": 0, "summary": text})


def _waiting_text(look: Look, drawn: Bools, counted: Bools) -> str:
    drawn, wanted = drawn & look.panel.canary & look.panel.alive(look.number), max(look.spec.min_labels, 1)
    unknown = int((drawn & (look.panel.before["labelled"] < wanted)).sum())
    if unknown and not counted.any():
        return f"no canary has {wanted} labels from before to compare with: more do not come, promote goes on"
    text = look.few_of(counted, look.panel.sums["labelled"][look.row], wanted, "labels since the change")
    return text + (f"; {unknown} had fewer before and are left out" if unknown else "")


def _at_look(look: Look, scope: str, devices: Bools, paid: int) -> GateResult:
    spec, panel, chosen = look.spec, look.panel, np.flatnonzero(devices)
    alpha_harm = alpha_at_look(look.alpha("accuracy", scope), paid)
    alpha_promote = alpha_at_look(spec.alpha, paid)
    share = _candidate_share(look, devices)
    test = randomisation_test(
        _changes(look, chosen) / share,
        panel.canary[chosen],
        [panel.strata[i] for i in chosen],
        margin=spec.margin,
        alpha_promote=alpha_promote,
        alpha_harm=alpha_harm,
        seed=look.seed,
        progress=look.keep,
    )
    text = f"{points(test.difference)} points, {test.canaries} canaries against {test.controls} controls"
    text += f" (p harm {test.p_harm:.4f}, p promote {test.p_promote:.4f}, smallest {test.smallest_p:.4f})"
    outcome, within = Outcome.HOLD, test.lower is not None and test.lower > -spec.margin
    if test.upper is not None and test.upper < 0 and not within:
        outcome, text = Outcome.ROLLBACK, f"worse: {text}"
    elif scope != ALL_CLASSES:
        outcome, text = Outcome.PROMOTE, f"no harm shown: {text}"
    elif within:
        outcome, text = Outcome.PROMOTE, f"no worse: {text}"
    elif test.smallest_p > alpha_promote:
        text = f"this draw can no longer decide: {text}"
    levels = {"margin": spec.margin, "alpha_promote": alpha_promote, "alpha_harm": alpha_harm, "label_share": share}
    return look.result("accuracy", scope, outcome, text, test.to_dict() | levels | {"paid_look": paid, "summary": text})


def _since_start(look: Look, name: str) -> Ints:
    """Labels or right answers credited since the start, to either image."""
    labels: Ints = look.panel.sums[name][look.row] + look.panel.late[name][look.row]
    return labels


def _candidate_share(look: Look, devices: Bools) -> float:
    """Which part of the canaries' labels since the start speaks about the candidate, device by device on average."""
    canaries = devices & look.panel.canary
    return float((look.panel.sums["labelled"][look.row][canaries] / _since_start(look, "labelled")[canaries]).mean())


def _changes(look: Look, chosen: Any) -> Floats:
    after = _since_start(look, "correct")[chosen] / _since_start(look, "labelled")[chosen]
    changes: Floats = after - look.panel.before["correct"][chosen] / look.panel.before["labelled"][chosen]
    return changes
