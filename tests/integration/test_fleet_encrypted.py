"""Encrypted images end to end: the service's assignments, its broker and EST listener, and the C agent."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent.ports.fleet_world import DEVICE_CLASS, image
from integration.fleet_database import PROJECT
from integration.fleet_support import connected, device_files
from integration.hostile_world import Desk, World, running_desk, running_world
from tinyfleet_ota import AssignmentEntry, parse_assignment, topics
from tinyfleet_ota.delta import apply_delta
from tinyfleet_ota.errors import DeltaError
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Desired
from tinyfleet_service.devices.requests import point_of
from tinyfleet_service.devices.revocation import reset_device
from tinyfleet_service.publish import read_retained, renew_content_keys
from tinyfleet_service.registry.device_classes import encrypt_device_class

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with running_world(tmp_path) as world:
        with session_scope(world.house.engine) as session:
            encrypt_device_class(session, PROJECT, DEVICE_CLASS, True)
        yield world


@pytest.fixture
def desk(world: World) -> Iterator[Desk]:
    with running_desk(world) as desk:
        yield desk


def entry_of(desk: Desk, device: str) -> AssignmentEntry:
    with session_scope(desk.house.engine, read_only=True) as session:
        payload = session.get_one(Desired, device).payload
    return parse_assignment(payload, [desk.house.keys.director.public_key]).entries[0]


def on_the_broker(desk: Desk, entry: AssignmentEntry) -> bytes:
    """The blob as any enrolled device may read it."""
    files = device_files(desk.world.pki, "other-device", desk.world.folder / "other")
    with connected(desk.world.settings, files, "other-device") as other:
        count = -(-entry.blob_bytes // entry.chunk_bytes)
        chunks = [read_retained(other, topics.chunk(entry.blob, entry.chunk_bytes, n)) for n in range(count)]
    return b"".join(chunk or b"" for chunk in chunks)


def renew(desk: Desk) -> int:
    """What the controller does at each tick about keys of devices that changed."""
    desk.reader.apply()
    with session_scope(desk.house.engine) as session:
        done = renew_content_keys(session, desk.house.store, desk.house.keys, desk.house.fence)
    desk.sync.run(desk.house.fence)
    return done


def test_full_and_delta_install_while_the_broker_holds_only_ciphertext(world: World, desk: Desk) -> None:
    device = str(world.start().wait("connected")[0]["device"])
    desk.wait(lambda: bool(desk.reported(device)))
    for version, is_delta in (("v1", False), ("v2", True)):
        desk.assign(device, version)
        desk.wait(lambda version=version: desk.confirmed(device, version), desk.reported(device))
        entry, plain = entry_of(desk, device), image(version)
        assert entry.content_key is not None
        assert (entry.base_digest is not None) == is_delta
        sealed = on_the_broker(desk, entry)
        assert len(sealed) == entry.blob_bytes
        with pytest.raises(DeltaError):  # what the codec says it is lies below the cipher
            apply_delta(image("v1") if is_delta else b"", sealed)
        pieces = {plain[at : at + 16] for at in range(0, len(plain) - 16, 16)} - {bytes(16)}
        assert not [piece for piece in pieces if piece in sealed]


def test_device_without_the_key_says_so_and_goes_on_once_it_is_wrapped_for_its_own(world: World, desk: Desk) -> None:
    device = str(world.start().wait("connected")[0]["device"])
    desk.wait(lambda: bool(desk.reported(device)))
    with session_scope(desk.house.engine) as session:
        row = desk.house.device(session, device)
        own, row.public_key = row.public_key, point_of(ec.generate_private_key(ec.SECP256R1()).public_key())
    desk.assign(device, "v1")
    desk.wait(lambda: desk.reason(device) == "CONTENT_KEY", desk.reported(device))
    reported = desk.reported(device)
    assert reported["refused_sequence"] == reported["sequence"]
    assert {slot["state"] for slot in reported["components"][0]["slots"]} == {"EMPTY"}, "nothing was downloaded"
    with session_scope(desk.house.engine) as session:
        desk.house.device(session, device).public_key = own
    assert renew(desk) == 1
    desk.wait(lambda: desk.answer(device) or desk.confirmed(device, "v1"))


def test_device_that_enrols_again_with_another_key_gets_it_wrapped_anew(world: World, desk: Desk) -> None:
    first = world.start()
    device = str(first.wait("connected")[0]["device"])
    desk.wait(lambda: bool(desk.reported(device)))
    desk.assign(device, "v1")
    desk.wait(lambda: desk.confirmed(device, "v1"))
    assert first.end() == 0
    with session_scope(desk.house.engine, read_only=True) as session:
        before = desk.house.device(session, device).public_key
    reset_device(world.house.engine, world.settings, device)
    shutil.rmtree(world.folder / "devices")
    second = world.start(csr_name=device)
    assert second.wait("connected")[0]["device"] == device
    with session_scope(desk.house.engine, read_only=True) as session:
        assert desk.house.device(session, device).public_key != before
    assert renew(desk) == 1
    desk.wait(lambda: desk.answer(device) or desk.confirmed(device, "v1"))
