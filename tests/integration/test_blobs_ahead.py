"""Blobs of new builds are made by the builder, before a rollout asks for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from integration.fleet_house import FleetHouse, make_house
from tinyfleet_service.builder.blobs_ahead import BlobsAhead
from tinyfleet_service.builder.process import Builder
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Build, BuildState, Lease, TransferBlob, utc_now
from tinyfleet_service.publish import ahead, builds_to_prepare, pairs_to_prepare, prepare_transfers, transfers


@pytest.fixture
def house(tmp_path: Path) -> FleetHouse:
    return make_house(tmp_path / "fleet", ("a", "b", "c", "d"))


@pytest.fixture
def blobs(house: FleetHouse) -> Iterator[BlobsAhead]:
    blobs = BlobsAhead(house.engine, house.store)
    yield blobs
    blobs.close()


def finish(house: FleetHouse, version: str, hours_ago: float = 0.0, state: BuildState = BuildState.READY) -> None:
    with session_scope(house.engine) as session:
        build = house.build(session, version)
        build.state, build.finished_at = state, utc_now() - timedelta(hours=hours_ago)


def step(blobs: BlobsAhead) -> None:
    blobs.step()
    if blobs._thread is not None:
        blobs._thread.join(60)


def made(house: FleetHouse) -> set[tuple[str, str]]:
    """(version, version of its base) of what is there."""
    with session_scope(house.engine, read_only=True) as session:
        names = {build.image_sha256: name for name, build in ((n, house.build(session, n)) for n in house.builds)}
        rows = session.exec(select(TransferBlob))
        return {(names[row.image_sha256] or "", names.get(row.base_sha256, "")) for row in rows}


def waiting(house: FleetHouse) -> list[int]:
    with session_scope(house.engine, read_only=True) as session:
        return builds_to_prepare(session)


def test_a_plan_finds_every_blob_of_a_new_build(house: FleetHouse, blobs: BlobsAhead) -> None:
    house.report("a", "v1")
    house.report("b", "v3")
    finish(house, "v2")
    step(blobs)
    assert made(house) == {("v2", ""), ("v2", "v1"), ("v2", "v3")}
    pairs = [(house.builds["v2"], base) for base in (None, house.builds["v1"], house.builds["v3"])]
    assert prepare_transfers(house.engine, house.store, pairs) == 0
    assert waiting(house) == []


def test_the_builder_does_it_and_is_not_busy_with_it(house: FleetHouse) -> None:
    finish(house, "v2")
    builder = Builder(house.settings, house.engine)
    assert not builder.step()
    assert builder.blobs._thread is not None
    builder.blobs._thread.join(60)
    builder.close()
    assert made(house) == {("v2", "")}


def test_only_new_builds_that_are_ready_are_prepared(house: FleetHouse) -> None:
    finish(house, "v1", hours_ago=2)
    finish(house, "v2", state=BuildState.AWAITING_SIGNATURE)
    assert waiting(house) == [], "v3 and v4 say nothing of when they were finished"
    finish(house, "v4")
    finish(house, "v3", hours_ago=0.5)
    assert waiting(house) == [house.builds["v3"], house.builds["v4"]]


def test_bases_are_what_most_devices_run(house: FleetHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    house.report("a", "v1")
    house.report("b", "v3")
    house.report("c", "v3")
    with session_scope(house.engine) as session:
        house.device(session, "d").active_image = "0" * 32  # made elsewhere
    builds = house.builds

    def pairs() -> list[tuple[int, int | None]]:
        with session_scope(house.engine, read_only=True) as session:
            return pairs_to_prepare(session, builds["v2"])

    assert pairs() == [(builds["v2"], None), (builds["v2"], builds["v3"]), (builds["v2"], builds["v1"])]
    monkeypatch.setattr(ahead, "BASES", 1)
    assert pairs() == [(builds["v2"], None), (builds["v2"], builds["v3"])]


def test_an_image_that_is_lost_is_tried_once_and_holds_nothing_up(
    house: FleetHouse, blobs: BlobsAhead, caplog: pytest.LogCaptureFixture
) -> None:
    finish(house, "v2")
    finish(house, "v4")
    with session_scope(house.engine, read_only=True) as session:
        house.store.delete(house.build(session, "v2").image_sha256 or "")
    for _ in range(3):
        step(blobs)
    assert made(house) == {("v4", "")}
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert "when they are needed" in caplog.text


def test_a_builder_that_stops_ends_the_blob_under_way_and_begins_no_other(
    house: FleetHouse, blobs: BlobsAhead, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.report("a", "v1")
    finish(house, "v2")
    begun, real = threading.Event(), transfers._compute

    def compute(*arguments: Any) -> Any:
        begun.set()
        assert blobs._closed.wait(30)
        return real(*arguments)

    monkeypatch.setattr(transfers, "_compute", compute)
    blobs.step()
    assert begun.wait(30)
    blobs.step()  # one at a time
    blobs.close()
    assert made(house) == {("v2", "")}
    with session_scope(house.engine, read_only=True) as session:
        claims = session.exec(select(Lease).where(col(Lease.name).startswith("transfer/")))
        assert list(claims) == []
        assert session.exec(select(Build.state).where(Build.id == house.builds["v2"])).one() == "ready"
