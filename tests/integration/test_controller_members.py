"""Who belongs to which rollout: joiners of a harmed class, revoked devices, and devices that several rollouts had."""

from __future__ import annotations

import pytest
from sqlmodel import select

from integration.rollout_fleet import CLASSES, Fleet
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Build, Device, DeviceState, RolloutMember, StableBuild
from tinyfleet_service.errors import StateConflictError
from tinyfleet_service.rollouts.tick import due_rollouts

GATES = {"accuracy": "off", "shadow": "off"}
ALL = {"canary": "100%", "gates": GATES}


@pytest.fixture(scope="module")
def after_v1(tmp_path_factory) -> Fleet:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), devices=6)
    for version in ("v1", "v2", "v3", "v4"):
        fleet.push(version, 0.9)
    assert fleet.run(fleet.start("v1", canary="100%"), 40) == "promoted"
    return fleet


@pytest.fixture
def fleet(after_v1, tmp_path) -> Fleet:
    return after_v1.copy(tmp_path)


def stable_of(fleet: Fleet) -> dict[str, int | None]:
    with session_scope(fleet.engine, read_only=True) as session:
        return {row.device_class: row.rollout_id for row in session.exec(select(StableBuild))}


def statuses(fleet: Fleet, rollout: int) -> dict[str, str]:
    return {member.device_id: member.status for member in fleet.members(rollout)}


def test_a_harmed_class_takes_no_joiners(fleet):
    with session_scope(fleet.engine, read_only=True) as session:
        images = session.exec(select(Build.image_sha256).where(Build.device_class == CLASSES[1])).all()
    fleet.golden_fails = {str(image)[:32] for image in images} & fleet.images("v2")
    rollout = fleet.start("v2", canary="4", gates=GATES)
    assert fleet.run(rollout) == "held"
    late = fleet.enrol("late-1", CLASSES[1], "lyon")
    fleet.settle(6)
    assert late.id not in statuses(fleet, rollout)
    assert late.id in fleet.running("v1")
    fleet.ask(rollout, "resume")
    assert fleet.run(rollout, 100) == "promoted"
    assert stable_of(fleet) == {CLASSES[0]: rollout, CLASSES[1]: 1}


def test_a_first_version_that_is_undone_is_for_no_joiner(fleet):
    fleet.ask(1, "undo")
    fleet.settle(3)
    assert stable_of(fleet) == {}
    late = fleet.enrol("late-1", CLASSES[1], "lyon")
    fleet.settle(5)
    assert late.id not in fleet.running("v1")


def test_revoked_canaries_are_no_silent_ones(fleet):
    rollout = fleet.start("v2", canary="4", gates=GATES, soak_s=15.0)
    fleet.settle(8)
    gone = [member.device_id for member in fleet.members(rollout) if member.wave == 0][:2]
    with session_scope(fleet.engine) as session:
        for device_id in gone:
            session.get_one(Device, device_id).state = DeviceState.REVOKED
    for device in fleet.devices:
        device.off = device.id in gone
    assert fleet.run(rollout, 120) == "promoted"
    assert {statuses(fleet, rollout)[device_id] for device_id in gone} == {"skipped"}
    assert all(row["equal"] for row in fleet.explain(rollout)["decisions"])


def test_a_rollout_waits_no_more_for_a_device_that_a_newer_one_took(fleet):
    two = fleet.start("v2", **ALL, coverage=0.5)
    fleet.settle(2)
    slow = fleet.devices[0]
    slow.wait = 1000
    assert fleet.run(two, 60) == "promoted"
    assert statuses(fleet, two)[slow.id] == "downloading"
    slow.wait = 0
    three = fleet.start("v3", **ALL)
    assert fleet.run(three, 60) == "promoted"
    fleet.settle(3)
    assert statuses(fleet, two)[slow.id] == "skipped"
    with session_scope(fleet.engine, read_only=True) as session:
        assert due_rollouts(session) == []
    four = fleet.start("v4", **ALL)
    with session_scope(fleet.engine, read_only=True) as session:
        back = session.exec(select(RolloutMember.previous_build_id).where(RolloutMember.rollout_id == four)).all()
        builds = session.exec(select(RolloutMember.build_id).where(RolloutMember.rollout_id == three)).all()
    assert set(back) == set(builds)  # what everybody runs, not what the slow one ran before the rollout it left


