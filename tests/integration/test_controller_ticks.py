"""A tick looks at what changed, and ends where one that looks at everybody would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func
from sqlmodel import Session, col, select, update

from integration.rollout_fleet import Fleet, SimDevice
from tinyfleet_service import publish
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import (
    DesiredEntry,
    Device,
    DeviceChange,
    DeviceState,
    Event,
    Rollout,
    RolloutMember,
    RolloutProgress,
)
from tinyfleet_service.errors import StateConflictError
from tinyfleet_service.publish import assign_many
from tinyfleet_service.rollouts import observe_members, request, tick
from tinyfleet_service.rollouts.assignments import Work, desired_of
from tinyfleet_service.rollouts.cohort import Cohort
from tinyfleet_service.rollouts.members import read_pages
from tinyfleet_service.rollouts.observe_members import observe, observe_all
from tinyfleet_service.rollouts.state_machine import MemberView

INTERVAL_S = 10
SILENT_FROM, SILENT_TO = 20, 60


def fresh_fleet(path: Path, devices: int = 16) -> Fleet:
    fleet = Fleet(path, devices=devices)
    for version, accuracy in (("v1", 0.80), ("v2", 0.94)):
        fleet.push(version, accuracy)
    return fleet


def on_v1(path: Path, devices: int = 16) -> Fleet:
    """Devices that run v1 and from now on report every ten seconds, so that looks are ten seconds apart."""
    fleet = fresh_fleet(path, devices)
    assert fleet.run(fleet.start("v1", canary="100%"), 200) == "promoted"
    with session_scope(fleet.engine) as session:
        session.connection().execute(update(Device).values(report_interval_s=INTERVAL_S))
    return fleet


@contextmanager
def counted_members() -> Iterator[list[str]]:
    """Devices whose member row is loaded meanwhile."""
    loaded: list[str] = []

    def note(member: RolloutMember, _context: Any) -> None:
        loaded.append(member.device_id)

    event.listen(RolloutMember, "load", note)
    try:
        yield loaded
    finally:
        event.remove(RolloutMember, "load", note)


def quiet_ones(fleet: Fleet, begun: Any, away: set[str]) -> Any:
    """Some devices are away for longer than they may be; others report only what is new, or every ten seconds."""
    last: dict[str, tuple[str, int]] = {}

    def misbehave(device: SimDevice, phase: str) -> bool:
        second = round((fleet.now - begun).total_seconds())
        if device.id in away and SILENT_FROM <= second < SILENT_TO:
            return True
        before, at = last.get(device.id, ("", -INTERVAL_S))
        if phase == before and second - at < INTERVAL_S:
            return True
        last[device.id] = phase, second
        return False

    return misbehave


def play(path: Path, *, whole: bool) -> tuple[Any, ...]:
    """A rollout from the first to the last stage; what became of it, in seconds since it began."""
    fleet = on_v1(path, 24)
    begun = fleet.now
    rollout = fleet.start("v2", canary="4", waves="100%", gates={"silence": "advisory"}, soak_s=15)
    away = {m.device_id for m in fleet.members(rollout) if m.wave == 0 and m.device_id != "dev-000"}
    fleet.misbehave = quiet_ones(fleet, begun, set(sorted(away)[:2]))
    for _ in range(250):
        fleet.step()
        if whole:
            with session_scope(fleet.engine) as session:
                session.connection().execute(update(RolloutProgress).values(stale=True, pass_after=""))
        fleet.tick()
        if fleet.rollout(rollout).state == "promoted":
            break
    fleet.settle(5)

    def since(time: Any) -> float | None:
        return None if time is None else (time - begun).total_seconds()

    names = ("assigned_at", "shadowed_at", "activated_at", "confirmed_at", "silent_at")
    members = [
        (m.device_id, m.status, m.wave, *(since(getattr(m, name)) for name in names))
        for m in sorted(fleet.members(rollout), key=lambda m: m.device_id)
    ]
    with session_scope(fleet.engine, read_only=True) as session:
        told = session.exec(select(Event).where(Event.rollout_id == rollout).order_by(col(Event.id)))
        kinds = [(row.kind, row.device_id, row.detail.get("stage")) for row in told]
    assert fleet.explain(rollout)["equal"]
    return fleet.rollout(rollout).state, members, kinds


def test_a_tick_that_looks_at_changes_ends_where_one_that_looks_at_all_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyfleet_service.rollouts.plan.secrets.token_hex", lambda count: "ab" * count)
    state, members, kinds = play(tmp_path / "some", whole=False)
    assert state == "promoted"
    assert sum(m[-1] is not None for m in members) == 2  # they were silent for a while
    assert (state, members, kinds) == play(tmp_path / "all", whole=True)


@pytest.mark.parametrize("devices", [12, 36])
def test_what_a_tick_reads_follows_changes_not_the_fleet(tmp_path: Path, devices: int) -> None:
    fleet = on_v1(tmp_path, devices)
    rollout = fleet.start("v2", canary="100%", gates={"accuracy": "off"}, min_inferences=100_000)
    fleet.settle(12)
    assert {member.status for member in fleet.members(rollout)} == {"shadowing"}
    looks = 0
    for _ in range(INTERVAL_S):
        fleet.now += timedelta(microseconds=1)  # time goes on, nobody says anything
        with counted_members() as loaded:
            fleet.tick()
        looks += bool(loaded)
    assert looks <= 1, "a tick without a change looked at members"
    with session_scope(fleet.engine) as session:
        for number in (1, 5, 7):
            device = session.get_one(Device, f"dev-{number:03}")
            device.last_seen_at = fleet.now
            session.add(device)
    with counted_members() as loaded:
        fleet.tick()
    assert sorted(loaded) == ["dev-001", "dev-005", "dev-007"]
    with session_scope(fleet.engine, read_only=True) as session:
        assert session.exec(select(func.count()).select_from(DeviceChange)).one() == 0


def test_a_decision_that_only_moves_on_is_not_followed_by_a_look_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next stage begins, and nobody of it has: members are read again when one of them says something."""
    fleet, read = on_v1(tmp_path), list[int]()

    def counted(session: Session, rollout: Rollout, size: int) -> Iterator[Any]:
        read.append(rollout.id or 0)
        return read_pages(session, rollout, size)

    monkeypatch.setattr(observe_members, "read_pages", counted)
    rollout = fleet.start("v2", canary="4", waves="50%,100%", min_inferences=100_000)
    fleet.settle(2)
    for verb, expected in (("promote", "canary"), ("promote", "waves"), ("pause", "waves"), ("abort", "waves")):
        fleet.ask(rollout, verb)
        fleet.now += timedelta(microseconds=1)  # too soon for a look
        fleet.tick()
        assert fleet.rollout(rollout).stage == expected
        read.clear()
        fleet.now += timedelta(microseconds=1)
        fleet.tick()
        assert read == [rollout] * (verb == "abort"), f"after {verb}"  # who is taken back is looked at
    assert fleet.rollout(rollout).state == "aborted"


