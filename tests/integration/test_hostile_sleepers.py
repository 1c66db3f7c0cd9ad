"""Devices that are killed in mid-download of a delta and wake when their blobs are gone everywhere: they finish."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from sqlmodel import col, select

from integration.fleet_support import eventually
from integration.hostile_world import WAIT_S, World, running_world
from integration.test_hostile_outages import start, state_of, working_house
from tinyfleet_ota import topics
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Outbox, TransferBlob
from tinyfleet_service.publish import enqueue
from tinyfleet_service.publish.transfers import blob_id, chunk_count

pytestmark = pytest.mark.slow

SLOW_BYTES_PER_S = 4000
DEVICES = 3


def lose_on_the_broker(world: World) -> None:
    """Every chunk goes, as after a cleaning that came too early."""
    with session_scope(world.house.engine) as session:
        blobs = list(session.exec(select(TransferBlob).where(col(TransferBlob.published_at).is_not(None))))
        for blob in blobs:
            for n in range(chunk_count(blob)):
                enqueue(session, topics.chunk(blob_id(blob), blob.chunk_bytes, n), b"")
    assert blobs
    assert eventually(lambda: not unsent(world), WAIT_S)


def unsent(world: World) -> bool:
    with session_scope(world.house.engine, read_only=True) as session:
        return session.exec(select(Outbox.id).where(col(Outbox.published_at).is_(None))).first() is not None


def lose_in_the_store(world: World) -> None:
    """The bytes of blobs go too; the images they are made from stay."""
    with session_scope(world.house.engine, read_only=True) as session:
        for blob in session.exec(select(TransferBlob)):
            if blob.sha256 != blob.image_sha256:
                world.house.store.delete(blob.sha256)


def test_agents_killed_in_mid_download_wake_after_their_blobs_went_and_finish(tmp_path: Path) -> None:
    with running_world(tmp_path) as world, working_house(world):
        first = world.start(count=DEVICES)
        first.wait("connected", DEVICES)
        before = start(world, "v1")
        assert eventually(lambda: state_of(world, before) == "promoted", WAIT_S)
        assert first.end() == 0
        fleet = world.start(count=DEVICES, rx_bytes_per_s=SLOW_BYTES_PER_S)
        fleet.wait("connected", DEVICES)
        rollout = start(world, "v2")
        fleet.wait("slot", DEVICES, to="WRITING")
        assert fleet.end(signal.SIGKILL) == -signal.SIGKILL
        lose_on_the_broker(world)
        lose_in_the_store(world)
        woken = world.start(count=DEVICES)
        woken.wait("slot", DEVICES, to="CONFIRMED")
        assert eventually(lambda: state_of(world, rollout) == "promoted", WAIT_S)
