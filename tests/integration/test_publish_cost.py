"""What publishing costs the server: a blob once, a delta once per pair of digests, one assignment per device."""

from __future__ import annotations

import os
import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session, select

from integration.fleet_house import BASE_IMAGE, FleetHouse, make_house
from integration.test_publish_assignments import Shelf, blob_on, entry_of, give
from integration.test_publish_encrypted import new_key, switch
from tinyfleet_ota.protocol import Codec, SlotState
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import Lease, make_engine, session_scope
from tinyfleet_service.database.models import MODEL, Desired, Device, TransferBlob, utc_now
from tinyfleet_service.database.models import Lease as LeaseRow
from tinyfleet_service.errors import NotFoundError, StorageError
from tinyfleet_service.publish import (
    assign,
    base_ids,
    clean_blobs,
    drain_outbox,
    forget_blobs,
    handle_waiting,
    prepare_transfers,
    restore_broker,
    transfer_choices,
    transfers,
)

DEVICES = 60
IMAGE_BYTES = 40 * 1024
"""300 KB and a thousand devices, seen on the wire: `make bench-publish`."""


@pytest.fixture
def house(tmp_path: Path) -> FleetHouse:
    return make_house(tmp_path / "fleet")


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_a_blob_costs_the_server_one_assignment_per_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encrypted: bool
) -> None:
    devices = tuple(f"m4-{n}" for n in range(DEVICES))
    house = make_house(tmp_path / "fleet", devices)
    with session_scope(house.engine) as session:
        house.add_build(session, "big", os.urandom(IMAGE_BYTES))
    new_key(house, devices[0])
    with session_scope(house.engine) as session:
        key = house.device(session, devices[0]).public_key
        for device in session.exec(select(Device)):
            device.public_key = key
    switch(house, encrypted)
    prepare_transfers(house.engine, house.store, [(house.builds["big"], None)])
    give(house, devices[0], "big")
    shelf = Shelf()
    drain_outbox(house.engine, shelf, house.fence)
    chunks = [topic for topic in shelf.sent if topic.startswith("fleet/v1/b/")]
    assert len(chunks) == len(set(chunks)) == -(-IMAGE_BYTES // (1024 - 16 * encrypted))

    reads: list[str] = []
    monkeypatch.setattr(BlobStore, "get", lambda self, digest: reads.append(digest))
    shelf.sent.clear()
    with session_scope(house.engine) as session:
        for device_id in devices[1:]:
            give_in(session, house, device_id, "big")
    drain_outbox(house.engine, shelf, house.fence)
    kinds = Counter(topic.split("/")[2] for topic in shelf.sent)
    assert kinds == {"d": DEVICES - 1, "sentinel": kinds["sentinel"]}
    assert reads == [], "the blob store is not asked again"


def give_in(session: Any, house: FleetHouse, device_id: str, version: str) -> None:
    device, build = house.device(session, device_id), house.build(session, version)
    assign(session, house.store, house.keys, device, build, SlotState.CONFIRMED, fence=house.fence)


# ---- once per pair


def test_two_processes_compute_each_pair_once(house: FleetHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one finds the pair claimed, waits, and takes what the first made."""
    computed, begun, waiting = [], threading.Event(), threading.Event()
    real, pair = transfers._compute, (house.builds["v2"], house.builds["v1"])

    def compute(*arguments: Any) -> Any:
        computed.append(arguments[2].id if arguments[2] else None)
        begun.set()
        assert waiting.wait(30)
        return real(*arguments)

    monkeypatch.setattr(transfers, "_compute", compute)
    monkeypatch.setattr(transfers.time, "sleep", lambda _: waiting.set())
    made: list[int] = []

    def work() -> None:
        engine = make_engine(house.settings)
        made.append(prepare_transfers(engine, house.store, [pair]))
        engine.dispose()

    threads = [threading.Thread(target=work) for _ in range(2)]
    threads[0].start()
    assert begun.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert sorted(computed, key=str) == sorted([None, house.builds["v1"]], key=str)
    assert sum(made) == 2
    with session_scope(house.engine, read_only=True) as session:
        names = [row.name for row in session.exec(select(LeaseRow))]
    assert not [name for name in names if name.startswith("transfer/")], "claims leave nothing behind"


def test_claim_of_a_process_that_died_is_taken_over(house: FleetHouse) -> None:
    with session_scope(house.engine, read_only=True) as session:
        image = house.build(session, "v2").image_sha256 or ""
    assert Lease.acquire(house.engine, f"transfer/{image[:24]}/", "dead", 0.0)
    assert prepare_transfers(house.engine, house.store, [(house.builds["v2"], None)]) == 1


def test_full_disk_while_a_delta_is_made_leaves_no_trace(house: FleetHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: BlobStore, data: bytes) -> str:
        raise StorageError("no space left", next="free disk space")

    pair = (house.builds["v2"], house.builds["v1"])
    with monkeypatch.context() as patch:
        patch.setattr(BlobStore, "put", refuse)
        with pytest.raises(StorageError, match="no space left"):
            prepare_transfers(house.engine, house.store, [pair])
    with session_scope(house.engine, read_only=True) as session:
        assert session.exec(select(TransferBlob)).all() == []
    assert prepare_transfers(house.engine, house.store, [pair]) == 2


# ---- for the bases that devices run


def test_bases_are_what_devices_say_they_run(tmp_path: Path) -> None:
    house = make_house(tmp_path / "fleet", ("a", "b", "c", "d"))
    house.report("a", "v1")
    house.report("b", "v3")
    house.report("c", "v2")
    with session_scope(house.engine, read_only=True) as session:
        build = house.build(session, "v2")
        devices = [house.device(session, name) for name in "abcd"]
        found = base_ids(session, ((device, build) for device in devices), MODEL)
    assert found == {"a": house.builds["v1"], "b": house.builds["v3"], "c": None, "d": None}


def test_every_form_that_was_tried_is_recorded_with_the_devices_that_would_take_it(house: FleetHouse) -> None:
    house.report("m4-a", "v1")
    pairs = [(house.builds["v2"], house.builds[base]) for base in ("v1", "v3")]
    prepare_transfers(house.engine, house.store, pairs)
    give(house, "m4-a", "v2")
    with session_scope(house.engine, read_only=True) as session:
        names = {house.build(session, version).image_sha256 or "": version for version in house.builds}
        shown = {names.get(choice.base): choice for choice in transfer_choices(session, house.build(session, "v2"))}
    assert set(shown) == {None, "v1", "v3"}
    assert (shown["v1"].form, shown["v1"].devices, shown["v1"].published) == ("delta", 1, True)
    assert (shown[None].form, shown[None].devices, shown[None].published) == ("raw", 1, False)
    assert (shown["v3"].form, shown["v3"].devices) == ("raw", 0), "a delta that does not pay"
    assert set(shown["v1"].choices) == {"raw", "packed", "delta"}
    assert shown["v1"].choices["raw"] == len(BASE_IMAGE) > shown["v1"].choices["delta"] == shown["v1"].bytes


# ---- and no longer than they are named


def test_forgotten_blobs_leave_the_store_but_never_an_image(house: FleetHouse) -> None:
    house.report("m4-a", "v1")
    give(house, "m4-a", "v2")
    digest = entry_digest(house, "m4-a")
    give(house, "m4-a", "v3", full=True)
    later = utc_now() + timedelta(minutes=1)
    with session_scope(house.engine) as session:
        assert forget_blobs(session, house.store, later) == 1, "the full form of v2 that nobody took; its image stays"
        assert clean_blobs(session, utc_now(), house.fence) == 1
        assert forget_blobs(session, house.store) == 0, "not before its time"
        assert forget_blobs(session, house.store, later) == 1
        assert house.store.exists(house.build(session, "v2").image_sha256 or "")
    assert not house.store.exists(digest)
    again = entry_of(house, give(house, "m4-a", "v2"))  # computed anew
    assert again.codec == Codec.DELTA


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("lost", ["the blob", "the plain blob too"])
def test_device_that_wakes_after_its_blob_was_lost_everywhere_is_assigned_anew(
    house: FleetHouse, encrypted: bool, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyfleet_service.publish.anew.REPUBLISH_AFTER", timedelta(0))
    for device in ("m4-a", "m4-b"):
        new_key(house, device)
        house.report(device, "v1")
    switch(house, encrypted)
    desired = {device: give(house, device, "v2") for device in ("m4-a", "m4-b")}
    drain_outbox(house.engine, Shelf(), house.fence)
    with session_scope(house.engine, read_only=True) as session:
        for blob in session.exec(select(TransferBlob)):
            if blob.base_sha256 and (lost != "the blob" or blob.encrypted == encrypted):
                house.store.delete(blob.sha256)
    shelf = Shelf()
    for device in ("m4-a", "m4-b"):
        old = entry_of(house, desired[device])
        house.report(device, "v1", waiting=[old.blob, 0])
        with session_scope(house.engine) as session:
            done = handle_waiting(session, house.store, house.keys, house.device(session, device), house.fence)
        assert done in ("assigned", "republished")
        drain_outbox(house.engine, shelf, house.fence)
        entry = entry_of(house, newest(house, device))
        assert entry.codec == Codec.DELTA
        assert len(blob_on(shelf, entry)) == entry.blob_bytes


def newest(house: FleetHouse, device: str) -> Desired:
    with session_scope(house.engine, read_only=True) as session:
        return session.get_one(Desired, device)


def test_one_lost_blob_does_not_keep_the_broker_from_the_rest(house: FleetHouse) -> None:
    give(house, "m4-a", "v1")
    second, shelf = give(house, "m4-b", "v3"), Shelf()
    drain_outbox(house.engine, shelf, house.fence)
    house.store.delete(entry_digest(house, "m4-a"))

    class Empty(Shelf):
        def subscribe(self, topic: str, receive: Any) -> None: ...
        def unsubscribe(self, topic: str) -> None: ...

    empty, kept = Empty(), Counter[str]()

    def keep(session: Session | None = None) -> None:
        kept["own transaction"] += session is None

    with session_scope(house.engine, read_only=True) as session:
        sent = restore_broker(session, house.store, empty, empty, house.keys, timeout_s=0, keep=keep)
    assert kept["own transaction"] == sent > 0, "a long restore would outlive the lease"
    assert len(blob_on(empty, entry_of(house, second))) == 5000
    assert {"fleet/v1/d/m4-a/desired", "fleet/v1/d/m4-b/desired"} <= set(empty.retained)


def entry_digest(house: FleetHouse, device: str) -> str:
    with session_scope(house.engine, read_only=True) as session:
        return session.get_one(TransferBlob, house.entry(device).blob_id).sha256


def test_image_that_is_lost_too_is_told(house: FleetHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyfleet_service.publish.anew.REPUBLISH_AFTER", timedelta(0))
    desired = give(house, "m4-a", "v1")
    house.store.delete(entry_digest(house, "m4-a"))  # it travels raw: blob and image are the same bytes
    house.report("m4-a", None, waiting=[entry_of(house, desired).blob, 0])
    with session_scope(house.engine) as session, pytest.raises(NotFoundError, match="no blob"):
        handle_waiting(session, house.store, house.keys, house.device(session, "m4-a"), house.fence)
