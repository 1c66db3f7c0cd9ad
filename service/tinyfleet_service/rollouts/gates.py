"""Gates at one look: stored records in, outcomes with their numbers out. Pure, so `explain` runs exactly this again.

Each function judges one guardrail of one stage and returns `GateResult`s: promote (enough evidence that it is no
worse than the margin), hold (not decided) or rollback (evidence of harm). Missing data is hold, never promote.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinyfleet_service.analysis import (
    Interval,
    alpha_at_look,
    compare_latency,
    count_e_process,
    deciding_looks,
    hard_cap,
    histogram_quantile,
    paired_shadow_test,
    randomisation_test,
    silence_test,
    smallest_p,
)
from tinyfleet_service.rollouts.snapshots import CANARY, Record
from tinyfleet_service.rollouts.spec import Policy, RolloutSpec
from tinyfleet_service.rollouts.state_machine import ALL_CLASSES, Outcome, Verdict

PAID_LOOK_GROWTH = 1.5
CONTROL_LABELS = 0.5
"""A device counts from this share of the wanted labels on: waiting for every control would lose half of the draw's
size, and with it the smallest p-value, at the moment the canaries are ready."""
LATENCY_QUANTILE = 0.95
WAVE_LOOKS = 3
"""A wave whose draw cannot decide accuracy in so many looks leaves that verdict to the canary."""
GateKey = tuple[str, str]  # gate, scope


@dataclass(frozen=True)
class GateResult:
    """One gate, one scope, one look."""

    gate: str
    scope: str
    required: bool
    outcome: Outcome
    summary: str
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """As the state machine reads it."""
        return Verdict(self.gate, self.scope, self.required, self.outcome, self.summary)


@dataclass(frozen=True)
class Look:
    """Everything one look may read: `shares` is alpha by `gate|stage|scope`, `earlier` the last
    look's numbers, `sizes` the drawn devices and controls per stratum, heard from or not."""

    spec: RolloutSpec
    stage: str
    gates: tuple[str, ...]
    shares: Mapping[str, float]
    number: int
    seed_text: str
    records: Sequence[Record]
    earlier: Mapping[GateKey, Mapping[str, Any]]
    sizes: tuple[tuple[int, int], ...]

    def alpha(self, gate: str, scope: str) -> float:
        """Level of harm for this gate here; advisory gates, which act on nothing, are shown at the whole level."""
        return self.shares.get(f"{gate}|{self.stage}|{scope}", self.spec.alpha)

    @property
    def seed(self) -> int:
        """Seed of sampled draws: repeatable for this look."""
        return zlib.crc32(f"{self.seed_text}/{self.stage}/{self.number}".encode())

    def arm(self, name: str, device_class: str | None = None) -> list[Record]:
        """Records of one arm that have been seen at this look or before."""
        return [
            r
            for r in self.records
            if r.subject.arm == name
            and any(n <= self.number for n in r.looks)
            and device_class in (None, r.subject.device_class)
        ]

    @property
    def classes(self) -> list[str]:
        """Device classes with a canary in this stage."""
        return sorted({r.subject.device_class for r in self.records if r.subject.arm == CANARY})


def judge(look: Look) -> list[GateResult]:
    """All gates of this stage at this look."""
    judges = {
        "shadow": judge_shadow,
        "accuracy": judge_accuracy,
        "faults": judge_faults,
        "silence": judge_silence,
        "latency": judge_latency,
    }
    results: list[GateResult] = []
    for gate in look.gates:
        if look.spec.policy(gate) != Policy.OFF:
            results.extend(judges[gate](look))
    return results


def _result(look: Look, gate: str, scope: str, outcome: Outcome, summary: str, numbers: dict[str, Any]) -> GateResult:
    required = look.spec.policy(gate) == Policy.REQUIRED
    return GateResult(gate, scope, required, outcome, summary, numbers | {"outcome": str(outcome)})


def points(value: float | None) -> str:
    """A difference of accuracies in percentage points."""
    return "?" if value is None else f"{100 * value:+.1f}"


# ---- shadow
# -----------------------------------------------------------------------------------------------------------


