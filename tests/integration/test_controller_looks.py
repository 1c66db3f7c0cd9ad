"""When a stage is looked at: without gates, after it was resumed, and whatever devices say of themselves."""

from __future__ import annotations

import pytest
from sqlalchemy import update
from sqlmodel import select

from integration.rollout_fleet import Fleet
from tinyfleet_service.analysis.spending import MAX_LOOKS, next_look_s
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Decision, Device, Rollout, SnapshotPage
from tinyfleet_service.rollouts import freeze, make_plan, parse_spec
from tinyfleet_service.telemetry import Counters

OFF = dict.fromkeys(("shadow", "accuracy", "faults", "silence", "latency", "drift"), "off")


@pytest.fixture(scope="module")
def after_v1(tmp_path_factory) -> Fleet:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), devices=4)
    for version in ("v1", "v2"):
        fleet.push(version, 0.9)
    assert fleet.run(fleet.start("v1", canary="100%"), 40) == "promoted"
    return fleet


@pytest.fixture
def fleet(after_v1, tmp_path) -> Fleet:
    return after_v1.copy(tmp_path)


def test_a_stage_without_gates_waits_for_its_soak_not_for_its_deadline(fleet):
    rollout = fleet.start("v2", canary="100%", gates=OFF, soak_s=125.0, deadline_s=10_000.0)
    assert fleet.run(rollout, 150) == "promoted"


def test_a_stage_that_is_resumed_after_its_last_look_is_looked_at_again(fleet):
    rollout = fleet.start("v2", canary="2", gates={"shadow": "off"}, min_labels=1_000_000, deadline_s=12.0)
    assert fleet.run(rollout, 30) == "held"
    with session_scope(fleet.engine) as session:  # as after a week's deadline: all looks that a stage has are taken
        row = session.get_one(Rollout, rollout)
        more = MAX_LOOKS - row.look
        row.look = MAX_LOOKS
        for stored in (Decision, SnapshotPage):
            later = update(stored).where(stored.rollout_id == rollout, stored.look > 0)
            session.connection().execute(later.values(look=stored.look + more))
    fleet.ask(rollout, "resume")
    fleet.settle(5)
    assert fleet.rollout(rollout).look > MAX_LOOKS
    assert fleet.explain(rollout)["equal"]


def test_devices_that_say_they_report_all_the_time_stop_no_controller(fleet):
    with session_scope(fleet.engine) as session:
        for device in session.exec(select(Device)):
            device.report_interval_s, device.sleep_max_s = 0, 5
    assert fleet.run(fleet.start("v2", canary="100%", gates={"shadow": "off"}), 60) == "promoted"


@pytest.mark.parametrize("hold", ["deadline", "freeze"])
def test_harm_is_seen_after_the_deadline_too(fleet, hold):
    """While a person thinks, and in a frozen fleet, where the deadline passes unnoticed."""
    rollout = fleet.start(
        "v2", canary="2", waves="100%", gates={"shadow": "off"}, on_harm="all", min_labels=1_000_000, deadline_s=12.0
    )
    fleet.settle(8)
    if hold == "freeze":
        with session_scope(fleet.engine) as session:
            freeze(session, 1, "ada")
    fleet.settle(12)
    assert fleet.rollout(rollout).state == ("held" if hold == "deadline" else "running")
    bad = fleet.images("v2")
    for device in fleet.devices:
        if device.active is not None and device.slots[device.active][1] in bad:
            device.slots[device.active][0], device.slots[device.active][2] = "REJECTED", "INFERENCE_FAILED"
            device.active = 1 - device.active
    fleet.settle(6)
    assert fleet.rollout(rollout).state == "rolled_back"
    assert fleet.explain(rollout)["equal"]


def test_a_rollout_that_is_held_for_long_is_looked_at_ever_more_rarely():
    age_s, looks = 300.0, 0
    while age_s < 30 * 86400:
        age_s, looks = next_look_s(MAX_LOOKS, age_s, 1.0, 300.0), looks + 1
    assert looks < 200


def test_a_plan_says_when_its_deadline_comes_before_its_soak_is_over(fleet):
    with session_scope(fleet.engine, read_only=True) as session:
        specs = [{"soak_s": 60.0, "deadline_s": deadline} for deadline in (60.0, 61.0)]
        plans = [make_plan(session, parse_spec({"model": "model", "version": "v2", **spec})) for spec in specs]
    told = [any("no stage can pass" in text for text in plan.document["warnings"]) for plan in plans]
    assert told == [True, False]


def test_a_plan_says_when_devices_answer_too_seldom_to_confirm(fleet):
    for device, image in {(device.id, image) for device in fleet.devices for image in fleet.images("v1")}:
        fleet.telemetry.counters[(device, image)] = Counters(inferences=60, labelled=10, active_s=600)
    with session_scope(fleet.engine, read_only=True) as session:
        specs = [{"confirm_min_inferences": wanted, "confirm_timeout_s": 300} for wanted in (30, 31)]
        plans = [
            make_plan(session, parse_spec({"model": "model", "version": "v2", **spec}), fleet.telemetry)
            for spec in specs
        ]
    told = [[text for text in plan.document["warnings"] if "too seldom" in text] for plan in plans]
    assert not told[0]
    assert "some 30 times in the 300 s of their trial, 31 are wanted" in told[1][0]
