"""Bad input against the whole chain: real broker and ACLs, EST, publishing, and the C agent as its users run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from integration.fleet_support import connected, device_files
from integration.hostile_world import Desk, World, model, running_desk, running_world
from tinyfleet_ota import (
    Assignment,
    FileSigner,
    Signer,
    cose,
    make_assignment,
    make_release,
    make_root,
    parse_assignment,
    parse_root,
    topics,
)
from tinyfleet_ota.protocol_codec import encode_message
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Desired
from tinyfleet_service.keys import load_signer
from tinyfleet_service.publish import read_retained
from unit.service.fleet_state_builders import state

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with running_world(tmp_path) as world:
        yield world


@pytest.fixture
def desk(world: World) -> Iterator[Desk]:
    with running_desk(world) as desk:
        yield desk


@pytest.fixture
def device(world: World, desk: Desk) -> str:
    """A device that runs v1."""
    device_id = str(world.start().wait("connected")[0]["device"])
    desk.wait(lambda: bool(desk.reported(device_id)))
    desk.assign(device_id, "v1")
    desk.wait(lambda: desk.confirmed(device_id, "v1"))
    return device_id


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


class Forger:
    """Makes assignments that differ from the good one in a single thing."""

    def __init__(self, desk: Desk, device: str) -> None:
        self.desk, self.device = desk, device
        with session_scope(desk.house.engine, read_only=True) as session:
            row = session.get(Desired, device)
            assert row is not None
            self.good = row.payload
        self.followed = parse_assignment(self.good, [desk.house.keys.director.public_key])

    def make(self, signer: Signer | None = None, **changes: object) -> bytes:
        """The next assignment, but for `changes`."""
        following = replace(self.followed, sequence=self.followed.sequence + 1)
        return make_assignment(replace(following, **changes), signer or self.desk.house.keys.director)

    def entry(self, **changes: object) -> Assignment:
        return replace(self.followed.entries[0], **changes)


def test_forged_assignments_are_refused_by_a_device_that_then_follows_the_right_one(desk: Desk, device: str) -> None:
    forger = Forger(desk, device)
    good = forger.make()
    release = load_signer(desk.world.settings, "release")
    hostile: list[tuple[str, bytes]] = [
        ("ASSIGNMENT_SIGNATURE", flipped(good, -1)),
        ("ASSIGNMENT_OTHER_DEVICE", forger.make(device="somebody-else")),
        ("ASSIGNMENT_SIGNATURE", flipped(good, len(good) // 2)),
        ("ASSIGNMENT_MALFORMED", good[:-20]),
        ("ASSIGNMENT_SIGNATURE", forger.make(signer=release)),
        ("ASSIGNMENT_OLD_SEQUENCE", forger.make(sequence=forger.followed.sequence, nonce=None)),
        ("ASSIGNMENT_STALE_NONCE", forger.make(nonce=b"01234567")),
        ("ASSIGNMENT_OLD_SEQUENCE", forger.make(director_epoch=forger.followed.director_epoch + 1)),
        ("UNKNOWN_COMPONENT", forger.make(entries=(forger.entry(component="model/9"),))),
    ]
    for number, (reason, message) in enumerate(hostile):
        desk.client.publish(topics.desired(device), message, retain=True)
        desk.wait(lambda reason=reason: desk.reason(device) == reason, (number, reason))
        assert desk.confirmed(device, "v1")
        assert desk.reported(device)["sequence"] == forger.followed.sequence
    desk.client.publish(topics.desired(device), hostile[0][1], retain=True)
    desk.wait(lambda: desk.reason(device) == "ASSIGNMENT_SIGNATURE")
    assert desk.repair(device) == "desired"
    assert desk.repair(device) == "", "once for each report"
    with connected(desk.world.settings, desk.world.pki.service("svc-tool"), "svc-tool") as tool:
        assert read_retained(tool, topics.desired(device)) == forger.good
    desk.assign(device, "v2")
    desk.wait(lambda: desk.confirmed(device, "v2"))


def test_forged_root_changes_nothing(desk: Desk, device: str) -> None:
    """Neither a thief's own root nor ours with a flipped bit; the thief's director key stays unknown."""
    root, thief = parse_root(desk.house.keys.roots[0]), FileSigner.generate()
    following = replace(root, number=2, director_keys=(thief.public_key,), director_epoch=2)
    message = encode_message("root", asdict(following) | {"protocol": 1})
    ours = make_root(following, [load_signer(desk.world.settings, f"root{n}") for n in (1, 2)], root)
    for forged in (cose.sign(message, [thief]), flipped(ours, -1), flipped(ours, len(ours) // 2)):
        desk.client.publish(topics.root(2), forged, retain=True)
        desk.wait(lambda: desk.reason(device) == "ROOT_INVALID")
        desk.client.publish(topics.desired(device), Forger(desk, device).make(signer=thief), retain=True)
        desk.wait(lambda: desk.reason(device) == "ASSIGNMENT_SIGNATURE")
        assert desk.reported(device)["root"] == 1
        assert desk.confirmed(device, "v1")
    desk.assign(device, "v2")
    desk.wait(lambda: desk.confirmed(device, "v2"))


def test_forged_releases_are_refused_although_the_director_signed_for_them(desk: Desk, device: str) -> None:
    """Whoever holds the online director key alone installs nothing, and nothing of another class."""
    house, forger = desk.house, Forger(desk, device)
    release = load_signer(desk.world.settings, "release")
    with session_scope(house.engine, read_only=True) as session:
        build = house.build(session, model("v2"))
        good, image_bytes = build.manifest or b"", house.store.get(build.image_sha256 or "")

    def made(signer: Signer, device_class: str = "host", abi: int = 1) -> bytes:
        terms = {"release_counter": 9, "security_floor": 0, "component": "model/0", "version": "v9"}
        return make_release(image_bytes, device_class=device_class, abi=abi, signer=signer, **terms)

    hostile = [
        ("MANIFEST_SIGNATURE", flipped(good, good.index(release.kid) + len(release.kid) + 10)),
        ("KEY_REVOKED", made(FileSigner.generate())),
        ("OTHER_CLASS", made(release, "cortex-m7")),
        ("MANIFEST_MALFORMED", good[: len(good) // 2]),
        ("ABI_MISMATCH", made(release, abi=77)),
    ]
    for number, (reason, manifest) in enumerate(hostile):
        entry = forger.entry(manifest_digest=sha256(manifest).digest())
        desk.client.publish(topics.manifest(sha256(manifest).digest()[:16]), manifest, retain=True)
        sequence = forger.followed.sequence + 1 + number
        desk.client.publish(topics.desired(device), forger.make(entries=(entry,), sequence=sequence), retain=True)
        desk.wait(lambda reason=reason: desk.reason(device) == reason, (number, reason))
        assert desk.confirmed(device, "v1")
    desk.assign(device, "v2")
    desk.wait(lambda: desk.confirmed(device, "v2"))


LIES: dict[str, tuple[str, Callable[[bytes], bytes], set[str]]] = {
    "patch": ("/b/", lambda data: flipped(data, len(data) // 2), {"PATCH_INVALID", "DIGEST_MISMATCH"}),
    "cut chunk": ("/b/", lambda data: data[:-1], {"DOWNLOAD_FAILED"}),
    "manifest": ("/m/", lambda data: flipped(data, -1), {"MANIFEST_DIGEST"}),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_broker_that_lies_stops_the_update_alone_and_the_truth_goes_on(
    desk: Desk, device: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyfleet_service.publish.repair.REPUBLISH_AFTER", timedelta(0))
    part, change, reasons = LIES[kind]
    desk.client.lie = lambda topic, payload: change(payload) if part in topic and payload else payload
    desk.assign(device, "v2")
    desk.wait(lambda: desk.reason(device) in reasons, kind)
    assert desk.confirmed(device, "v1")
    desk.client.lie = None
    desk.wait(lambda: desk.repair(device) == "blob", kind)
    if kind != "manifest":  # three failed downloads: the device would try again in an hour, or when it is told to
        desk.assign(device, "v2")
    desk.wait(lambda: desk.confirmed(device, "v2"), kind)


def test_a_device_that_nobody_enrolled_is_not_listened_to(desk: Desk, device: str) -> None:
    ghost = device_files(desk.world.pki, "m4-ghost", desk.world.folder)  # of our authority, but without a row
    with connected(desk.world.settings, ghost, "m4-ghost") as mqtt:
        mqtt.publish(topics.state("m4-ghost"), state(sequence=1), retain=True)
    desk.wait(lambda: desk.reader.apply().refused == 1 or bool(desk.reader.refusals))
    assert "m4-ghost" in desk.reader.refusals[0]
    assert desk.confirmed(device, "v1")
    desk.assign(device, "v2")
    desk.wait(lambda: desk.confirmed(device, "v2"))