def test_an_undo_reaches_devices_that_a_newer_rollout_gave_back(fleet):
    two = fleet.start("v2", **ALL)
    assert fleet.run(two, 60) == "promoted"
    three = fleet.start("v3", canary="2", gates=GATES)
    fleet.settle(8)
    assert len(fleet.running("v3")) == 2
    fleet.ask(three, "undo")
    fleet.settle(1)
    fleet.devices[0].off = True
    fleet.settle(7)
    fleet.ask(two, "undo")
    fleet.settle(8)
    fleet.devices[0].off = False
    fleet.settle(8)
    assert len(fleet.running("v1")) == 6
    assert set(statuses(fleet, two).values()) == {"undone"}
    assert set(statuses(fleet, three).values()) == {"undone", "skipped"}


def test_what_an_aborted_rollout_left_on_devices_is_undone_first(fleet):
    two = fleet.start("v2", **ALL)
    assert fleet.run(two, 60) == "promoted"
    three = fleet.start("v3", canary="2", gates=GATES)
    fleet.settle(8)
    fleet.ask(three, "abort")
    fleet.settle(2)
    with pytest.raises(StateConflictError, match=f"rollout {three} came later"):
        fleet.ask(two, "undo")
    fleet.ask(three, "undo")
    fleet.settle(6)
    fleet.ask(two, "undo")
    fleet.settle(8)
    assert len(fleet.running("v1")) == 6


@pytest.mark.parametrize(("verb", "components"), [("abort", 1), ("undo", 1), ("undo", 2)])
def test_a_first_version_that_ended_is_not_installed_any_more(tmp_path, verb, components):
    """Whoever runs it keeps it, since there is nothing else; a sleeper wakes without it, and nobody waits for that."""
    fleet = Fleet(tmp_path, devices=6, components=("model/0", "model/1")[:components])
    fleet.push("v1", 0.9)
    fleet.settle(1)
    if components > 1:
        fleet.push("w1", 0.9, component="model/1")
        assert fleet.run(fleet.start("w1", model="model1", **ALL), 40) == "promoted"
    sleeper, slow = fleet.devices[:2]
    rollout = fleet.start("v1", **ALL, soak_s=1000.0)
    sleeper.off = True
    fleet.settle(1)
    fleet.step()
    slow.wait = 1000
    fleet.settle(8)
    assert statuses(fleet, rollout)[sleeper.id] == "assigned"
    assert statuses(fleet, rollout)[slow.id] == "downloading"
    fleet.ask(rollout, verb)
    fleet.settle(3)
    with session_scope(fleet.engine, read_only=True) as session:
        assert due_rollouts(session) == []
    sleeper.off, slow.wait = False, 0
    fleet.settle(8)
    assert set(fleet.running("v1")) == {device.id for device in fleet.devices[2:]}
    assert len(fleet.running("w1") if components > 1 else fleet.devices) == 6
    told = statuses(fleet, rollout)
    assert {told.pop(sleeper.id), told.pop(slow.id)} == {"undone"}
    assert set(told.values()) == {"confirmed"}
    fleet.push("v2", 0.9)
    assert fleet.run(fleet.start("v2", **ALL), 60) == "promoted"
    assert len(fleet.running("v2")) == 6


def test_harm_of_a_first_version_keeps_it_from_who_sleeps(tmp_path):
    fleet = Fleet(tmp_path, devices=6)
    fleet.push("v1", 0.9)
    fleet.golden_fails = fleet.images("v1")
    fleet.devices[0].off = True
    rollout = fleet.start("v1", **ALL, on_harm="all")
    assert fleet.run(rollout, 40) == "rolled_back"
    fleet.settle(2)
    fleet.golden_fails, fleet.devices[0].off = set(), False
    fleet.settle(8)
    assert fleet.running("v1") == []