def judge_shadow(look: Look) -> list[GateResult]:
    """Paired counts of all shadowing devices together: nobody relies on the candidate yet, so harm stops all of it."""
    spec, alpha = look.spec, look.alpha("shadow", ALL_CLASSES)
    records = look.arm(CANARY)
    pairs = [record.after(look.number)["shadow_pairs"] for record in records]
    test = paired_shadow_test(pairs or [(0, 0, 0, 0)], margin=spec.margin, alpha_promote=spec.alpha, alpha_harm=alpha)
    numbers = test.to_dict() | {"margin": spec.margin, "alpha_promote": spec.alpha, "alpha_harm": alpha}
    labels = [sum(record.after(look.number)["shadow_pairs"]) for record in records if _alive(look, record)]
    text = f"{points(test.difference)} points on {test.labels} labelled pairs of {test.devices} devices"
    bounds = f"bounds {points(test.lower)} to {points(test.upper)}"
    outcome, text = Outcome.HOLD, f"{text}, {bounds}"
    if test.upper < 0:
        outcome, text = Outcome.ROLLBACK, f"worse: {text}"
    elif not labels or min(labels) < spec.min_labels:
        text = f"{text}; {spec.min_labels} per device wanted"
    elif test.lower > -spec.margin:
        outcome, text = Outcome.PROMOTE, f"no worse: {text}"
    else:
        text = f"undecided: {text}"
    return [_result(look, "shadow", ALL_CLASSES, outcome, text, numbers)]


# ---- accuracy
# ---------------------------------------------------------------------------------------------------------


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
        return _result(look, "accuracy", scope, Outcome.PROMOTE, text, {"paid_look": 0, "summary": text})
    earlier = dict(look.earlier.get(("accuracy", scope), {}))
    records = [r for r in look.records if not r.subject.joiner and scope in (ALL_CLASSES, r.subject.device_class)]
    labelled = [r for r in records if _labels(look, r) >= max(look.spec.min_labels * CONTROL_LABELS, 1)]
    canaries = [r for r in labelled if r.subject.arm == CANARY and _labels(look, r) >= look.spec.min_labels]
    waiting = [r for r in records if r.subject.arm == CANARY and _alive(look, r) and r not in canaries]
    paid = int(earlier.get("paid_look", 0))
    fewest = min((r.after(look.number)["labelled"] for r in canaries), default=0)
    if not canaries or waiting or fewest < look.spec.min_labels * PAID_LOOK_GROWTH**paid:
        return _accuracy_between_looks(look, scope, earlier, paid, len(canaries), len(waiting))
    return _accuracy_at_look(look, scope, labelled, paid + 1)


def _alive(look: Look, record: Record) -> bool:
    flags = record.looks.get(look.number, {})
    return bool(flags and not flags.get("silent") and not flags.get("failed"))


def _labels(look: Look, record: Record) -> int:
    """Labels before or after, whichever are fewer."""
    fewest: int = min(record.before.get("labelled", 0), record.after(look.number)["labelled"])
    return fewest


def _accuracy_between_looks(
    look: Look, scope: str, earlier: dict[str, Any], paid: int, ready: int, waiting: int
) -> GateResult:
    """Nothing new to pay for: what the last paid look said still holds."""
    if paid:
        outcome = Outcome(earlier["outcome"])
        return _result(look, "accuracy", scope, outcome, str(earlier["summary"]), earlier)
    text = f"{ready} of {ready + waiting} canaries have {look.spec.min_labels} labels before and after"
    return _result(look, "accuracy", scope, Outcome.HOLD, text, {"paid_look": 0, "summary": text})


