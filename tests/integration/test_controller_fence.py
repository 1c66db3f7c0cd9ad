"""Two controllers at once on PostgreSQL: one lease; what is written under an old fence is nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import Session, col, select

from integration.rollout_fleet import Fleet
from postgres import postgres_binaries, postgres_server
from tinyfleet_service import publish
from tinyfleet_service.database.engine import Lease, make_engine, session_scope
from tinyfleet_service.database.models import Outbox, Rollout
from tinyfleet_service.errors import LeaseLostError
from tinyfleet_service.publish import CONTROLLER_LEASE
from tinyfleet_service.rollouts import tick

LEASE_S = 0.05
DEVICES = 8


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    if postgres_binaries() is None:
        pytest.skip("PostgreSQL server binaries are not installed (Debian package postgresql)")
    with postgres_server() as url:
        fleet = Fleet(tmp_path, devices=DEVICES, database_url=url)
        for version in ("v1", "v2"):
            fleet.push(version, 0.9)
        yield fleet
        fleet.engine.dispose()


def assignments(fleet: Fleet) -> list[Outbox]:
    """Assignments in the order in which they were written; manifests and chunks are the same whoever writes them."""
    return [row for row in outbox(fleet) if row.topic.endswith("/desired")]


def outbox(fleet: Fleet) -> list[Outbox]:
    with session_scope(fleet.engine, read_only=True) as session:
        return list(session.exec(select(Outbox).order_by(col(Outbox.id))))


def test_a_controller_overtaken_in_the_middle_of_a_tick_writes_nothing(fleet: Fleet) -> None:
    """The lease runs out while the slow one holds no transaction; its next one is refused whole, on its first write."""
    rollout = fleet.start("v1", canary="100%")
    fleet.step()
    old = fleet.fence
    before = len(outbox(fleet))
    Lease.release(fleet.engine, CONTROLLER_LEASE, fleet.owner)
    assert Lease.acquire(fleet.engine, CONTROLLER_LEASE, "other", 3600) == old + 1
    with pytest.raises(LeaseLostError):
        fleet.tick()
    assert len(outbox(fleet)) == before
    assert all(member.assigned_at is None for member in fleet.members(rollout))


def test_a_take_over_waits_for_the_transaction_under_the_old_fence(fleet: Fleet) -> None:
    """While one writes, the lease row is locked: another cannot get a higher fence in between, only afterwards."""
    fleet.start("v1", canary="100%")
    fleet.step()
    taken: list[int | None] = []
    other = threading.Thread(
        target=lambda: taken.append(Lease.acquire(make_engine(fleet.settings), CONTROLLER_LEASE, "b", 3600))
    )

    def assign(session: Session, *words: object, **options: object) -> publish.Assigned:
        if not other.ident:
            session.get_one(Rollout, 1)
            other.start()
            other.join(0.5)
            assert not taken, "the lease changed hands inside a transaction of its holder"
        return publish.assign_many(session, *words, **options)

    tick(fleet.engine, fleet.store, fleet.telemetry, fleet.keys, fleet.fence, fleet.now, assign=assign)
    other.join()
    assert taken == [None]  # the holder's lease had not run out
    assert {row.fence for row in assignments(fleet)} == {fleet.fence}


def test_two_that_fight_for_the_lease_assign_every_device_once(fleet: Fleet) -> None:
    for version, share in (("v1", "100%"), ("v2", "2")):
        rollout = fleet.start(version, canary=share, gates={"accuracy": "off", "shadow": "off"})
        Lease.release(fleet.engine, CONTROLLER_LEASE, fleet.owner)
        lost = Counter[str]()
        for _ in range(60):
            fleet.step()
            pair = [threading.Thread(target=contend, args=(fleet, name, lost)) for name in ("a", "b")]
            for thread in pair:
                thread.start()
            for thread in pair:
                thread.join()
            if fleet.rollout(rollout).state == "promoted":
                break
        assert fleet.rollout(rollout).state == "promoted", fleet.rollout(rollout).reason
        assert not lost["error"]
        assert lost["ticks"]
    rows = assignments(fleet)
    assert len({row.fence for row in rows}) > 2, "the lease never changed hands"
    fences = [row.fence for row in rows]
    assert fences == sorted(fences), "something was written under an old fence after a newer one"
    desired = Counter(row.topic for row in rows)
    assert len(desired) == DEVICES
    assert set(desired.values()) == {2}, "a device was assigned twice, or not at all"


def contend(fleet: Fleet, name: str, lost: Counter[str]) -> None:
    """One controller for a moment: take the lease if it is to be had, and tick; else wait until it may have run out."""
    engine = make_engine(fleet.settings)
    try:
        for _ in range(3):
            fence = Lease.acquire(engine, CONTROLLER_LEASE, name, LEASE_S)
            if fence is None:
                time.sleep(LEASE_S)
            else:
                tick(engine, fleet.store, fleet.telemetry, fleet.keys, fence, fleet.now)
                lost["ticks"] += 1
    except LeaseLostError:
        lost["overtaken"] += 1
    except Exception:
        lost["error"] += 1
        raise
    finally:
        engine.dispose()
