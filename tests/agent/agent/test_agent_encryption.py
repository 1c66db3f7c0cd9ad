"""Encrypted images: the right device decrypts them as they come, everything else changes nothing in its slots."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.agent.rig import CHUNK_BYTES, DEVICE, Device, Release, Service, holds, installed, release, sha256
from tinyfleet_ota import AssignmentEntry, SealedBlob, encrypt_blob, make_delta, topics, wrap_key
from tinyfleet_ota.protocol import Codec, Reason, SlotState

V1, V2 = release(0, 1), release(1, 2)


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def device(key: ec.EllipticCurvePrivateKey, tmp_path: Path) -> Device:
    path = tmp_path / "device.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    device, _ = installed(V1, Device(key_path=str(path)))
    return device


def service_of(device: Device) -> Service:
    service = Service(device.broker)
    service.sequence = device.info.sequence
    return service


def seal(service: Service, plain: bytes) -> SealedBlob:
    sealed = encrypt_blob(plain, CHUNK_BYTES)
    service.put_blob(sealed.data)
    return sealed


def entry(
    service: Service,
    sealed: SealedBlob,
    key: ec.EllipticCurvePrivateKey,
    *,
    device: str = DEVICE,
    base: Release | None = None,
    codec: Codec = Codec.RAW,
) -> AssignmentEntry:
    blob = sha256(sealed.data)[:16]
    wrapped = wrap_key(sealed.key, key.public_key(), blob, device)
    changed = {"blob": blob, "blob_bytes": len(sealed.data), "content_key": wrapped, "codec": codec}
    return replace(service.entry(V2), base_digest=base.digest if base else None, **changed)


def untouched(device: Device) -> bool:
    return holds(device, V1) and device.slot(device.info.active ^ 1).state == SlotState.EMPTY


def test_a_raw_image_is_decrypted_as_it_comes(device: Device, key: ec.EllipticCurvePrivateKey) -> None:
    service = service_of(device)
    service.send(entry(service, seal(service, V2.image), key))
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    assert device.flash_bytes(device.info.active, len(V2.image)) == V2.image


@pytest.mark.parametrize("base", [V1, None], ids=["delta", "packed"])
def test_a_patch_is_decrypted_as_it_comes(
    device: Device, key: ec.EllipticCurvePrivateKey, base: Release | None
) -> None:
    service = service_of(device)
    sealed = seal(service, make_delta(base.image if base else b"", V2.image, spacing=512))
    service.send(entry(service, sealed, key, base=base, codec=Codec.DELTA))
    assert device.run_until(lambda d: holds(d, V2), infer=True)


def test_a_reset_in_mid_download_resumes_inside_the_encrypted_blob(
    device: Device, key: ec.EllipticCurvePrivateKey
) -> None:
    service = service_of(device)
    device.broker.deliver = lambda topic, data: None if topic.endswith("/4") else data
    service.send(entry(service, seal(service, V2.image), key))
    device.run(3000)
    assert device.boot() == 0
    device.broker.deliver = None
    device.broker.asked.clear()
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    asked = {int(topic.rsplit("/", 1)[1]) for topic in device.broker.asked if "/b/" in topic}
    assert min(asked) >= 2, "the first chunks were in flash already"


def test_a_wrong_content_key_opens_no_chunk(device: Device, key: ec.EllipticCurvePrivateKey) -> None:
    service = service_of(device)
    sealed = seal(service, V2.image)
    service.send(entry(service, replace(sealed, key=bytes(16)), key))
    device.run(30_000)
    slot = device.slot(device.info.active ^ 1)
    assert (slot.state, slot.reason) == (SlotState.REJECTED, Reason.CHUNK_FORGED)
    assert holds(device, V1)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("at", [0, 100, CHUNK_BYTES - 17, CHUNK_BYTES - 1], ids=["first", "middle", "last", "tag"])
def test_a_flipped_byte_is_refused_before_flash(device: Device, key: ec.EllipticCurvePrivateKey, at: int) -> None:
    service = service_of(device)
    device.broker.deliver = lambda topic, data: flip(data, at) if topic.endswith("/0") and "/b/" in topic else data
    service.send(entry(service, seal(service, V2.image), key))
    device.run(30_000)
    assert device.slot(device.info.active ^ 1).reason == Reason.CHUNK_FORGED
    start = device.flash_bytes(device.info.active ^ 1, CHUNK_BYTES)
    assert start == b"\xff" * CHUNK_BYTES, "not a byte of it was programmed"


def test_chunks_that_change_places_are_refused(device: Device, key: ec.EllipticCurvePrivateKey) -> None:
    service = service_of(device)
    sealed = seal(service, V2.image)
    blob = sha256(sealed.data)[:16]
    first, second = (device.broker.retained[topics.chunk(blob, CHUNK_BYTES, n)] for n in (0, 1))
    device.broker.retained[topics.chunk(blob, CHUNK_BYTES, 0)] = second
    device.broker.retained[topics.chunk(blob, CHUNK_BYTES, 1)] = first
    service.send(entry(service, sealed, key))
    device.run(30_000)
    assert device.slot(device.info.active ^ 1).reason == Reason.CHUNK_FORGED
    assert holds(device, V1)


@pytest.mark.parametrize("cut", [1, 16, 17, CHUNK_BYTES])
def test_a_truncated_blob_is_refused(device: Device, key: ec.EllipticCurvePrivateKey, cut: int) -> None:
    service = service_of(device)
    sealed = seal(service, V2.image)
    short = replace(sealed, data=sealed.data[:-cut])
    service.put_blob(short.data)
    service.send(entry(service, short, key))
    device.run(10_000)
    assert untouched(device)
    assert device.state()["last_reason"] == Reason.ASSIGNMENT_MALFORMED


def for_another_key(service: Service, sealed: SealedBlob, key: ec.EllipticCurvePrivateKey) -> AssignmentEntry:
    return entry(service, sealed, ec.generate_private_key(ec.SECP256R1()))


def for_another_device(service: Service, sealed: SealedBlob, key: ec.EllipticCurvePrivateKey) -> AssignmentEntry:
    return entry(service, sealed, key, device="m4-8")


def for_another_blob(service: Service, sealed: SealedBlob, key: ec.EllipticCurvePrivateKey) -> AssignmentEntry:
    other = entry(service, encrypt_blob(V1.image, CHUNK_BYTES), key)
    return replace(entry(service, sealed, key), content_key=other.content_key)


def off_the_curve(service: Service, sealed: SealedBlob, key: ec.EllipticCurvePrivateKey) -> AssignmentEntry:
    good = entry(service, sealed, key)
    assert good.content_key is not None
    return replace(good, content_key=flip(good.content_key, 40))


def flipped_wrap(service: Service, sealed: SealedBlob, key: ec.EllipticCurvePrivateKey) -> AssignmentEntry:
    good = entry(service, sealed, key)
    assert good.content_key is not None
    return replace(good, content_key=flip(good.content_key, 70))


WRAPS = [for_another_key, for_another_device, for_another_blob, off_the_curve, flipped_wrap]


@pytest.mark.parametrize("make", WRAPS, ids=lambda make: make.__name__)
def test_a_key_wrapped_otherwise_is_refused_before_flash_is_touched(
    device: Device,
    key: ec.EllipticCurvePrivateKey,
    make: Callable[[Service, SealedBlob, ec.EllipticCurvePrivateKey], AssignmentEntry],
) -> None:
    service = service_of(device)
    service.send(make(service, seal(service, V2.image), key))
    device.run(5000)
    assert device.state()["last_reason"] == Reason.CONTENT_KEY
    assert untouched(device)


def test_a_port_that_cannot_decrypt_refuses(device: Device, key: ec.EllipticCurvePrivateKey) -> None:
    device.decrypts = False
    assert device.boot() == 0
    service = service_of(device)
    service.send(entry(service, seal(service, V2.image), key))
    device.run(5000)
    assert device.state()["last_reason"] == Reason.CONTENT_KEY
    assert untouched(device)


def test_plain_chunks_under_a_content_key_are_refused(device: Device, key: ec.EllipticCurvePrivateKey) -> None:
    """A broker that strips the encryption: sizes may fit, tags do not."""
    service = service_of(device)
    sealed = seal(service, V2.image)
    device.broker.deliver = lambda topic, data: bytes(len(data)) if "/b/" in topic else data
    service.send(entry(service, sealed, key))
    device.run(30_000)
    assert device.slot(device.info.active ^ 1).reason == Reason.CHUNK_FORGED
    assert holds(device, V1)
