"""What comes between reading a look and the transaction that stores what it decided: nothing is lost or overruled.

A tick reads and judges all members first. The transaction after it writes what was seen, but takes state, requests and
freeze of the rollout as they are then.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from integration.rollout_fleet import Fleet
from postgres import postgres_database, shared_server
from tinyfleet_service.database.engine import Lease, session_scope
from tinyfleet_service.database.models import Decision, Device, DeviceState, Event, RolloutMember, SnapshotPage
from tinyfleet_service.errors import LeaseLostError
from tinyfleet_service.publish import CONTROLLER_LEASE
from tinyfleet_service.rollouts import freeze, make_plan, parse_spec, start_rollout
from tinyfleet_service.rollouts.cohort import Cohort
from tinyfleet_service.rollouts.look import Looked, look_now
from tinyfleet_service.rollouts.state_machine import Outcome

TICK = importlib.import_module("tinyfleet_service.rollouts.tick")  # the package's name `tick` is its function
REQUESTS = importlib.import_module("tinyfleet_service.rollouts.requests")
DEVICES = 8
OFF = {"shadow": "off", "accuracy": "off"}
SPEC: dict[str, Any] = {"canary": "3", "waves": "100%", "soak_s": 1.0}
server = pytest.fixture(shared_server, scope="module")


class Gap:
    """A fleet whose canaries have just passed; what a test does in the gap comes before that is written."""

    def __init__(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fleet, self.meanwhile, self.reached = fleet, list[Callable[[], object]](), False
        monkeypatch.setattr(TICK, "look_now", self._look)
        for version in ("v1", "v2"):
            fleet.push(version, 0.9)
        self.rollout = fleet.start("v1", **SPEC)

    def _look(self, *words: Any, **options: Any) -> Looked:
        found = look_now(*words, **options)
        cohort = next(word for word in words if isinstance(word, Cohort))
        passed = found.verdicts is not None and all(v.outcome == Outcome.PROMOTE for v in found.verdicts)
        settled = [m for m in cohort.members.values() if m.wave == 0 and m.confirmed_at is not None]
        long_ago = [m for m in settled if (cohort.now - m.confirmed_at).total_seconds() >= SPEC["soak_s"]]
        if passed and len(long_ago) == int(SPEC["canary"]) and not self.reached:
            self.reached = True
            for act in self.meanwhile:
                act()
        return found

    def tick(self, *meanwhile: Callable[[], object]) -> None:
        """Step until the tick in whose gap this happens is over."""
        self.meanwhile += meanwhile
        for _ in range(60):
            self.fleet.step()
            self.fleet.tick()
            if self.reached:
                return
        raise AssertionError("the canaries never passed")

    def canary(self) -> str:
        return next(m.device_id for m in self.fleet.members(self.rollout) if m.wave == 0)

    def later(self) -> str:
        return next(m.device_id for m in self.fleet.members(self.rollout) if m.wave == 1)

    def member(self, device_id: str) -> RolloutMember:
        return next(m for m in self.fleet.members(self.rollout) if m.device_id == device_id)

    def assigned_later(self) -> list[str]:
        members = self.fleet.members(self.rollout)
        return [m.device_id for m in members if m.wave > 0 and m.assigned_at is not None]

    def stored(self) -> tuple[Any, ...]:
        with session_scope(self.fleet.engine, read_only=True) as session:
            rows = [session.exec(select(table)).all() for table in (Decision, SnapshotPage, Event, RolloutMember)]
        return self.fleet.rollout(self.rollout), *rows


@pytest.fixture
def gap(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gap]:
    if getattr(request, "param", "sqlite") == "sqlite":
        yield Gap(Fleet(tmp_path, devices=DEVICES), monkeypatch)
        return
    with postgres_database(request.getfixturevalue("server")) as url:
        fleet = Fleet(tmp_path, devices=DEVICES, database_url=url)
        yield Gap(fleet, monkeypatch)
        fleet.engine.dispose()


on_both_engines = pytest.mark.parametrize("gap", ["sqlite", "postgresql"], indirect=True)


def test_without_a_gap_the_rollout_goes_on(gap: Gap) -> None:
    """What the others are compared with."""
    gap.tick()
    assert gap.fleet.rollout(gap.rollout).stage == "waves"
    assert gap.assigned_later()


@on_both_engines
@pytest.mark.parametrize(("verb", "state"), [("pause", "paused"), ("abort", "aborted")])
def test_what_an_operator_asks_for_is_done_and_the_look_is_kept(gap: Gap, verb: str, state: str) -> None:
    gap.tick(lambda: gap.fleet.ask(gap.rollout, verb))
    rollout = gap.fleet.rollout(gap.rollout)
    assert (rollout.state, rollout.stage, rollout.requested) == (state, "canary", None)
    assert gap.fleet.explain(gap.rollout)["equal"]
    gap.fleet.settle(3)
    assert not gap.assigned_later(), "a stage was entered that the operator had forbidden"
    if verb == "pause":
        gap.fleet.ask(gap.rollout, "resume")
        gap.fleet.settle(4)
        assert gap.fleet.rollout(gap.rollout).stage == "waves"


def test_a_freeze_holds_at_once(gap: Gap) -> None:
    def stop() -> None:
        with session_scope(gap.fleet.engine) as session:
            freeze(session, 1, "test")

    gap.tick(stop)
    assert gap.fleet.rollout(gap.rollout).stage == "canary"
    gap.fleet.settle(3)
    assert not gap.assigned_later()


def test_a_report_that_arrives_is_worked_off_by_the_next_tick(gap: Gap) -> None:
    """It is in no counter of this look; its device reverts, which the member says a tick later."""
    device = next(d for d in gap.fleet.devices if d.id == gap.canary())

    def revert() -> None:
        assert device.active is not None
        device.slots[device.active] = ["REJECTED", device.slots[device.active][1], "INFERENCE_FAILED"]
        device.active = None
        with session_scope(gap.fleet.engine) as session:
            gap.fleet._report(session, device)

    gap.tick(revert)
    assert gap.member(device.id).status == "confirmed", "decided on what was read"
    device.off = True  # it says nothing more
    gap.fleet.tick()
    assert gap.member(device.id).status == "rejected"


@on_both_engines
def test_a_newer_rollout_takes_the_devices(gap: Gap) -> None:
    newer: list[int] = []

    def supersede() -> None:
        with session_scope(gap.fleet.engine) as session:
            spec = {"model": "model", "version": "v2", "supersede": True, "canary": "100%", "gates": OFF}
            plan = make_plan(session, parse_spec(spec, gap.fleet.settings))
            newer.append(start_rollout(session, plan, now=gap.fleet.now).id or 0)

    gap.tick(supersede)
    old = gap.fleet.rollout(gap.rollout)
    assert (old.state, old.stage) == ("aborted", "canary")
    gap.fleet.settle(9)
    assert {member.status for member in gap.fleet.members(newer[0])} == {"confirmed"}
    assert len(gap.fleet.running("v2")) == DEVICES
    assert not gap.assigned_later()


def test_a_device_that_is_revoked_gets_nothing(gap: Gap) -> None:
    gone = gap.later()

    def revoke() -> None:
        with session_scope(gap.fleet.engine) as session:
            session.get_one(Device, gone).state = DeviceState.REVOKED

    gap.tick(revoke)
    assert gap.fleet.rollout(gap.rollout).stage == "waves"
    assert gone not in gap.assigned_later()
    next(d for d in gap.fleet.devices if d.id == gone).off = True
    gap.fleet.tick()
    assert gap.member(gone).status == "skipped"
    wave = {member.device_id for member in gap.fleet.members(gap.rollout) if member.wave == 1}
    assert set(gap.assigned_later()) == wave - {gone}


@on_both_engines
def test_another_controller_decides_once(gap: Gap) -> None:
    before: list[tuple[Any, ...]] = []

    def overtake() -> None:
        Lease.release(gap.fleet.engine, CONTROLLER_LEASE, gap.fleet.owner)
        assert Lease.acquire(gap.fleet.engine, CONTROLLER_LEASE, "other", 3600) == gap.fleet.fence + 1
        before.append(gap.stored())

    with pytest.raises(LeaseLostError):
        gap.tick(overtake)
    assert gap.stored() == before[0], "written under an old fence"
    gap.fleet.fence += 1
    gap.fleet.tick()
    assert gap.fleet.rollout(gap.rollout).stage == "waves"
    assert gap.fleet.explain(gap.rollout)["equal"]


@on_both_engines
def test_an_abort_that_comes_while_a_tick_writes_is_not_lost(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tick has read `pause` and is about to strike it off as done."""
    fleet, decide, asked = gap.fleet, TICK.decide, list[threading.Thread]()

    def decide_late(*words: Any) -> None:
        if not asked:
            asked.append(threading.Thread(target=fleet.ask, args=(gap.rollout, "abort")))
            asked[0].start()
            asked[0].join(2)  # by then it has been written, or waits for this tick
        decide(*words)

    fleet.settle(2)
    fleet.ask(gap.rollout, "pause")
    monkeypatch.setattr(TICK, "decide", decide_late)
    fleet.tick()
    asked[0].join()
    fleet.settle(2)
    assert fleet.rollout(gap.rollout).state == "aborted"


@on_both_engines
def test_an_abort_outlives_another_verb_asked_at_the_same_moment(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for `pause` has looked at the rollout before the other's abort was written."""
    fleet, note, others = gap.fleet, REQUESTS.note, list[threading.Thread]()

    def note_late(*words: Any, **detail: Any) -> None:
        if detail.get("verb") == "pause":
            others.append(threading.Thread(target=fleet.ask, args=(gap.rollout, "abort")))
            others[0].start()
            others[0].join(2)
        note(*words, **detail)

    monkeypatch.setattr(REQUESTS, "note", note_late)
    fleet.ask(gap.rollout, "pause")
    others[0].join()
    fleet.settle(2)
    assert fleet.rollout(gap.rollout).state == "aborted"