def _accuracy_at_look(look: Look, scope: str, records: list[Record], paid: int) -> GateResult:
    spec = look.spec
    alpha_harm = alpha_at_look(look.alpha("accuracy", scope), paid)
    alpha_promote = alpha_at_look(spec.alpha, paid)
    test = randomisation_test(
        [_accuracy_change(look, r) for r in records],
        [r.subject.arm == CANARY for r in records],
        [r.subject.stratum for r in records],
        margin=spec.margin,
        alpha_promote=alpha_promote,
        alpha_harm=alpha_harm,
        seed=look.seed,
    )
    text = f"{points(test.difference)} points, {test.canaries} canaries against {test.controls} controls"
    text += f" (p harm {test.p_harm:.4f}, p promote {test.p_promote:.4f}, smallest {test.smallest_p:.4f})"
    outcome = Outcome.HOLD
    if test.upper is not None and test.upper < 0:
        outcome, text = Outcome.ROLLBACK, f"worse: {text}"
    elif scope != ALL_CLASSES:
        outcome, text = Outcome.PROMOTE, f"no harm shown: {text}"
    elif test.lower is not None and test.lower > -spec.margin:
        outcome, text = Outcome.PROMOTE, f"no worse: {text}"
    elif test.smallest_p > alpha_promote:
        text = f"this draw can no longer decide: {text}"
    levels = {"margin": spec.margin, "alpha_promote": alpha_promote, "alpha_harm": alpha_harm}
    return _result(
        look, "accuracy", scope, outcome, text, test.to_dict() | levels | {"paid_look": paid, "summary": text}
    )


def _accuracy_change(look: Look, record: Record) -> float:
    after = record.after(look.number)
    return float(after["correct"] / after["labelled"] - record.before["correct"] / record.before["labelled"])


# ---- faults and silence
# -----------------------------------------------------------------------------------------------


def judge_faults(look: Look) -> list[GateResult]:
    """Devices with a first fault or a rejected candidate, per class, against control."""
    return [_judge_faults(look, device_class) for device_class in look.classes]


def _judge_faults(look: Look, device_class: str) -> GateResult:
    canaries, controls = look.arm(CANARY, device_class), look.arm("control", device_class)
    alpha = look.alpha("faults", device_class)
    evidence = count_e_process(intervals_of(look, canaries, controls, _faulty))
    cap = hard_cap(len(canaries), evidence.control_events, len(controls))
    answered = min((_answered(look, r) for r in canaries if _alive(look, r)), default=0)
    numbers = evidence.to_dict() | {"cap": cap, "alpha_harm": alpha, "devices": len(canaries)}
    numbers |= {"control_devices": len(controls), "fewest_inferences": answered}
    text = f"{evidence.candidate_events} of {len(canaries)} devices faulted"
    text += f", {evidence.control_events} of {len(controls)} controls (e {evidence.e_value:.2f}, cap {cap})"
    if evidence.e_value >= 1 / alpha or evidence.candidate_events >= cap:
        return _result(look, "faults", device_class, Outcome.ROLLBACK, text, numbers)
    if answered < max(look.spec.min_inferences, 1):
        text = f"{text}; {answered} of {look.spec.min_inferences} inferences on the slowest device"
        return _result(look, "faults", device_class, Outcome.HOLD, text, numbers)
    return _result(look, "faults", device_class, Outcome.PROMOTE, text, numbers)


def judge_silence(look: Look) -> list[GateResult]:
    """Devices that say nothing after activation, against control's silence in the same time."""
    canaries, controls = look.arm(CANARY), look.arm("control")
    alpha = look.alpha("silence", ALL_CLASSES)
    silent, control_silent = (sum(bool(_flag(look, r, "silent")) for r in arm) for arm in (canaries, controls))
    test = silence_test(
        intervals_of(look, canaries, controls, lambda lk, r, n: bool(r.looks[n].get("silent"))),
        devices=len(canaries),
        control_devices=len(controls),
        silent_now=silent,
        control_silent_now=control_silent,
    )
    numbers = test.to_dict() | {"alpha_harm": alpha}
    text = f"{silent} of {len(canaries)} devices silent, {control_silent} of {len(controls)} controls"
    text += f" (e {test.evidence.e_value:.2f}, cap {test.cap})"
    if test.evidence.e_value >= 1 / alpha or test.cap_reached:
        return [_result(look, "silence", ALL_CLASSES, Outcome.ROLLBACK, text, numbers)]
    outcome = Outcome.PROMOTE if any(_alive(look, r) for r in canaries) else Outcome.HOLD
    return [_result(look, "silence", ALL_CLASSES, outcome, text, numbers)]


def _flag(look: Look, record: Record, name: str) -> Any:
    newest = max((n for n in record.looks if n <= look.number), default=None)
    return record.looks[newest].get(name) if newest is not None else None


def _answered(look: Look, record: Record) -> int:
    after = record.after(look.number)
    return int(after["shadow_inferences"] if look.stage == "shadow" else after["inferences"])


