"""What people may ask of rollouts: approve, freeze, retry, take another's place; and what they may not."""

from __future__ import annotations

import pytest
from sqlmodel import select

from integration.rollout_fleet import Fleet
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import DesiredEntry
from tinyfleet_service.errors import ForbiddenError, RolloutConflictError, StateConflictError
from tinyfleet_service.rollouts import freeze, request, thaw

ALL = {"canary": "100%", "gates": {"accuracy": "off", "shadow": "off"}}


@pytest.fixture
def fleet(tmp_path) -> Fleet:
    fleet = Fleet(tmp_path, devices=6)
    for version in ("v1", "v2", "v3"):
        fleet.push(version, 0.9)
    assert fleet.run(fleet.start("v1", canary="100%"), 40) == "promoted"
    return fleet


def by(fleet: Fleet, rollout: int, verb: str, name: str) -> None:
    with session_scope(fleet.engine) as session:
        request(session, rollout, verb, name)


def test_a_rollout_that_wants_approval_touches_nobody_until_somebody_else_approves(fleet):
    rollout = fleet.start("v2", **ALL, approval=True, created_by="ada")
    fleet.settle(3)
    assert fleet.rollout(rollout).state == "pending"
    assert all(member.assigned_at is None for member in fleet.members(rollout))
    with pytest.raises(RolloutConflictError):
        fleet.start("v3", **ALL)
    for nobody in ("ada", ""):
        with pytest.raises(ForbiddenError, match="somebody else"):
            by(fleet, rollout, "approve", nobody)
    by(fleet, rollout, "approve", "grace")
    assert fleet.run(rollout, 40) == "promoted"


def test_a_frozen_fleet_stands_still_and_still_goes_back(fleet):
    rollout = fleet.start("v2", canary="2", waves="100%", gates=ALL["gates"])
    while not any(member.assigned_at for member in fleet.members(rollout)):
        fleet.step()
        fleet.tick()
    with session_scope(fleet.engine) as session:
        freeze(session, 1, "ada")
    fleet.settle(12)
    assert sum(member.assigned_at is not None for member in fleet.members(rollout)) == 2
    assert fleet.rollout(rollout).stage == "canary"
    for refused in (lambda: fleet.start("v3", **ALL), lambda: fleet.ask(rollout, "promote")):
        with pytest.raises(StateConflictError, match="frozen"):
            refused()
    fleet.ask(rollout, "undo")
    fleet.settle(8)
    assert len(fleet.running("v1")) == 6
    with session_scope(fleet.engine) as session:
        thaw(session, 1, "grace")
    assert fleet.run(fleet.start("v3", **ALL), 40) == "promoted"


def test_retry_assigns_again_what_a_device_rejected(fleet):
    fleet.golden_fails = fleet.images("v2")
    rollout = fleet.start("v2", canary="100%", gates={"faults": "off", "accuracy": "off", "shadow": "off"})
    fleet.settle(8)
    assert {member.status for member in fleet.members(rollout)} == {"rejected"}
    fleet.golden_fails = set()
    fleet.ask(rollout, "retry")
    fleet.settle(14)
    assert len(fleet.running("v2")) == 6
    assert {member.status for member in fleet.members(rollout)} == {"confirmed"}


def test_a_retry_that_is_undone_before_it_is_assigned_leaves_nobody_the_candidate(fleet):
    """A paused rollout assigns nobody anew, so the devices still hold the assignment that they rejected."""
    fleet.golden_fails = fleet.images("v2")
    rollout = fleet.start("v2", canary="100%", gates={"faults": "off", "accuracy": "off", "shadow": "off"})
    fleet.settle(8)
    for verb in ("pause", "retry", "undo"):
        fleet.ask(rollout, verb)
        fleet.tick()
    fleet.settle(8)
    assert {member.status for member in fleet.members(rollout)} == {"undone"}
    with session_scope(fleet.engine, read_only=True) as session:
        assigned = set(session.exec(select(DesiredEntry.build_id)))
    assert assigned == {member.previous_build_id for member in fleet.members(rollout)}


def test_one_rollout_takes_the_place_of_another_only_when_asked(fleet):
    old = fleet.start("v2", canary="2", waves="100%", gates=ALL["gates"], soak_s=1000.0)
    fleet.settle(2)
    with pytest.raises(RolloutConflictError, match="--supersede"):
        fleet.start("v3", **ALL)
    new = fleet.start("v3", **ALL, supersede=True)
    assert fleet.run(new, 60) == "promoted"
    assert fleet.rollout(old).state == "aborted"
    assert len(fleet.running("v3")) == 6
    live = {"assigned", "downloading", "shadowing", "testing", "undoing", "silent"}
    assert not [member for member in fleet.members(old) if member.status in live]
    fleet.ask(new, "undo")
    fleet.settle(8)
    assert not fleet.running("v3")


@pytest.mark.parametrize("verb", ["pause", "promote", "retry"])
def test_an_abort_that_was_asked_for_is_not_forgotten_for_another_verb(fleet, verb):
    old = fleet.start("v2", canary="2", waves="100%", gates=ALL["gates"], soak_s=1000.0)
    fleet.settle(2)
    fleet.start("v3", **ALL, supersede=True)
    with pytest.raises(StateConflictError, match="about to abort"):
        fleet.ask(old, verb)
    fleet.ask(old, "undo")
    fleet.settle(1)
    assert fleet.rollout(old).state == "rolled_back"


def test_a_rollout_that_waits_for_approval_takes_nobodys_place_yet(fleet):
    old = fleet.start("v2", canary="2", waves="100%", gates=ALL["gates"], soak_s=1000.0)
    fleet.settle(2)
    new = fleet.start("v3", **ALL, supersede=True, approval=True, created_by="ada")
    fleet.settle(3)
    assert (fleet.rollout(old).state, fleet.rollout(new).state) == ("running", "pending")
    by(fleet, new, "approve", "grace")
    assert fleet.run(new, 60) == "promoted"
    assert fleet.rollout(old).state == "aborted"
    assert len(fleet.running("v3")) == 6


def test_a_rollout_that_nobody_approves_leaves_the_other_alone(fleet):
    old = fleet.start("v2", **ALL)
    new = fleet.start("v3", **ALL, supersede=True, approval=True, created_by="ada")
    fleet.ask(new, "abort")
    assert fleet.run(old, 60) == "promoted"
    assert fleet.rollout(new).state == "aborted"


def test_an_approved_rollout_goes_back_to_what_became_the_version_while_it_waited(fleet):
    old = fleet.start("v2", **ALL)
    fleet.settle(1)
    new = fleet.start("v3", **ALL, supersede=True, approval=True, created_by="ada")
    assert fleet.run(old, 60) == "promoted"
    by(fleet, new, "approve", "grace")
    assert fleet.run(new, 60) == "promoted"
    assert fleet.rollout(old).state == "promoted"
    fleet.ask(new, "undo")
    fleet.settle(8)
    assert len(fleet.running("v2")) == 6
