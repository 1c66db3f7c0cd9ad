"""The state machine against devices that behave in every way: rules hold at every step, whatever comes when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfleet_service.database.models import MemberStatus, RolloutStage, RolloutState
from tinyfleet_service.rollouts.state_machine import (
    ALL_CLASSES,
    MemberView,
    Outcome,
    RolloutView,
    Seen,
    Slot,
    Stage,
    Target,
    Transition,
    Verdict,
    Want,
    coverage_of,
    next_member,
    next_rollout,
    stage_members,
    stage_ready,
    taken_back,
    wanted,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)
SHADOW, CANARY = Stage(RolloutStage.SHADOW), Stage(RolloutStage.CANARY)
WAVE1, WAVE2 = Stage(RolloutStage.WAVES, 1), Stage(RolloutStage.WAVES, 2)
DONE = Stage(RolloutStage.DONE)
STAGES = (SHADOW, CANARY, WAVE1, WAVE2)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def rollout(stage: Stage = SHADOW, state: RolloutState = RolloutState.RUNNING, **values: object) -> RolloutView:
    defaults = {"soak_s": 5.0, "deadline_s": 100.0, "coverage": 0.95, "on_harm": "class"}
    return RolloutView(state=state, stage=stage, stage_since=T0, stages=STAGES, **{**defaults, **values})


def member(wave: int = 0, status: MemberStatus = MemberStatus.PLANNED, name: str = "d", **values: object) -> MemberView:
    defaults = {"device_class": "m4", "has_previous": True, "silence_s": 3.0}
    return MemberView(device_id=name, wave=wave, status=status, **{**defaults, **values})


def assigned(wave: int = 0, **values: object) -> MemberView:
    return member(wave, **{"status": MemberStatus.ASSIGNED, "assigned_at": T0, **values})


def confirmed(wave: int = 0, since: float = 1, heard: float = 1, **values: object) -> MemberView:
    times = {"assigned_at": T0, "activated_at": at(since), "confirmed_at": at(since), "heard_at": at(heard)}
    return member(wave, MemberStatus.CONFIRMED, **{**times, **values})


def seen(slot: Slot, heard: float, *, follows: bool = True, active: bool = False, reason: int = 0) -> Seen:
    return Seen(at(heard), follows, slot, active, reason)


def gate(outcome: Outcome, *, required: bool = True, scope: str = ALL_CLASSES, name: str = "accuracy") -> Verdict:
    return Verdict(name, scope, required, outcome, "numbers")


# ---- members


def test_a_member_walks_the_slots():
    step = assigned()
    for slot, active, status in [
        (Slot.WRITING, False, MemberStatus.DOWNLOADING),
        (Slot.STAGED, False, MemberStatus.DOWNLOADING),
        (Slot.SHADOW, False, MemberStatus.SHADOWING),
        (Slot.TESTING, True, MemberStatus.TESTING),
        (Slot.CONFIRMED, True, MemberStatus.CONFIRMED),
    ]:
        step = next_member(step, seen(slot, 1, active=active), at(1))
        assert step.status == status
    assert step.shadowed_at == step.activated_at == step.confirmed_at == at(1)


def test_an_old_rejection_of_the_same_image_does_not_count():
    old = seen(Slot.REJECTED, 1, follows=False, reason=36)
    assert next_member(assigned(), old, at(1)).status == MemberStatus.ASSIGNED
    assert next_member(assigned(), replace(old, follows=True), at(1)).status == MemberStatus.REJECTED


def test_news_from_before_the_assignment_is_not_contact():
    stale = next_member(assigned(assigned_at=at(10)), seen(Slot.REJECTED, 5), at(20))
    assert stale.heard_at is None
    assert stale.status == MemberStatus.ASSIGNED


def test_unreached_is_not_silent_and_silence_is_reconciled_by_a_late_report():
    never = next_member(assigned(), Seen(None, False, Slot.NONE, False), at(1000))
    assert never.status == MemberStatus.ASSIGNED
    quiet = next_member(confirmed(), seen(Slot.CONFIRMED, 1, active=True), at(5))
    assert quiet.status == MemberStatus.SILENT
    assert quiet.silent_at == at(5)
    back = next_member(quiet, seen(Slot.CONFIRMED, 6, active=True), at(6))
    assert back.status == MemberStatus.CONFIRMED
    assert back.silent_at == at(5)


def test_silence_counts_from_when_devices_could_be_heard_again():
    said = seen(Slot.CONFIRMED, 1, active=True)
    waited_for = next_member(confirmed(), said, at(50), at(48))
    assert waited_for.status == MemberStatus.CONFIRMED
    assert next_member(waited_for, said, at(52), at(48)).status == MemberStatus.SILENT
    before = next_member(confirmed(), said, at(5))
    assert next_member(before, said, at(50), at(48)).status == MemberStatus.SILENT, "it was before, and is not heard"


def test_a_stage_waits_for_who_could_not_be_heard():
    """Neither settled, since nobody knows, nor unreached, since it has the candidate."""
    cohort = [confirmed(name=f"d-{n}", heard=1 if n else 50) for n in range(4)]
    assert stage_ready(rollout(CANARY), cohort, at(51)) == (False, "1 of 4 devices settled")
    assert stage_ready(rollout(CANARY), cohort[:1], at(51))[1] == "1 of 1 device settled"
    back = [replace(member, heard_at=at(50)) for member in cohort]
    assert stage_ready(rollout(CANARY), back, at(51)) == (True, "4 of 4 devices settled")


@pytest.mark.parametrize("slot", [Slot.NONE, Slot.WRITING, Slot.STAGED])
def test_a_device_that_took_its_assignment_and_is_never_heard_again_is_silent(slot):
    """It may be bricked before it reported the candidate active; one that never took it is unreached, as before."""
    quiet = next_member(assigned(), seen(slot, 1), at(5))
    assert (quiet.status, quiet.silent_at) == (MemberStatus.SILENT, at(5))
    assert next_member(quiet, seen(slot, 1), at(9)) == quiet
    assert next_member(quiet, seen(Slot.STAGED, 9), at(9)).status == MemberStatus.DOWNLOADING
    assert next_member(quiet, seen(Slot.NONE, 9), at(9)).status == MemberStatus.ASSIGNED
    assert next_member(assigned(), seen(Slot.NONE, 1, follows=False), at(5)).status == MemberStatus.ASSIGNED
    sleeper = assigned(silence_s=3600.0)
    assert next_member(sleeper, seen(slot, 1), at(3000)).status != MemberStatus.SILENT


def test_a_sleeper_is_not_silent_within_its_sleep():
    sleeper = confirmed(silence_s=3600.0)
    assert next_member(sleeper, seen(Slot.CONFIRMED, 1, active=True), at(3000)).status == MemberStatus.CONFIRMED


def test_going_back_to_the_old_image_by_itself_is_a_rejection():
    reverted = next_member(confirmed(), seen(Slot.NONE, 2), at(2))
    assert reverted.status == MemberStatus.REJECTED


def test_undoing_ends_only_when_the_device_follows_and_runs_something_else():
    going = replace(confirmed(), status=MemberStatus.UNDOING)
    for still in (seen(Slot.CONFIRMED, 2, active=True), seen(Slot.NONE, 2, follows=False), seen(Slot.SHADOW, 2)):
        assert next_member(going, still, at(2)).status == MemberStatus.UNDOING
    assert next_member(going, seen(Slot.REJECTED, 3, reason=36), at(3)).status == MemberStatus.UNDONE


# ---- wants


@pytest.mark.parametrize(
    ("stage", "wave", "want"),
    [
        (SHADOW, 0, Want(Target.CANDIDATE, True)),
        (SHADOW, 1, None),
        (CANARY, 0, Want(Target.CANDIDATE, False)),
        (CANARY, 1, None),
        (WAVE1, 1, Want(Target.CANDIDATE, False)),
        (WAVE1, 2, None),
    ],
)
def test_a_stage_touches_its_own_devices_only(stage, wave, want):
    assert wanted(rollout(stage), member(wave)) == want


def test_pause_and_hold_assign_nobody_new():
    for state in (RolloutState.PAUSED, RolloutState.HELD):
        assert wanted(rollout(CANARY, state), member(0)) is None
        assert wanted(rollout(CANARY, state), assigned(0)) == Want(Target.CANDIDATE, False)


def test_a_device_without_an_earlier_version_does_not_shadow_and_cannot_go_back():
    new = member(0, has_previous=False)
    assert wanted(rollout(SHADOW), new) is None
    assert wanted(rollout(CANARY), new) == Want(Target.CANDIDATE, False)
    going = replace(new, status=MemberStatus.UNDOING)
    assert wanted(rollout(CANARY, RolloutState.ROLLED_BACK), going) == Want(Target.NOTHING, False)


@pytest.mark.parametrize("keep_confirmed", [True, False])
def test_without_an_earlier_version_only_who_runs_the_candidate_keeps_it(keep_confirmed):
    back = Transition(RolloutState.ABORTED, CANARY, "", (ALL_CLASSES,), keep_confirmed)
    for status in (MemberStatus.ASSIGNED, MemberStatus.DOWNLOADING, MemberStatus.REJECTED, MemberStatus.SILENT):
        never = assigned(has_previous=False, status=status)
        assert taken_back(never, back).status == MemberStatus.UNDOING
    for status in (MemberStatus.TESTING, MemberStatus.CONFIRMED, MemberStatus.SILENT):
        runs = replace(confirmed(has_previous=False), status=status)
        assert taken_back(runs, back).status == status


def test_stragglers_keep_the_assignment_after_promotion():
    done = rollout(DONE, RolloutState.PROMOTED)
    assert wanted(done, assigned(2)) == Want(Target.CANDIDATE, False)


# ---- stages


def test_a_stage_is_passed_only_when_ready_and_every_required_gate_promotes():
    ready = [confirmed(0, name="a"), confirmed(0, name="b")]
    now = at(10)
    ready = [replace(m, heard_at=now) for m in ready]
    passed = next_rollout(rollout(CANARY), ready, [gate(Outcome.PROMOTE)], now)
    assert passed is not None
    assert passed.stage == WAVE1
    assert next_rollout(rollout(CANARY), ready, [gate(Outcome.HOLD)], now) is None
    assert next_rollout(rollout(CANARY), ready, None, now) is None
    advisory = [gate(Outcome.PROMOTE), gate(Outcome.HOLD, required=False)]
    assert next_rollout(rollout(CANARY), ready, advisory, now) is not None
    fresh = [replace(m, confirmed_at=at(9)) for m in ready]
    assert next_rollout(rollout(CANARY), fresh, [gate(Outcome.PROMOTE)], now) is None


def test_no_data_never_promotes():
    assert next_rollout(rollout(CANARY), [assigned(0)], [gate(Outcome.PROMOTE)], at(50)) is None


def test_waves_do_not_begin_when_no_canary_is_left():
    waiting, gone = member(1, name="b"), member(0, MemberStatus.SKIPPED, name="a")
    held = next_rollout(rollout(CANARY), [gone, waiting], None, at(1))
    assert held is not None
    assert held.state == RolloutState.HELD
    passed = next_rollout(rollout(CANARY, held.state, requested="promote"), [gone, waiting], None, at(2))
    assert passed is not None
    assert passed.stage == WAVE1
    for stage, beyond in ((SHADOW, CANARY), (WAVE1, WAVE2)):
        step = next_rollout(rollout(stage), [replace(gone, wave=stage.wave), member(2, name="c")], None, at(1))
        assert step is not None
        assert step.stage == beyond


def test_an_unreached_canary_is_waited_for_then_left():
    there, lost = confirmed(0, name="a"), assigned(0, name="b")
    early, late = at(7), at(20)
    assert not stage_ready(rollout(CANARY), [replace(there, heard_at=early), lost], early)[0]
    assert stage_ready(rollout(CANARY), [replace(there, heard_at=late), lost], late)[0]


def test_undecided_at_the_deadline_is_held():
    held = next_rollout(rollout(CANARY), [assigned(0)], [gate(Outcome.HOLD)], at(100))
    assert held is not None
    assert held.state == RolloutState.HELD
    assert "accuracy" in held.reason


def test_harm_in_shadow_rolls_back_at_shadow():
    back = next_rollout(rollout(SHADOW), [assigned(0)], [gate(Outcome.ROLLBACK)], at(3))
    assert back is not None
    assert (back.state, back.stage) == (RolloutState.ROLLED_BACK, SHADOW)
    assert taken_back(assigned(0), back).status == MemberStatus.UNDOING
    assert taken_back(member(1), back).status == MemberStatus.SKIPPED


def test_advisory_harm_changes_nothing():
    assert next_rollout(rollout(SHADOW), [assigned(0)], [gate(Outcome.ROLLBACK, required=False)], at(3)) is None


def test_harm_in_one_class_undoes_that_class_and_holds_the_rest():
    both = [confirmed(0, name="a"), confirmed(0, name="b", device_class="m0")]
    verdicts = [gate(Outcome.ROLLBACK, scope="m0", name="faults")]
    held = next_rollout(rollout(CANARY), both, verdicts, at(3))
    assert held is not None
    assert (held.state, held.undo) == (RolloutState.HELD, ("m0",))
    assert [taken_back(m, held).status for m in both] == [MemberStatus.CONFIRMED, MemberStatus.UNDOING]
    everything = next_rollout(rollout(CANARY, on_harm="all"), both, verdicts, at(3))
    assert everything is not None
    assert everything.undo == (ALL_CLASSES,)


def test_harm_by_rejection_names_the_reasons_that_devices_gave():
    thrown = [
        confirmed(0, name=str(n), reason=reason, device_class=of_class)
        for n, (reason, of_class) in enumerate([(34, "m4"), (34, "m4"), (31, "m4"), (31, "m0"), (0, "m4")])
    ]
    members = [replace(m, status=MemberStatus.REJECTED) for m in thrown]
    reasons = {
        name: next_rollout(rollout(CANARY), members, [gate(Outcome.ROLLBACK, scope="m4", name=name)], at(3)).reason
        for name in ("faults", "latency")
    }
    assert reasons["faults"].startswith("faults: numbers (2 x confirm timeout, 1 x golden failed)")
    assert reasons["latency"].startswith("latency: numbers; other classes held")


def test_harm_acts_while_paused():
    back = next_rollout(rollout(CANARY, RolloutState.PAUSED), [confirmed(0)], [gate(Outcome.ROLLBACK)], at(3))
    assert back is not None
    assert back.state == RolloutState.ROLLED_BACK


@pytest.mark.parametrize("verb", ["pause", "resume", "promote", "retry"])
def test_harm_acts_before_what_a_person_asked_for_at_the_same_moment(verb):
    ask = rollout(CANARY, requested=verb)
    step = next_rollout(ask, [confirmed(0)], [gate(Outcome.ROLLBACK)], at(3))
    assert step is not None
    assert step.state == RolloutState.ROLLED_BACK


def test_an_abort_is_not_overtaken_by_harm_of_one_class():
    both = [confirmed(0, name="a"), confirmed(0, name="b", device_class="m0")]
    step = next_rollout(rollout(CANARY, requested="abort"), both, [gate(Outcome.ROLLBACK, scope="m0")], at(3))
    assert step is not None
    assert step.state == RolloutState.ABORTED


def test_done_needs_coverage_of_everybody():
    last = rollout(WAVE2)
    here = [confirmed(2, name=str(n), heard=20) for n in range(10)]
    missing = [assigned(1, name=f"x{n}") for n in range(2)]
    assert next_rollout(last, [*here, *missing], [gate(Outcome.PROMOTE)], at(20)) is None
    done = next_rollout(last, here, [gate(Outcome.PROMOTE)], at(20))
    assert done is not None
    assert done.state == RolloutState.PROMOTED


def test_a_stage_is_ready_when_its_share_settled_and_one_of_them_is_well():
    here = [confirmed(0, name=str(n), heard=20) for n in range(19)]
    under_way = [assigned(0, name=f"w{n}", status=MemberStatus.DOWNLOADING, heard_at=at(20)) for n in range(2)]
    assert stage_ready(rollout(CANARY), [*here, under_way[0]], at(20))[0]
    assert not stage_ready(rollout(CANARY), [*here[:18], *under_way], at(20))[0]
    failed = [replace(one, status=MemberStatus.REJECTED) for one in here]
    assert stage_ready(rollout(CANARY), [*failed[1:], here[0]], at(20))[0]
    assert not stage_ready(rollout(CANARY), failed, at(20))[0]


def test_a_stage_waits_for_its_unreached_as_long_as_they_may_be_silent_and_soak():
    cohort = [*[confirmed(0, name=str(n), heard=8) for n in range(9)], assigned(0, name="unreached")]
    assert not stage_ready(rollout(CANARY), cohort, at(7.9))[0]
    assert stage_ready(rollout(CANARY), cohort, at(8))[0]
    assert stage_ready(rollout(CANARY, coverage=0.9), cohort, at(7.9)) == (
        True,
        "9 of 10 devices settled, 1 unreached",
    )


def test_a_share_is_reached_by_exactly_so_many_devices():
    """Where the product of floats lies above the whole number: 0.55 * 100, 0.07 * 100, 0.56 * 100."""
    for share in (0.07, 0.55, 0.56):
        done = [confirmed(2, name=str(n), heard=20) for n in range(round(share * 100))]
        late = [assigned(2, name=f"x{n}", status=MemberStatus.DOWNLOADING, heard_at=at(20)) for n in range(100)]
        last = rollout(WAVE2, coverage=share)
        step = next_rollout(last, [*done, *late[len(done) :]], [gate(Outcome.PROMOTE)], at(20))
        assert step is not None
        assert step.state == RolloutState.PROMOTED
        assert next_rollout(last, [*done[1:], *late[len(done) - 1 :]], [gate(Outcome.PROMOTE)], at(20)) is None


def test_who_was_skipped_or_goes_back_is_in_no_stage_and_in_no_share():
    out = [
        member(0, status, name=status) for status in (MemberStatus.SKIPPED, MemberStatus.UNDOING, MemberStatus.UNDONE)
    ]
    assert stage_members(rollout(CANARY), [*out, confirmed(0)]) == [confirmed(0)]
    assert coverage_of([*out, confirmed(0)]) == (1, 1)
    other = replace(out[0], device_class="m0")
    step = next_rollout(rollout(CANARY), [confirmed(0), other], [gate(Outcome.ROLLBACK, scope="m4")], at(20))
    assert step is not None
    assert (step.state, step.undo) == (RolloutState.ROLLED_BACK, (ALL_CLASSES,))


def test_shadow_is_for_devices_that_ran_something_before():
    first = member(0, name="first", has_previous=False)
    assert stage_members(rollout(SHADOW), [first, member(0)]) == [member(0)]
    assert stage_members(rollout(CANARY), [first, member(0)]) == [first, member(0)]


def test_requests():
    def ask(verb: str, state: RolloutState = RolloutState.RUNNING) -> Transition | None:
        return next_rollout(rollout(CANARY, state, requested=verb), [confirmed(0), assigned(0, name="b")], None, at(1))

    assert ask("pause").state == RolloutState.PAUSED
    assert ask("resume", RolloutState.HELD).state == RolloutState.RUNNING
    assert ask("promote").stage == WAVE1
    assert ask("resume") is None
    abort = ask("abort")
    assert abort.state == RolloutState.ABORTED
    assert taken_back(confirmed(0), abort).status == MemberStatus.CONFIRMED
    assert taken_back(assigned(0), abort).status == MemberStatus.UNDOING
    undo = ask("undo", RolloutState.ABORTED)
    assert taken_back(confirmed(0), undo).status == MemberStatus.UNDOING


ALIVE = {RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.HELD}
TAKEN_IN = {
    "pause": {RolloutState.RUNNING, RolloutState.HELD},
    "resume": {RolloutState.PAUSED, RolloutState.HELD},
    "approve": {RolloutState.PENDING},
    "retry": ALIVE | {RolloutState.PROMOTED},
    "promote": ALIVE,
    "abort": ALIVE | {RolloutState.PENDING},
    "undo": ALIVE | {RolloutState.PROMOTED, RolloutState.ABORTED},
}


@pytest.mark.parametrize("verb", TAKEN_IN)
def test_what_an_operator_may_ask_for_in_each_state(verb: str):
    members = [confirmed(0), replace(assigned(0, name="b"), status=MemberStatus.REJECTED)]
    asked = [rollout(CANARY, state, requested=verb) for state in RolloutState]
    assert {view.state for view in asked if next_rollout(view, members, None, at(1))} == TAKEN_IN[verb]


def test_pending_waits_for_a_second_person():
    pending = rollout(SHADOW, RolloutState.PENDING)
    assert wanted(pending, member(0)) is None
    assert next_rollout(pending, [member(0)], None, at(1000)) is None
    approved = next_rollout(replace(pending, requested="approve"), [member(0)], None, at(1))
    assert (approved.state, approved.stage) == (RolloutState.RUNNING, SHADOW)
    refused = next_rollout(replace(pending, requested="abort"), [member(0)], None, at(1))
    assert taken_back(member(0), refused).status == MemberStatus.SKIPPED
    assert next_rollout(replace(pending, requested="undo"), [member(0)], None, at(1)) is None


def test_a_frozen_fleet_touches_nobody_new_and_still_goes_back():
    ready = [confirmed(0, heard=20)]
    assert next_rollout(rollout(CANARY, frozen=True), ready, [gate(Outcome.PROMOTE)], at(20)) is None
    assert next_rollout(rollout(CANARY, frozen=True, requested="promote"), ready, None, at(20)) is None
    assert wanted(rollout(CANARY, frozen=True), member(0)) is None
    assert wanted(rollout(DONE, RolloutState.PROMOTED, frozen=True), member(2)) is None
    assert wanted(rollout(CANARY, frozen=True), assigned(0)) == Want(Target.CANDIDATE, False)
    back = next_rollout(rollout(CANARY, frozen=True), ready, [gate(Outcome.ROLLBACK)], at(20))
    assert back.state == RolloutState.ROLLED_BACK
    assert wanted(rollout(CANARY, back.state, frozen=True), taken_back(ready[0], back)).target == Target.PREVIOUS


def test_retry_forgets_a_rejection_and_nothing_else():
    rejected = next_member(confirmed(0), seen(Slot.REJECTED, 2, reason=9), at(2))
    assert rejected.status == MemberStatus.REJECTED
    step = next_rollout(rollout(CANARY, requested="retry"), [rejected, confirmed(0)], None, at(3))
    assert (step.state, step.stage) == (RolloutState.RUNNING, CANARY)
    fresh = taken_back(rejected, step)
    assert fresh == member(0)
    assert taken_back(confirmed(0), step) == confirmed(0)
    old = seen(Slot.REJECTED, 4, follows=False, reason=9)
    assert next_member(replace(fresh, status=MemberStatus.ASSIGNED, assigned_at=at(3)), old, at(4)).status == "assigned"
    assert next_rollout(rollout(CANARY, requested="retry"), [confirmed(0)], None, at(3)) is None


# ---- properties


@dataclass
class FakeDevice:
    """A device that takes what it is assigned when it is reached, in whatever order and number reports arrive."""

    slot: Slot = Slot.NONE
    active: bool = False
    want: Want | None = None
    followed: Want | None = None
    heard: datetime | None = None

    def act(self, choice: int, now: datetime) -> None:
        if choice == 0:
            return  # off: nothing happens and nothing is heard
        self.heard = now
        fresh = self.followed is not self.want
        self.followed = self.want
        if self.want is None:
            return
        if self.want.target == Target.PREVIOUS or choice == 1:
            self.slot, self.active = Slot.REJECTED, False
        elif fresh or choice == 2:
            self._advance()

    def _advance(self) -> None:
        order = [Slot.NONE, Slot.WRITING, Slot.STAGED, Slot.SHADOW, Slot.TESTING, Slot.CONFIRMED]
        if self.slot == Slot.REJECTED:
            self.slot = Slot.NONE
        limit = Slot.SHADOW if self.want and self.want.shadow_only else Slot.CONFIRMED
        position = min(order.index(self.slot) + 1, order.index(limit))
        self.slot, self.active = order[position], order[position] in (Slot.TESTING, Slot.CONFIRMED)

    def report(self) -> Seen:
        return Seen(self.heard, self.followed is self.want, self.slot, self.active)


def _steps(
    choices: list[int], outcomes: list[Outcome | None], verbs: list[str | None], longest_s: int, count: int
) -> st.SearchStrategy:
    """Per step: what each device does, the gate's outcome, the verb, whether the tick is lost, seconds until it."""
    acts = st.lists(st.sampled_from(choices), min_size=6, max_size=6)
    lost = st.sampled_from([False, False, False, True])
    step = st.tuples(acts, st.sampled_from(outcomes), st.sampled_from(verbs), lost, st.integers(1, longest_s))
    return st.integers(0, count).flatmap(lambda some: st.lists(step, min_size=some, max_size=some))


