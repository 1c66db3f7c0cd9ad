"""A tick that takes longer than the lease keeps it by its own progress; one that stalls loses it and writes nothing.

Time passes between two pages of members, between two pages of assignments and between two batches of messages, and only
there: nobody sleeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session, col, select

from integration.rollout_fleet import Fleet
from postgres import postgres_database, shared_server
from tinyfleet_service.database import engine
from tinyfleet_service.database.engine import Lease, make_engine, session_scope
from tinyfleet_service.database.keep_lease import LeaseKeeper
from tinyfleet_service.database.models import Event, Outbox, RolloutProgress, utc_now
from tinyfleet_service.errors import LeaseLostError
from tinyfleet_service.publish import CONTROLLER_LEASE, drain_outbox
from tinyfleet_service.rollouts import assignments, observe_members, tick
from tinyfleet_service.rollouts.members import read_pages

LEASE_S, PART_S = 15.0, 6.0
DEVICES, AT_ONCE = 12, 2
server = pytest.fixture(shared_server, scope="module")


@dataclass
class Rivals:
    """Two controllers of one fleet; their clock and the database's are the test's."""

    fleet: Fleet
    now: datetime = field(default_factory=utc_now)
    pause_s: float = PART_S
    answers: list[int | None] = field(default_factory=list)
    """What the second was told each time that it asked for the lease."""

    def __post_init__(self) -> None:
        Lease.release(self.fleet.engine, CONTROLLER_LEASE, self.fleet.owner)
        self.second = make_engine(self.fleet.settings)

    def seconds(self) -> float:
        return self.now.timestamp()

    def take_a_while(self) -> None:
        """Time passes outside of any transaction that writes, and the second asks for the lease."""
        self.now += timedelta(seconds=self.pause_s)
        self.answers.append(self.acquire("second"))

    def acquire(self, owner: str) -> int | None:
        return Lease.acquire(self.second, CONTROLLER_LEASE, owner, LEASE_S)

    def tick(self, fence: int) -> None:
        fleet = self.fleet
        keep = LeaseKeeper(fleet.engine, CONTROLLER_LEASE, fence, LEASE_S, clock=self.seconds)
        tick(fleet.engine, fleet.store, fleet.telemetry, fleet.keys, fence, fleet.now, keep=keep)


@pytest.fixture(params=["sqlite", "postgresql"])
def rivals(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rivals]:
    if request.param == "sqlite":
        yield from slow_rivals(tmp_path, "", monkeypatch)
        return
    with postgres_database(request.getfixturevalue("server")) as url:
        yield from slow_rivals(tmp_path, url, monkeypatch)


def slow_rivals(path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rivals]:
    rivals = Rivals(Fleet(path, devices=DEVICES, database_url=url))
    rivals.fleet.push("v1", 0.9)
    monkeypatch.setattr(engine, "database_now", lambda _session: rivals.now)
    monkeypatch.setattr(assignments, "PAGE", AT_ONCE)
    monkeypatch.setattr(observe_members, "read_pages", after_each(rivals.take_a_while))
    remember = rivals.fleet.telemetry.set_cohorts
    monkeypatch.setattr(rivals.fleet.telemetry, "set_cohorts", lambda c: (rivals.take_a_while(), remember(c)))
    yield rivals
    rivals.second.dispose()
    rivals.fleet.engine.dispose()


def after_each(work: Callable[[], None]) -> Callable[..., Iterator[Any]]:
    def read(session: Session, rollout: Any, _size: int) -> Iterator[Any]:
        for page in read_pages(session, rollout, AT_ONCE):
            work()
            yield page

    return read


def fences(rivals: Rivals) -> set[int]:
    with session_scope(rivals.fleet.engine, read_only=True) as session:
        return set(session.exec(select(Outbox.fence).where(col(Outbox.topic).endswith("/desired"))))


def written(rivals: Rivals) -> tuple[Any, ...]:
    """All that a tick writes."""
    with session_scope(rivals.fleet.engine, read_only=True) as session:
        rows = [session.exec(select(table)).all() for table in (Event, Outbox, RolloutProgress)]
        return rivals.fleet.rollout(1), *rows, rivals.fleet.members(1)


def test_a_tick_of_many_leases_keeps_its_own_and_decides(rivals: Rivals) -> None:
    rollout = rivals.fleet.start("v1", canary="100%")
    rivals.fleet.step()
    fence = rivals.acquire("first")
    assert fence
    began = rivals.now
    rivals.tick(fence)
    rivals.fleet.ask(rollout, "abort")
    assert rivals.acquire("first") == fence
    rivals.tick(fence)
    assert rivals.fleet.rollout(rollout).state == "aborted"
    assert (rivals.now - began).total_seconds() > 6 * LEASE_S
    assert len(rivals.answers) >= 2 * (DEVICES // AT_ONCE)
    assert set(rivals.answers) == {None}, "the second took over from one that was at work"
    assert fences(rivals) == {fence}


def test_one_that_stalls_between_two_pages_loses_the_lease_and_writes_nothing(rivals: Rivals) -> None:
    rollout = rivals.fleet.start("v1", canary="100%")
    rivals.fleet.ask(rollout, "abort")
    fence = rivals.acquire("first")
    assert fence
    before, rivals.pause_s = written(rivals), LEASE_S + 1
    with pytest.raises(LeaseLostError):
        rivals.tick(fence)
    assert rivals.answers == [fence + 1]
    assert written(rivals) == before
    rivals.pause_s = PART_S
    rivals.tick(fence + 1)
    assert rivals.fleet.rollout(rollout).state == "aborted"


def test_a_lease_that_ran_out_and_nobody_took_is_still_its_owners(rivals: Rivals) -> None:
    fence = rivals.acquire("first")
    assert fence
    keep = LeaseKeeper(rivals.fleet.engine, CONTROLLER_LEASE, fence, LEASE_S, clock=rivals.seconds)
    rivals.now += timedelta(seconds=10 * LEASE_S)
    keep()
    assert rivals.acquire("second") is None
    rivals.now += timedelta(seconds=LEASE_S + 1)
    assert rivals.acquire("second") == fence + 1
    with pytest.raises(LeaseLostError):
        keep()
    with pytest.raises(LeaseLostError), session_scope(rivals.fleet.engine) as session:
        keep(session)


def test_an_outbox_of_many_leases_is_sent_by_one_owner(rivals: Rivals) -> None:
    rivals.fleet.start("v1", canary="100%")
    rivals.fleet.step()
    fence = rivals.acquire("first")
    assert fence
    rivals.tick(fence)
    rivals.answers.clear()

    class SlowBroker:
        connections = 1

        def publish_all(self, messages: Any, timeout_s: float = 0) -> int:
            rivals.take_a_while()
            return len(list(messages))

        def publish_on(self, connection: int, topic: str, payload: bytes, *, retain: bool = False) -> bool:
            return True

        def wait_connected(self, timeout_s: float = 0) -> None: ...

    keep = LeaseKeeper(rivals.fleet.engine, CONTROLLER_LEASE, fence, LEASE_S, clock=rivals.seconds)
    assert rivals.acquire("first") == fence
    assert drain_outbox(rivals.fleet.engine, SlowBroker(), fence, batch=3, keep=keep) > DEVICES
    assert len(rivals.answers) >= DEVICES // 3
    assert set(rivals.answers) == {None}