@pytest.mark.parametrize("ticks", [0, 6])
def test_a_version_that_was_undone_goes_out_again_to_who_is_not_back_yet(fleet, ticks):
    """What a device goes to counts, not what it still runs, or the fleet is split: asleep, or before the undo began."""
    two = fleet.start("v2", **ALL)
    assert fleet.run(two, 60) == "promoted"
    for device in fleet.devices[:3]:
        device.off = True
    fleet.ask(two, "undo")
    fleet.settle(ticks)
    again = fleet.start("v2", canary="2", gates=GATES, coverage=0.5)
    members = fleet.members(again)
    assert len(members) == 6
    with session_scope(fleet.engine, read_only=True) as session:
        first = set(session.exec(select(RolloutMember.build_id).where(RolloutMember.rollout_id == 1)))
    assert {member.previous_build_id for member in members} == first
    if ticks:
        assert {m.device_id for m in members if m.wave == 0}.isdisjoint(device.id for device in fleet.devices[:3])
    for device in fleet.devices[:3]:
        device.off = False
    assert fleet.run(again, 60) == "promoted"
    fleet.settle(8)
    assert len(fleet.running("v2")) == 6
    fleet.ask(again, "undo")
    fleet.settle(8)
    assert len(fleet.running("v1")) == 6


def test_who_tries_a_version_that_is_superseded_by_itself_takes_part(fleet):
    two = fleet.start("v2", **ALL, confirm_timeout_s=1000, soak_s=1000.0)
    while not fleet.running("v2"):
        fleet.settle(1)
    again = fleet.start("v2", **ALL, supersede=True)
    assert len(fleet.members(again)) == 6
    assert fleet.run(again, 60) == "promoted"
    fleet.settle(8)
    assert fleet.rollout(two).state == "aborted"
    assert len(fleet.running("v2")) == 6


def test_what_a_narrowed_rollout_brought_is_stable_where_it_was_for(fleet):
    two = fleet.start("v2", **ALL, where="site=lyon")
    assert fleet.run(two, 60) == "promoted"
    here, there = fleet.enrol("late-1", CLASSES[0], "lyon"), fleet.enrol("late-2", CLASSES[0], "oslo")
    fleet.settle(8)
    assert here.id in fleet.running("v2")
    assert there.id in fleet.running("v1")
    fleet.ask(two, "undo")
    fleet.settle(8)
    assert stable_of(fleet) == dict.fromkeys(CLASSES, 1)


def test_undo_leaves_the_stable_build_of_a_newer_rollout_elsewhere(fleet):
    two, three = fleet.start("v2", **ALL, where="site=lyon"), fleet.start("v3", **ALL, where="site=oslo")
    for rollout in (two, three):
        assert fleet.rollout(rollout).state == "promoted" or fleet.run(rollout, 60) == "promoted"
    newest = stable_of(fleet)
    older, newer = (three, two) if set(newest.values()) == {two} else (two, three)
    assert set(newest.values()) == {newer}
    fleet.ask(older, "undo")
    fleet.settle(8)
    assert stable_of(fleet) == newest
    fleet.ask(newer, "undo")
    fleet.settle(8)
    assert stable_of(fleet) == dict.fromkeys(CLASSES, 1)


def test_undo_brings_back_what_was_stable_and_not_what_most_of_its_devices_ran(fleet):
    pilot = fleet.start("v2", **ALL, where="site=lyon")
    fleet.settle(8)
    fleet.ask(pilot, "abort")
    fleet.settle(2)
    three = fleet.start("v3", **ALL)
    assert fleet.run(three, 60) == "promoted"
    fleet.ask(three, "undo")
    fleet.settle(8)
    assert stable_of(fleet) == dict.fromkeys(CLASSES, 1)
    late = fleet.enrol("late-1", CLASSES[0], "lyon")
    fleet.settle(8)
    assert late.id in fleet.running("v1")
