"""Chunks that come late, twice, in any order or not at all: the update finishes, and flash is written no more."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.agent.rig import DEVICE, Device, Release, Service, holds, installed, release, sha256
from tinyfleet_ota import AssignmentEntry, encrypt_blob, make_delta, topics, wrap_key
from tinyfleet_ota.protocol import Codec

V1, V2 = release(0, 1), release(1, 2)
FORMS = ("raw", "packed", "delta", "encrypted")
CHUNK_BYTES = 64
"""Small, so that also a patch has many."""
TROUBLES = ("twice", "echo", "late", "lost")
LATE_MAX = 24


class Disorder:
    """What becomes of each chunk on its way: nothing, again at once, again later, only later, lost.

    Fates are dealt like cards, troubles first, so that four deliveries meet each of them.
    """

    def __init__(self, device: Device, seed: int) -> None:
        self.broker, self._random = device.broker, random.Random(seed)
        self._late: list[tuple[int, str, bytes]] = []
        self._deck: list[str] = []
        self._clock, self.met = 0, set[str]()
        self.broker.deliver = self._deliver

    def _deliver(self, topic: str, data: bytes) -> bytes | None:
        if "/b/" not in topic:
            return data
        self._deck = self._deck or ["plain", "plain", *self._random.sample(TROUBLES, len(TROUBLES))]
        fate = self._deck.pop()
        self.met.add(fate)
        if fate == "twice":
            self._send(topic, data)
        if fate in ("echo", "late"):
            self._late.append((self._clock + self._random.randint(1, LATE_MAX), topic, data))
        return None if fate in ("late", "lost") else data

    def tick(self) -> None:
        """Time goes on: what is due comes, whether anybody still wants it or not."""
        self._clock += 1
        due = [item for item in self._late if item[0] <= self._clock]
        self._late = [item for item in self._late if item[0] > self._clock]
        self._random.shuffle(due)
        for _, topic, data in due:
            self._send(topic, data)

    def _send(self, topic: str, data: bytes) -> None:
        self.broker.deliver = None
        wanted = topic in self.broker.subscribed
        self.broker.subscribed.add(topic)
        self.broker.publish(topic, data)
        if not wanted:
            self.broker.subscribed.discard(topic)
        self.broker.deliver = self._deliver


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def device_with(key: ec.EllipticCurvePrivateKey, folder: Path) -> tuple[Device, Service]:
    path = folder / "device.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return installed(V1, Device(key_path=str(path)))


def blob_of(form: str) -> tuple[bytes, bytes | None]:
    """(blob, content key)."""
    if form == "raw":
        return V2.image, None
    patch = make_delta(b"" if form == "packed" else V1.image, V2.image, spacing=512)
    if form != "encrypted":
        return patch, None
    sealed = encrypt_blob(patch, CHUNK_BYTES)
    return sealed.data, sealed.key


def entry_of(service: Service, form: str, key: ec.EllipticCurvePrivateKey) -> AssignmentEntry:
    blob, content_key = blob_of(form)
    blob_id = sha256(blob)[:16]
    for n, at in enumerate(range(0, len(blob), CHUNK_BYTES)):
        service.broker.retained[topics.chunk(blob_id, CHUNK_BYTES, n)] = blob[at : at + CHUNK_BYTES]
    codec = Codec.RAW if form == "raw" else Codec.DELTA
    entry = replace(service.entry(V2), blob=blob_id, blob_bytes=len(blob), chunk_bytes=CHUNK_BYTES, codec=codec)
    if form in ("delta", "encrypted"):
        entry = replace(entry, base_digest=V1.digest)
    if content_key is not None:
        entry = replace(entry, content_key=wrap_key(content_key, key.public_key(), blob_id, DEVICE))
    return entry


def updated_in(device: Device, steps: int, disorder: Disorder | None = None) -> bool:
    for _ in range(steps):
        device.step()
        device.infer()
        if disorder:
            disorder.tick()
        if holds(device, V2):
            return True
    return False


def is_whole(device: Device, item: Release) -> bool:
    return device.flash_bytes(device.info.active, len(item.image)) == item.image and device.violations == 0


@pytest.mark.parametrize("form", FORMS)
def test_duplicated_reordered_and_lost_chunks_change_nothing_but_time(
    form: str, key: ec.EllipticCurvePrivateKey, tmp_path: Path
) -> None:
    calm, service = device_with(key, tmp_path)
    before = calm.operations
    service.send(entry_of(service, form, key))
    assert updated_in(calm, 5000)
    cost = calm.operations - before

    device, service = device_with(key, tmp_path)
    before = device.operations
    disorder = Disorder(device, FORMS.index(form))
    service.send(entry_of(service, form, key))
    assert updated_in(device, 20_000, disorder), device.events()
    assert is_whole(device, V2)
    assert device.operations - before == cost, "not a unit more is programmed or erased"
    assert disorder.met >= set(TROUBLES)