VERBS = ["pause", "resume", "promote", "abort", "undo", "retry", "freeze", "thaw"]
FORWARD = _steps([2, 2, 2, 2, 0], [Outcome.PROMOTE, Outcome.PROMOTE, Outcome.HOLD, None], [None], 3, 60)
ANYHOW = _steps([0, 1, 2, 3, 4, 5], [None, Outcome.HOLD, Outcome.PROMOTE, Outcome.ROLLBACK], [None] * 4 + VERBS, 8, 30)


def test_no_device_is_lost_or_past_its_stage():
    """Random devices, gates, verbs, lost ticks (the result is thrown away, as after a crash) and clock steps."""
    reached = set()

    @settings(max_examples=150, deadline=None)
    @given(FORWARD, ANYHOW)
    def walk(forward, anyhow):
        reached.update(_walk(forward + anyhow))

    walk()
    assert {stage for stage, _ in reached} == {*STAGES, DONE}, "the steps do not lead far enough"
    assert {state for _, state in reached} >= {RolloutState.PROMOTED, RolloutState.ROLLED_BACK, RolloutState.ABORTED}


def _walk(steps):
    """Where a rollout came to whose rules held at every step."""
    view, reached = rollout(), set()
    members = [member(wave, name=f"{wave}{n}") for wave in range(3) for n in range(2)]
    devices = {m.device_id: FakeDevice() for m in members}
    clock = 0
    furthest = -1
    for choices, outcome, verb, crash, seconds in steps:
        clock += seconds
        now = at(clock)
        before = (view, list(members))
        members = [next_member(m, devices[m.device_id].report(), now) for m in members]
        for m in members:
            _silence_is_noticed(m, devices[m.device_id].report(), now)
        verdicts = None if outcome is None else [gate(outcome)]
        frozen_before = view.frozen
        view = replace(view, frozen=verb == "freeze" or (view.frozen and verb != "thaw"))
        verb = None if verb in ("freeze", "thaw") else verb
        step = next_rollout(replace(view, requested=verb), members, verdicts, now)
        if frozen_before and view.frozen and step is not None:
            assert step.stage == view.stage, "a frozen fleet passed a stage"
        if step is not None:
            since = now if step.stage != view.stage else view.stage_since
            view = replace(view, state=step.state, stage=step.stage, stage_since=since)
            members = [taken_back(m, step, _held_since(m, devices[m.device_id])) for m in members]
        if crash:  # nothing of this tick was committed
            view, members = before
        for index, m in enumerate(members):
            want = wanted(view, m)
            device = devices[m.device_id]
            again = want is not None and m.status == MemberStatus.PLANNED
            if want is not None and (want != device.want or again):
                device.want = want
                if m.status == MemberStatus.PLANNED:
                    assert not view.frozen
                    members[index] = replace(m, status=MemberStatus.ASSIGNED, assigned_at=now)
        live = view.state in (RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.HELD)
        furthest = max(furthest, view.stage.wave if view.stage != SHADOW else -1)
        if view.state == RolloutState.PROMOTED:
            furthest = 2
        for m in members:
            device = devices[m.device_id]
            given_candidate = device.want is not None and device.want.target == Target.CANDIDATE
            if given_candidate and not device.want.shadow_only:
                assert m.wave <= furthest, "a device got the candidate before its stage"
            if m.status == MemberStatus.UNDONE:
                assert not given_candidate
            assert (m.assigned_at is None) == (m.status in (MemberStatus.PLANNED, MemberStatus.SKIPPED)), m
            if not live and view.state == RolloutState.ROLLED_BACK:
                assert m.status in (MemberStatus.SKIPPED, MemberStatus.UNDOING, MemberStatus.UNDONE)
        for m, choice in zip(members, choices, strict=True):
            devices[m.device_id].act(choice, now)
        reached.add((view.stage, view.state))
    _devices_end_where_the_rollout_says(view, members, devices, clock)
    return reached