def test_a_silent_device_is_found_and_heard_again_by_telemetry_alone(tmp_path: Path) -> None:
    fleet = on_v1(tmp_path)
    rollout = fleet.start("v2", canary="100%", gates={"silence": "off", "accuracy": "off"}, min_inferences=100_000)
    fleet.settle(12)
    fleet.misbehave = lambda device, _phase: device.id == "dev-003"
    fleet.settle(3 * INTERVAL_S + 2)
    assert status_of(fleet, rollout, "dev-003") == "silent"
    fleet.telemetry.heard["dev-003"] = fleet.now
    fleet.settle(INTERVAL_S + 1)
    assert status_of(fleet, rollout, "dev-003") == "shadowing"


def status_of(fleet: Fleet, rollout: int, device: str) -> str:
    return next(m.status for m in fleet.members(rollout) if m.device_id == device)


def test_a_rollout_whose_step_failed_is_looked_at_whole_the_next_time(tmp_path: Path) -> None:
    fleet = fresh_fleet(tmp_path)
    rollout = fleet.start("v1", canary="100%")
    fleet.step()

    def broken(*_: Any, **__: Any) -> publish.Assigned:
        raise StateConflictError("no", next="wait")

    tick(fleet.engine, fleet.store, fleet.telemetry, fleet.keys, fleet.fence, fleet.now, assign=broken)
    assert {member.status for member in fleet.members(rollout)} == {"planned"}
    fleet.tick()
    assert {member.status for member in fleet.members(rollout)} == {"assigned"}


