"""Rollouts end to end on a simulated fleet: real database, plan, gates, tick and signing; 60 devices in four strata."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from sqlmodel import select

from integration.rollout_fleet import CLASSES, Fleet
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import (
    Decision,
    Desired,
    DesiredEntry,
    Device,
    DeviceState,
    MemberStatus,
    RolloutMember,
    StableBuild,
)
from tinyfleet_service.errors import LeaseLostError, PlanError, RolloutConflictError, StateConflictError
from tinyfleet_service.rollouts import RETURN_S, forget_counters, make_plan, parse_spec, tick


@pytest.fixture(scope="module")
def before_v1(tmp_path_factory):
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    for version, accuracy in (("v1", 0.85), ("v2", 0.92), ("v3", 0.72)):
        fleet.push(version, accuracy)
    return fleet


@pytest.fixture(scope="module")
def after_v1(before_v1, tmp_path_factory):
    fleet = before_v1.copy(tmp_path_factory.mktemp("fleet"))
    fleet.run(fleet.start("v1", canary="100%"))
    fleet.settle(15)
    assert len(fleet.running("v1")) == 60
    return fleet


@pytest.fixture(scope="module")
def after_v2(after_v1, tmp_path_factory):
    fleet = after_v1.copy(tmp_path_factory.mktemp("fleet"))
    assert fleet.run(fleet.start("v2"), 150) == "promoted"
    fleet.settle(10)
    return fleet


@pytest.fixture
def fleet(before_v1, tmp_path):
    return before_v1.copy(tmp_path)


@pytest.fixture
def on_v1(after_v1, tmp_path):
    return after_v1.copy(tmp_path)


@pytest.fixture
def on_v2(after_v2, tmp_path):
    return after_v2.copy(tmp_path)


def test_a_first_version_goes_out_without_shadow_and_says_why(fleet):
    rollout = fleet.start("v1", canary="5%")
    assert fleet.rollout(rollout).stage == "canary"
    assert fleet.run(rollout, 120) == "promoted"
    view = fleet.view(rollout)
    assert view["stages"][0]["status"] == "skipped"
    assert "earlier version" in view["stages"][0]["skipped"]
    assert "accuracy" not in {gate["gate"] for stage in view["stages"] for gate in stage["gates"]}
    assert len(fleet.running("v1")) == 60


def test_a_better_version_passes_every_gate_and_becomes_stable(on_v2):
    view = on_v2.view(2)
    assert (view["state"], view["ended_stage"], view["canary_devices"]) == ("promoted", "waves", 3)
    assert len(on_v2.running("v2")) == 60
    assert Counter(on_v2.telemetry.cohorts.values()).most_common()[-1] == ("2/canary", 3)
    assert (view["bytes_full"], view["bytes_sent"]) == (60 * 6000, 60 * 2000)
    assert view["accuracy_device"] == pytest.approx(0.92, abs=0.02)
    assert view["accuracy_server"] == pytest.approx(0.9)
    with session_scope(on_v2.engine, read_only=True) as session:
        assert {row.rollout_id for row in session.exec(select(StableBuild))} == {2}
    explained = on_v2.explain(2)
    assert explained["equal"]
    assert {"shadow", "accuracy", "faults", "silence", "latency"} <= {row["gate"] for row in explained["decisions"]}
    with session_scope(on_v2.engine) as session:
        assert forget_counters(session, on_v2.rollout(2).finished_at, on_v2.now) > 0, "those of rollout 1"
        assert forget_counters(session, on_v2.rollout(2).finished_at, on_v2.now) == 0, "its own time has not come"
    assert on_v2.explain(2) == explained


def test_numbers_and_words_that_an_update_added_are_no_difference(on_v2):
    words = {"summary": "in other words"}
    for change, equal in (({}, True), (words, True), ({"devices": -1}, False), ({"of_before": 1}, False)):
        with session_scope(on_v2.engine) as session:
            decision = session.exec(select(Decision).where(Decision.gate == "silence")).first()
            decision.numbers = {n: v for n, v in decision.numbers.items() if n != "cap_reached"} | change
        assert on_v2.explain(decision.rollout_id)["equal"] is equal


def test_decisions_by_rules_of_before_stay_as_they_were_stored(on_v2):
    """An update amid the canary: what was decided until then is no difference, what came after is compared."""
    with session_scope(on_v2.engine) as session:
        rows = session.exec(select(Decision).where(Decision.rollout_id == 2).order_by(Decision.id)).all()
        middle = [row for row in rows if row.stage == "canary"]
        half = middle[len(middle) // 2].look
        old = [row for row in rows if row.stage == "shadow" or (row.stage == "canary" and row.look < half)]
        for row in old:
            row.numbers = {n: v for n, v in row.numbers.items() if n != "rules"} | {"of_before": 1}
        ids, total = {row.look for row in middle if row.look < half}, len(rows)
    assert ids
    explained = on_v2.explain(2)
    assert explained["equal"], [row for row in explained["decisions"] if row["equal"] is False][:2]
    assert explained["earlier_rules"] == len(old) < total
    assert sum(row["equal"] is None and row["recomputed"] is None for row in explained["decisions"]) == len(old)
    with session_scope(on_v2.engine) as session:
        for row in session.exec(select(Decision).where(Decision.rollout_id == 2)):
            row.numbers = row.numbers | {"rules": 0}
    explained = on_v2.explain(2)
    assert (explained["equal"], explained["earlier_rules"]) == (None, total)


def test_shadow_stops_a_worse_version_before_any_device_relies_on_it(on_v2):
    rollout = on_v2.start("v3")
    assert on_v2.run(rollout) == "rolled_back"
    on_v2.settle(5)
    view = on_v2.view(rollout)
    assert view["ended_stage"] == "shadow"
    assert "shadow: worse" in view["reason"]
    assert on_v2.running("v3") == []
    assert len(on_v2.running("v2")) == 60
    assert view["members"] == {"skipped": 57, "undone": 3}
    assert all(member.activated_at is None for member in on_v2.members(rollout))
    assert on_v2.explain(rollout)["equal"]


def test_with_shadow_advisory_the_canary_gate_undoes_without_a_download(on_v2):
    rollout = on_v2.start("v3", gates={"shadow": "advisory"})
    assert on_v2.run(rollout) == "rolled_back"
    canaries = [m.device_id for m in on_v2.members(rollout) if m.wave == 0]
    assert sorted(on_v2.running("v3")) == sorted(canaries)
    downloads = len(on_v2.downloads)
    on_v2.settle(5)
    view = on_v2.view(rollout)
    assert view["ended_stage"] == "canary"
    assert "accuracy: worse" in view["reason"]
    assert len(on_v2.running("v2")) == 60
    assert len(on_v2.downloads) == downloads
    assert on_v2.explain(rollout)["equal"]


def test_a_silent_and_a_restarted_device_in_the_waves(on_v1):
    """One wave device dies while it writes and comes back; one falls silent after it confirmed and stays so."""
    state = {"cut": None, "silent": None, "read": None}

    members = {}

    def misbehave(device, phase):
        if state["read"] != on_v1.now:
            members.update({m.device_id: m for m in on_v1.members(2)})
            state["read"] = on_v1.now
        if members[device.id].wave == 1 and "WRITING" in phase and state["cut"] is None:
            state["cut"] = device
        if members[device.id].wave == 1 and members[device.id].status == "confirmed" and state["silent"] is None:
            state["silent"] = device if device is not state["cut"] else None
            device.off = state["silent"] is device
        return False

    rollout = on_v1.start("v2")
    on_v1.misbehave = misbehave
    assert on_v1.run(rollout, 200) == "promoted"
    view = on_v1.view(rollout)
    assert view["silent_devices"] == [state["silent"].id]
    assert any(
        g["gate"] == "silence" and g["numbers"]["candidate_events"] == 1 for s in view["stages"] for g in s["gates"]
    )
    state["silent"].off = False
    on_v1.misbehave = None
    on_v1.settle(2)
    assert on_v1.view(rollout)["recovered_devices"] == [state["silent"].id]


def test_an_absence_of_the_service_silences_nobody(on_v1):
    """A whole fleet without control that comes back one by one: without `silence_from` the second look rolled back."""
    asked = {"canary": "100%", "gates": {"accuracy": "off", "shadow": "off"}, "soak_s": 60.0}
    rollout = on_v1.start("v2", **asked, coverage=1.0)
    while any(member.status != MemberStatus.CONFIRMED for member in on_v1.members(rollout)):
        assert on_v1.run(rollout, 1) == "running"
    for device in on_v1.devices:
        device.off = True
    on_v1.now += timedelta(seconds=120)
    on_v1.silence_from = on_v1.now + timedelta(seconds=60)
    for device in on_v1.devices[2:]:
        assert on_v1.run(rollout, 1) == "running"
        device.off = False
    assert on_v1.run(rollout, 90) == "promoted"
    assert on_v1.view(rollout)["silent_devices"] == [device.id for device in on_v1.devices[:2]], "these never came"


@pytest.mark.parametrize(("canary", "never_back"), [("100%", 2), ("58", 2), ("100%", 30)])
def test_an_outage_of_the_devices_own_network_silences_who_never_comes_back(on_v1, canary, never_back):
    """Without control, or beside two that are back first: what comes back bit by bit is no harm."""
    rollout = on_v1.start("v2", canary=canary, gates={"accuracy": "off", "shadow": "off"}, soak_s=60.0)
    while any(m.status != MemberStatus.CONFIRMED for m in on_v1.members(rollout) if m.wave == 0):
        assert on_v1.run(rollout, 1) == "running"
    canaries = {m.device_id for m in on_v1.members(rollout) if m.wave == 0}
    for device in on_v1.devices:
        device.off = True
    assert on_v1.run(rollout, 10) == "running"
    controls = [device for device in on_v1.devices if device.id not in canaries]
    for number, device in enumerate([*controls, *[d for d in on_v1.devices if d.id in canaries][never_back:]], 1):
        device.off = False
        assert number % 4 or on_v1.run(rollout, 1) == "running"
    on_v1.now += timedelta(seconds=RETURN_S)
    assert (on_v1.run(rollout, 20) == "rolled_back") == (never_back == 30)
    assert on_v1.explain(rollout)["equal"]


def test_a_rollout_without_waves_ended_in_its_canary(fleet):
    rollout = fleet.start("v1", canary="100%")
    assert fleet.run(rollout, 120) == "promoted"
    assert fleet.view(rollout)["ended_stage"] == "canary"


def test_canaries_that_fall_silent_while_downloading_roll_back(on_v1):
    """Bricked before any report of the candidate: they have no counters, and count."""

    def misbehave(device, phase):
        device.off = device.off or "WRITING" in phase
        return False

    rollout = on_v1.start("v2", gates={"accuracy": "off"}, soak_s=30.0)
    on_v1.misbehave = misbehave
    assert on_v1.run(rollout, 120) == "rolled_back"
    assert "silence" in on_v1.view(rollout)["reason"]
    assert on_v1.explain(rollout)["equal"]


def test_two_silent_canaries_of_three_roll_back(on_v1):
    rollout = on_v1.start("v2", gates={"accuracy": "off"}, soak_s=30.0)
    confirmed: list[str] = []
    while len(confirmed) < 2:
        assert on_v1.run(rollout, 1) == "running"
        confirmed = [m.device_id for m in on_v1.members(rollout) if m.status == MemberStatus.CONFIRMED]
    for device in on_v1.devices:
        device.off = device.id in confirmed[:2]
    assert on_v1.run(rollout, 6) == "running", "they may come back"
    on_v1.now += timedelta(seconds=RETURN_S)
    assert on_v1.run(rollout, 20) == "rolled_back"
    view = on_v1.view(rollout)
    assert "silence" in view["reason"]
    assert len(view["silent_devices"]) == 2
    for device in on_v1.devices:
        device.off = False
    on_v1.settle(6)
    assert len(on_v1.running("v1")) == 60
    assert on_v1.view(rollout)["members"] == {"skipped": 57, "undone": 3}


def test_a_candidate_that_fails_its_golden_test_on_two_canaries_is_a_fault(on_v1):
    on_v1.golden_fails = on_v1.images("v2")
    rollout = on_v1.start("v2", canary="4")
    assert on_v1.run(rollout, until=("rolled_back", "promoted")) == "rolled_back"
    assert "faults" in on_v1.rollout(rollout).reason
    on_v1.settle(3)
    assert len(on_v1.running("v1")) == 60


def test_harm_in_one_class_undoes_it_and_holds_the_other(on_v1):
    with session_scope(on_v1.engine, read_only=True) as session:
        plan = make_plan(session, parse_spec({"model": "model", "version": "v2"}, on_v1.settings))
        bad = str(plan.builds[CLASSES[1]].image_sha256)[:32]
    on_v1.golden_fails = {bad}
    rollout = on_v1.start("v2", canary="12")
    assert on_v1.run(rollout) == "held"
    on_v1.settle(3)
    statuses = {m.device_class: set() for m in on_v1.members(rollout)}
    for member in on_v1.members(rollout):
        statuses[member.device_class].add(member.status)
    assert statuses[CLASSES[1]] == {MemberStatus.SKIPPED, MemberStatus.UNDONE}
    assert MemberStatus.UNDONE not in statuses[CLASSES[0]]
    on_v1.ask(rollout, "resume")
    assert on_v1.run(rollout, 200) == "promoted"
    with session_scope(on_v1.engine, read_only=True) as session:
        stable = {row.device_class: row.rollout_id for row in session.exec(select(StableBuild))}
    assert stable == {CLASSES[0]: rollout, CLASSES[1]: 1}


def test_no_labels_never_promote_and_are_held_for_a_person(on_v1):
    rollout = on_v1.start("v2", min_labels=1_000_000, deadline_s=40.0)
    assert on_v1.run(rollout) == "held"
    assert "undecided" in on_v1.rollout(rollout).reason
    on_v1.ask(rollout, "promote")
    on_v1.settle(1)
    assert (on_v1.rollout(rollout).state, on_v1.rollout(rollout).stage) == ("running", "canary")


def test_pause_keeps_wave_devices_untouched(on_v1):
    rollout = on_v1.start("v2")
    on_v1.ask(rollout, "pause")
    on_v1.settle(20)
    assert on_v1.rollout(rollout).state == "paused"
    assert on_v1.running("v2") == []
    on_v1.ask(rollout, "resume")
    assert on_v1.run(rollout, 200) == "promoted"


def test_abort_spares_confirmed_devices_and_undo_takes_them_back(on_v1):
    rollout = on_v1.start("v2")
    while on_v1.rollout(rollout).stage != "waves":
        on_v1.settle(1)
    on_v1.ask(rollout, "abort")
    on_v1.settle(8)
    assert on_v1.rollout(rollout).state == "aborted"
    assert len(on_v1.running("v2")) == 3
    on_v1.ask(rollout, "undo")
    on_v1.settle(5)
    assert on_v1.running("v2") == []
    assert on_v1.rollout(rollout).state == "rolled_back"


def test_undo_of_a_promoted_version_brings_the_old_one_and_its_stable_build_back(on_v2):
    on_v2.ask(2, "undo")
    on_v2.settle(6)
    assert len(on_v2.running("v1")) == 60
    with session_scope(on_v2.engine, read_only=True) as session:
        builds = {row.build_id for row in session.exec(select(StableBuild))}
        first = {m.build_id for m in session.exec(select(RolloutMember).where(RolloutMember.rollout_id == 1))}
    assert builds == first
    with pytest.raises(StateConflictError, match="cannot undo"):
        on_v2.ask(2, "undo")


def test_an_older_rollout_cannot_be_undone_below_a_newer_one(on_v2):
    with pytest.raises(StateConflictError, match="rollout 2 came later"):
        on_v2.ask(1, "undo")


def test_joiners_get_the_stable_build_or_join_their_wave(on_v1):
    rollout = on_v1.start("v2", gates={"shadow": "off"})
    late = on_v1.enrol("late-1", CLASSES[0], "lyon")
    on_v1.settle(6)
    (member,) = [m for m in on_v1.members(rollout) if m.device_id == late.id]
    assert member.joiner
    assert member.wave >= 1
    assert late.id in on_v1.running("v1")
    assert on_v1.run(rollout, 250) == "promoted"
    on_v1.settle(5)
    assert late.id in on_v1.running("v2")
    after = on_v1.enrol("late-2", CLASSES[1], "oslo")
    on_v1.settle(8)
    assert after.id in on_v1.running("v2")


def test_intersecting_rollouts_are_refused_and_disjoint_ones_run(on_v1):
    on_v1.start("v2", where="site=lyon", canary="4")
    with pytest.raises(RolloutConflictError, match="rollout 2 is under way"):
        on_v1.start("v3")
    other = on_v1.start("v3", where="site=oslo", canary="4")
    assert on_v1.run(other) == "rolled_back"
    assert on_v1.run(2, 200) == "promoted"
    assert len(on_v1.running("v2")) == 30


def test_plans_name_every_class_without_a_build(fleet):
    fleet.push("v9", 0.9, classes=CLASSES[:1])
    with pytest.raises(PlanError, match=CLASSES[1]):
        fleet.start("v9")
    rollout = fleet.start("v9", skip_class=[CLASSES[1]])
    assert {m.device_class for m in fleet.members(rollout)} == {CLASSES[0]}


def test_a_version_that_everybody_runs_cannot_be_rolled_out(on_v1):
    with pytest.raises(PlanError, match=r"no device would get .*: on .*:v1 already, .*: 60 devices"):
        on_v1.start("v1")


def test_revoked_devices_are_left_out(on_v1):
    rollout = on_v1.start("v2")
    victim = next(m.device_id for m in on_v1.members(rollout) if m.wave == 2)
    with session_scope(on_v1.engine) as session:
        device = session.get(Device, victim)
        device.state = DeviceState.REVOKED
    assert on_v1.run(rollout, 200) == "promoted"
    assert {m.device_id: m.status for m in on_v1.members(rollout)}[victim] == MemberStatus.SKIPPED


def test_a_controller_that_lost_its_lease_writes_nothing(on_v1):
    rollout = on_v1.start("v2")
    with pytest.raises(LeaseLostError):
        tick(on_v1.engine, on_v1.store, on_v1.telemetry, on_v1.keys, on_v1.fence + 7, on_v1.now)
    with session_scope(on_v1.engine, read_only=True) as session:
        assert not session.exec(select(DesiredEntry).where(DesiredEntry.rollout_id == rollout)).all()


def test_a_repeated_tick_changes_nothing(on_v1):
    rollout = on_v1.start("v2")
    on_v1.settle(3)
    with session_scope(on_v1.engine, read_only=True) as session:
        before = {row.device_id: row.sequence for row in session.exec(select(Desired))}
    for _ in range(5):
        on_v1.tick()
    with session_scope(on_v1.engine, read_only=True) as session:
        assert {row.device_id: row.sequence for row in session.exec(select(Desired))} == before
    assert on_v1.rollout(rollout).look <= 3


def test_no_more_devices_update_at_once_than_the_limit(on_v1):
    rollout = on_v1.start("v2", canary="20", gates={"accuracy": "off", "shadow": "off"}, max_in_flight=3)
    most = 0
    for _ in range(12):
        on_v1.tick()
        on_v1.step()
        busy = [m for m in on_v1.members(rollout) if m.status in ("assigned", "downloading", "testing")]
        most = max(most, len(busy))
    assert 0 < most <= 3
    assert sum(m.assigned_at is not None for m in on_v1.members(rollout)) > 3