def _faulty(look: Look, record: Record, number: int) -> bool:
    return bool(record.looks[number].get("failed")) or record.after(number)["faults"] > 0


def intervals_of(look: Look, canaries: Sequence[Record], controls: Sequence[Record], happened: Any) -> list[Interval]:
    """First events and exposure of both arms between looks; devices silent at their start are not at risk."""
    arms = [_first_events(look, arm, happened) for arm in (canaries, controls)]
    numbers = sorted({n for arm in arms for n in arm})
    return [
        Interval(*(int(arm.get(n, (0, 0.0))[0]) for arm in arms), *(arm.get(n, (0, 0.0))[1] for arm in arms))
        for n in numbers
    ]


def _first_events(look: Look, records: Sequence[Record], happened: Any) -> dict[int, tuple[int, float]]:
    totals: dict[int, tuple[int, float]] = {}
    for record in records:
        if (record.start or {}).get("silent"):
            continue
        last_s = 0.0
        for number in sorted(n for n in record.looks if n <= look.number):
            at_risk_s = float(record.looks[number].get("at_risk_s", 0.0))
            event = bool(happened(look, record, number))
            count, exposure = totals.get(number, (0, 0.0))
            totals[number] = (count + event, exposure + max(at_risk_s - last_s, 0.0))
            last_s = at_risk_s
            if event:
                break
    return totals


# ---- latency
# ----------------------------------------------------------------------------------------------------------


def judge_latency(look: Look) -> list[GateResult]:
    """Within-device p95 before and after, per class, against the budget ratio."""
    return [_judge_latency(look, device_class) for device_class in look.classes]


def _judge_latency(look: Look, device_class: str) -> GateResult:
    spec = look.spec
    earlier = dict(look.earlier.get(("latency", device_class), {}))
    measured = _measured_latency(look, device_class)
    fewest = min((inferences for record, _, _, inferences in measured if record.subject.arm == CANARY), default=0)
    paid = int(earlier.get("paid_look", 0))
    if not fewest or fewest < spec.min_inferences * PAID_LOOK_GROWTH**paid:
        if paid:
            return _result(look, "latency", device_class, Outcome(earlier["outcome"]), str(earlier["summary"]), earlier)
        text = f"fewer than {spec.min_inferences} inferences on the canaries"
        return _result(look, "latency", device_class, Outcome.HOLD, text, {"paid_look": 0, "summary": text})
    alpha = alpha_at_look(look.alpha("latency", device_class), paid + 1)
    test = compare_latency(
        [before for _, before, _, _ in measured],
        [after for _, _, after, _ in measured],
        [record.subject.arm == CANARY for record, _, _, _ in measured],
        [record.subject.stratum for record, _, _, _ in measured],
        budget_ratio=spec.latency_ratio,
        alpha_harm=alpha,
        seed=look.seed,
    )
    text = f"p95 {test.ratio or float('nan'):.2f}x of before, budget {spec.latency_ratio:.2f}x (p {test.p_harm:.4f})"
    if test.ratio is None:
        text = "no control in the canaries' strata has enough inferences"
    outcome = Outcome.ROLLBACK if test.harmful else Outcome.PROMOTE if test.within_budget else Outcome.HOLD
    levels = {"alpha_harm": alpha, "paid_look": paid + 1, "quantile": LATENCY_QUANTILE, "summary": text}
    return _result(look, "latency", device_class, outcome, text, test.to_dict() | levels)


def _measured_latency(look: Look, device_class: str) -> list[tuple[Record, float, float, int]]:
    """Records with enough inferences, their p95 before and after in microseconds, and the inferences after."""
    measured = []
    for record in (r for r in look.records if r.subject.device_class == device_class and not r.subject.joiner):
        after = record.after(look.number)
        old, new = _p95(record.before.get("latency")), _p95(after["latency"])
        if old is not None and new is not None and after["inferences"] >= look.spec.min_inferences:
            measured.append((record, old, new, after["inferences"]))
    return measured


def _p95(histogram: Mapping[str, int] | None) -> float | None:
    return histogram_quantile({int(b): n for b, n in (histogram or {}).items()}, LATENCY_QUANTILE)