def test_what_could_not_be_assigned_is_tried_again(tmp_path: Path) -> None:
    fleet = fresh_fleet(tmp_path)
    rollout = fleet.start("v1", canary="100%")
    fleet.step()
    fleet.tick()
    with session_scope(fleet.engine) as session:
        session.connection().execute(update(RolloutProgress).values(stale=True, pass_after=""))
        session.delete(session.get_one(DesiredEntry, ("dev-004", "model/0")))

    def refuse(session: Any, store: Any, keys: Any, orders: Any, **options: Any) -> publish.Assigned:
        return publish.Assigned({}, {device: StateConflictError("no", next="wait") for device in orders})

    for _ in range(2):
        tick(fleet.engine, fleet.store, fleet.telemetry, fleet.keys, fleet.fence, fleet.now, assign=refuse)
    assert desired_rollout(fleet, "dev-004") is None
    fleet.tick()
    assert desired_rollout(fleet, "dev-004") == rollout


def desired_rollout(fleet: Fleet, device: str) -> int | None:
    with session_scope(fleet.engine, read_only=True) as session:
        return session.exec(select(DesiredEntry.rollout_id).where(DesiredEntry.device_id == device)).first()


def test_a_device_that_comes_back_gets_what_its_rollout_wants(tmp_path: Path) -> None:
    fleet = fresh_fleet(tmp_path)
    rollout = fleet.start("v1", canary="100%")
    fleet.settle(2)
    with session_scope(fleet.engine) as session:
        session.delete(session.get_one(DesiredEntry, ("dev-002", "model/0")))
        session.get_one(Device, "dev-002").state = DeviceState.QUARANTINED
    fleet.tick()
    assert desired_rollout(fleet, "dev-002") is None
    with session_scope(fleet.engine) as session:
        session.get_one(Device, "dev-002").state = DeviceState.ENROLLED
    fleet.tick()
    assert desired_rollout(fleet, "dev-002") == rollout


def read_plainly(session: Session, fleet: Fleet, rollout: Rollout) -> tuple[list[MemberView], dict[str, Any]]:
    """Views and stored columns of all members by way of objects, as a reader would write it who has time."""
    found = {m.device_id: m for m in session.exec(select(RolloutMember).where(RolloutMember.rollout_id == rollout.id))}
    members = {device_id: found[device_id] for device_id in sorted(found)}
    devices = {device.id: device for device in session.exec(select(Device))}
    cohort = Cohort(rollout, members, devices, fleet.telemetry.last_heard(sorted(members)), fleet.now)
    views = observe(session, cohort, desired_of(session, rollout), lambda *_, **__: None)
    return views, {device_id: member.model_dump() for device_id, member in members.items()}


@settings(max_examples=2)
@given(seed=st.integers(0, 1000))
def test_members_as_rows_say_what_members_as_objects_say(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    fleet = on_v1(tmp_path_factory.mktemp("fleet"), 9)
    fleet.golden_fails |= set(sorted(fleet.images("v2"))[: seed % 2])
    rollout_id = fleet.start("v2", canary="3", waves="50%,100%", gates={"faults": "advisory"}, soak_s=1)
    fleet.misbehave = lambda device, phase: fleet.random.random() < 0.3
    statuses = set()
    for second in range(24):
        fleet.step()
        with session_scope(fleet.engine) as session:
            for device in session.exec(select(Device).where(Device.id == f"dev-{fleet.random.randrange(9):03}")):
                device.state = fleet.random.choice((DeviceState.ENROLLED, DeviceState.ENROLLED, DeviceState.REVOKED))
            if second == 18:
                request(session, rollout_id, "undo")
        with session_scope(fleet.engine, read_only=True) as session:
            rollout = session.get_one(Rollout, rollout_id)
            work = Work(fleet.engine, fleet.store, fleet.telemetry, fleet.keys, fleet.fence, fleet.now, assign_many)
            rows = observe_all(session, work, rollout, page=4)
            views, members = read_plainly(session, fleet, rollout)
        assert rows.views == views
        assert {row.device_id: row.bytes_sent for row in rows.rows} == {k: m["bytes_sent"] for k, m in members.items()}
        assert {row.device_id: row.due_at for row in rows.rows} == {k: m["due_at"] for k, m in members.items()}
        statuses |= {view.status for view in views}
        fleet.tick()
    assert len(statuses) > 4, "a fleet in which nothing happens shows nothing"