def _held_since(m, device):
    candidate = device.want is not None and device.want.target == Target.CANDIDATE
    return T0 if candidate and m.status == MemberStatus.PLANNED else None


def _silence_is_noticed(m, report, now):
    """Nobody who took the assignment up may say nothing for longer than allowed and count as on its way."""
    taken = report.follows or m.status not in (MemberStatus.PLANNED, MemberStatus.ASSIGNED)
    if m.heard_at is None or not taken or now - m.heard_at <= timedelta(seconds=m.silence_s):
        return
    ended = (MemberStatus.SILENT, MemberStatus.REJECTED, MemberStatus.UNDOING, MemberStatus.UNDONE)
    assert m.status in (*ended, MemberStatus.SKIPPED, MemberStatus.PLANNED), m


def _devices_end_where_the_rollout_says(view, members, devices, clock):
    """Once every device is reachable again, nothing stays half-way."""
    for round_number in range(12):
        now = at(clock + 1 + round_number)
        for m in members:
            devices[m.device_id].act(2, now)
        members = [next_member(m, devices[m.device_id].report(), now) for m in members]
    for m in members:
        assert m.status not in (MemberStatus.UNDOING, MemberStatus.SILENT, MemberStatus.DOWNLOADING)
        if view.state == RolloutState.ROLLED_BACK:
            assert not devices[m.device_id].active
