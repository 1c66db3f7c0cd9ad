"""Encrypted images from the service: who may open what, and what is signed anew when keys change; no broker."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlmodel import select

from integration.fleet_database import CLASS, PROJECT
from integration.fleet_house import BASE_IMAGE, FleetHouse, image_like_base, make_house
from integration.test_publish_assignments import Shelf, _age, blob_on, entry_of, give, waits
from tinyfleet_ota import AssignmentEntry, EncryptionError, SealedBlob, apply_delta, decrypt_blob, topics, unwrap_key
from tinyfleet_ota.protocol import Codec
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Build, BuildState, Desired, DesiredEntry, Device, TransferBlob, utc_now
from tinyfleet_service.errors import NotFoundError, SettingsError, StateConflictError
from tinyfleet_service.keys.folder import CONTENT, KeyFolder
from tinyfleet_service.publish import (
    BackOff,
    clean_blobs,
    drain_outbox,
    forget_blobs,
    load_director,
    renew_content_keys,
)
from tinyfleet_service.registry.device_classes import encrypt_device_class

DEVICES = ("m4-a", "m4-b")
Key = ec.EllipticCurvePrivateKey


def new_key(house: FleetHouse, device_id: str) -> Key:
    """The device got a certificate for this key."""
    key = ec.generate_private_key(ec.SECP256R1())
    with session_scope(house.engine) as session:
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        house.device(session, device_id).public_key = point
    return key


def switch(house: FleetHouse, encrypted: bool) -> None:
    with session_scope(house.engine) as session:
        encrypt_device_class(session, PROJECT, CLASS, encrypted)


@pytest.fixture
def house(tmp_path: Path) -> FleetHouse:
    house = make_house(tmp_path / "fleet", DEVICES)
    switch(house, True)
    return house


@pytest.fixture
def keys(house: FleetHouse) -> dict[str, Key]:
    return {device: new_key(house, device) for device in DEVICES}


def opened(shelf: Shelf, entry: AssignmentEntry, key: Key, device_id: str) -> bytes:
    """What the device makes of the chunks on the broker."""
    assert entry.content_key is not None
    content = unwrap_key(entry.content_key, key, entry.blob, device_id)
    return decrypt_blob(SealedBlob(blob_on(shelf, entry), content), entry.chunk_bytes)


def drained(house: FleetHouse, shelf: Shelf | None = None) -> Shelf:
    shelf = shelf or Shelf()
    drain_outbox(house.engine, shelf, house.fence)
    return shelf


def renew(house: FleetHouse) -> int:
    with session_scope(house.engine) as session:
        return renew_content_keys(session, house.store, house.keys, house.fence)


def desired_of(house: FleetHouse, device_id: str) -> Desired:
    with session_scope(house.engine, read_only=True) as session:
        return session.get_one(Desired, device_id)


def blobs(house: FleetHouse) -> list[TransferBlob]:
    with session_scope(house.engine, read_only=True) as session:
        return list(session.exec(select(TransferBlob).order_by(TransferBlob.id)))


def test_full_and_delta_open_for_their_device_alone(house: FleetHouse, keys: dict[str, Key]) -> None:
    house.report("m4-b", "v1")
    full, delta = entry_of(house, give(house, "m4-a", "v2")), entry_of(house, give(house, "m4-b", "v2"))
    shelf = drained(house)
    assert (full.codec, delta.codec) == (Codec.RAW, Codec.DELTA)
    assert opened(shelf, full, keys["m4-a"], "m4-a") == image_like_base(40)
    assert apply_delta(BASE_IMAGE, opened(shelf, delta, keys["m4-b"], "m4-b")) == image_like_base(40)
    for thief, device_id in ((keys["m4-b"], "m4-a"), (keys["m4-b"], "m4-b")):
        with pytest.raises(EncryptionError):
            opened(shelf, full, thief, device_id)


def test_the_broker_gets_nothing_readable(house: FleetHouse, keys: dict[str, Key]) -> None:
    give(house, "m4-a", "v1")
    shelf = drained(house)
    seen = b"".join(data for topic, data in shelf.retained.items() if topic.startswith("fleet/v1/b/"))
    assert len(seen) > len(BASE_IMAGE)
    assert not [at for at in range(0, len(BASE_IMAGE) - 16, 16) if BASE_IMAGE[at : at + 16] in seen]


def test_no_two_blobs_share_a_key_and_none_rests_in_the_clear(house: FleetHouse, keys: dict[str, Key]) -> None:
    house.report("m4-b", "v1")
    entries = [entry_of(house, give(house, device, "v2")) for device in DEVICES]
    content = [
        unwrap_key(entry.content_key or b"", keys[device], entry.blob, device)
        for device, entry in zip(DEVICES, entries, strict=True)
    ]
    assert len(set(content)) == 2
    encrypted = [blob for blob in blobs(house) if blob.encrypted]
    assert len(encrypted) == 2
    for blob in encrypted:
        assert not any(key in (blob.content_key or b"") for key in content)
    pem = (house.settings.dirs.keys / CONTENT).read_bytes()
    assert b"ENCRYPTED PRIVATE KEY" in pem
    database = b"".join(path.read_bytes() for path in house.settings.dirs.path.glob("tinyfleet.db*"))
    assert not any(key in database for key in content)


@pytest.mark.parametrize("plain_too", [False, True])
def test_a_blob_that_the_store_lost_is_made_again_for_who_is_assigned_it(
    house: FleetHouse, keys: dict[str, Key], plain_too: bool
) -> None:
    """Whoever forgot its bytes did not forget its row, as where the database was away at the end."""
    house.report("m4-b", "v1")
    give(house, "m4-b", "v2")
    with session_scope(house.engine) as session:
        for blob in session.exec(select(TransferBlob).where(TransferBlob.codec == Codec.DELTA)):
            blob.published_at = None
            if blob.encrypted or plain_too:
                house.store.delete(blob.sha256)
        for desired in session.exec(select(DesiredEntry)):
            session.delete(desired)
    entry = entry_of(house, give(house, "m4-b", "v2"))
    assert entry.codec == Codec.DELTA
    assert apply_delta(BASE_IMAGE, opened(drained(house), entry, keys["m4-b"], "m4-b")) == image_like_base(40)


def test_devices_share_one_blob_and_each_has_its_own_wrap(house: FleetHouse, keys: dict[str, Key]) -> None:
    first, second = (entry_of(house, give(house, device, "v1")) for device in DEVICES)
    assert first.blob == second.blob
    assert first.content_key != second.content_key
    assert opened(drained(house), second, keys["m4-b"], "m4-b") == BASE_IMAGE


def test_published_again_it_is_the_same_blob_wrapped_afresh(house: FleetHouse, keys: dict[str, Key]) -> None:
    first, again = (entry_of(house, give(house, "m4-a", "v1")) for _ in range(2))
    assert first.blob == again.blob
    assert first.content_key != again.content_key
    assert opened(drained(house), again, keys["m4-a"], "m4-a") == BASE_IMAGE


def test_lost_with_the_plain_blob_forgotten_it_is_made_again_encrypted(house: FleetHouse, keys: dict[str, Key]) -> None:
    house.report("m4-a", "v1")
    old = entry_of(house, give(house, "m4-a", "v2"))
    with session_scope(house.engine) as session:
        forget_blobs(session, house.store, utc_now())  # as a month later: nobody is assigned the plain one
    (blob,) = [blob for blob in blobs(house) if blob.base_sha256]
    house.store.delete(blob.sha256)
    _age(house, 30)
    assert waits(house, desired_of(house, "m4-a"), running="v1") == "assigned"
    entry, shelf = entry_of(house, desired_of(house, "m4-a")), drained(house)
    assert entry.blob != old.blob
    assert apply_delta(BASE_IMAGE, opened(shelf, entry, keys["m4-a"], "m4-a")) == image_like_base(40)


def test_another_key_of_the_device_is_wrapped_for_and_signed_anew(house: FleetHouse, keys: dict[str, Key]) -> None:
    give(house, "m4-b", "v1")
    before = give(house, "m4-a", "v1", confirm_timeout_s=77)
    assert renew(house) == 0
    key = new_key(house, "m4-a")
    assert renew(house) == 1
    assert renew(house) == 0
    after = desired_of(house, "m4-a")
    entry = entry_of(house, after)
    assert (after.sequence, entry.confirm_timeout_s) == (before.sequence + 1, 77)
    assert opened(drained(house), entry, key, "m4-a") == BASE_IMAGE
    with pytest.raises(EncryptionError):
        unwrap_key(entry.content_key or b"", keys["m4-a"], entry.blob, "m4-a")


def test_a_class_encrypted_later_takes_its_readable_blobs_off_the_broker(house: FleetHouse) -> None:
    switch(house, False)
    keys = {device: new_key(house, device) for device in DEVICES}
    plain = [entry_of(house, give(house, device, "v1")) for device in DEVICES]
    shelf = drained(house)
    assert plain[0].content_key is None
    assert renew(house) == 0
    switch(house, True)
    assert renew(house) == 2
    assert renew(house) == 0
    with session_scope(house.engine) as session:
        assert clean_blobs(session, utc_now(), house.fence) == 1
    drained(house, shelf)
    entry = entry_of(house, desired_of(house, "m4-a"))
    assert opened(shelf, entry, keys["m4-a"], "m4-a") == BASE_IMAGE
    assert not [topic for topic in shelf.retained if topics.blob_id_text(plain[0].blob) in topic]


def test_switched_off_it_counts_for_new_assignments(house: FleetHouse, keys: dict[str, Key]) -> None:
    give(house, "m4-a", "v1")
    switch(house, False)
    assert renew(house) == 0
    assert entry_of(house, desired_of(house, "m4-a")).content_key is not None
    assert entry_of(house, give(house, "m4-a", "v2")).content_key is None
    assert house.entry("m4-a").wrapped_for is None


def test_device_without_a_certificate_of_ours_is_refused_and_told_why(house: FleetHouse) -> None:
    with pytest.raises(StateConflictError, match="nothing can be encrypted for it") as caught:
        give(house, "m4-a", "v1")
    assert "--off" in caught.value.next


def test_lost_content_key_is_told_and_stops_nobody_else(house: FleetHouse, keys: dict[str, Key]) -> None:
    give(house, "m4-a", "v1")
    good = (house.settings.dirs.keys / CONTENT).read_bytes()
    (house.settings.dirs.keys / CONTENT).unlink()
    house.keys = load_director(house.settings)
    with pytest.raises(SettingsError, match="does not open") as caught:
        give(house, "m4-b", "v1")
    assert "restore content.pem" in caught.value.next
    new_key(house, "m4-a")
    assert renew(house) == 0, "told in the log; the tick goes on"
    (house.settings.dirs.keys / CONTENT).write_bytes(good)
    house.keys = load_director(house.settings)
    assert renew(house) == 1


def test_devices_that_fail_rest_longer_each_time_and_keep_nobody_from_their_turn(
    house: FleetHouse, keys: dict[str, Key], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, back_off = utc_now(), BackOff()
    monkeypatch.setattr("tinyfleet_service.publish.back_off.utc_now", lambda: now)
    good = house.keys
    for device in DEVICES:
        give(house, device, "v1")
        new_key(house, device)

    def renew_one() -> int:
        with session_scope(house.engine) as session:
            return renew_content_keys(session, house.store, house.keys, house.fence, limit=1, back_off=back_off)

    house.keys = replace(good, content=ec.generate_private_key(ec.SECP256R1()))
    tried = []
    for seconds in (0, 0, 0, 9, 2, 0, 15, 6, 0):
        now += timedelta(seconds=seconds)
        caplog.clear()
        assert renew_one() == 0
        tried.append(sum("anew" in record.message for record in caplog.records))
    assert tried == [1, 1, 0, 0, 1, 1, 0, 1, 1], "both at once; after 10 s; after 20 s more"
    house.keys = good
    assert renew_one() == 0
    now += timedelta(seconds=40)
    assert [renew_one() for _ in range(3)] == [1, 1, 0]


@pytest.mark.parametrize("damage", [b"", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n", b"\xff" * 40])
def test_damaged_content_key_file_is_told(house: FleetHouse, damage: bytes) -> None:
    (house.settings.dirs.keys / CONTENT).write_bytes(damage)
    with pytest.raises(SettingsError, match="cannot use"):
        KeyFolder(house.settings.dirs.keys).content_key()


def test_class_that_is_not_there_cannot_be_switched(house: FleetHouse) -> None:
    with session_scope(house.engine) as session, pytest.raises(NotFoundError, match="cortex-m9"):
        encrypt_device_class(session, PROJECT, "cortex-m9", True)


def test_build_that_is_not_ready_leaves_its_devices_as_they_are(house: FleetHouse) -> None:
    switch(house, False)
    new_key(house, "m4-a")
    give(house, "m4-a", "v1")
    with session_scope(house.engine) as session:
        house.build(session, "v1").state = BuildState.AWAITING_SIGNATURE
        assert session.get(Build, house.builds["v1"]) is not None
        assert session.get(Device, "m4-a") is not None
    switch(house, True)
    assert renew(house) == 0
