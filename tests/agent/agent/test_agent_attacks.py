"""The attacks of ota/SPEC.md section 1 that need more than one bad message, each against the C agent."""

from dataclasses import replace

import cbor2
import pytest

from agent.agent.rig import (
    CHUNK_BYTES,
    DIRECTOR_KEY,
    OTHER_KEY,
    RELEASE_KEY,
    ROOT_KEYS,
    Device,
    Release,
    Service,
    holds,
    installed,
    release,
    root_one,
    sha256,
)
from tinyfleet_ota import Assignment, AssignmentEntry, make_assignment, make_release, make_root, topics
from tinyfleet_ota.protocol import EventKind, Reason, SlotState

V1, V2, V3 = release(0, 1), release(1, 2), release(2, 3)
DESIRED = topics.desired("m4-7")
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def assigned(service: Service, *entries: AssignmentEntry, sequence: int | None = None) -> bytes:
    sequence = service.sequence + 1 if sequence is None else sequence
    return make_assignment(Assignment("m4-7", service.epoch, sequence, None, entries), service.signer)


def last_reason(device: Device) -> Reason:
    return Reason(device.state()["last_reason"])


def unharmed(device: Device) -> bool:
    """V1 runs and the other slot was never touched."""
    return holds(device, V1) and device.slot(device.info.active ^ 1).state == SlotState.EMPTY


def with_signature(sign1: bytes, signature: bytes) -> bytes:
    item = cbor2.loads(sign1)
    return cbor2.dumps(cbor2.CBORTag(item.tag, [*item.value[:3], signature]), canonical=True)


@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(63)], ids=["empty", "zeros", "short"])
def test_a_stripped_assignment_signature_is_refused(signature: bytes) -> None:
    device, service = installed(V1)
    device.broker.publish(DESIRED, with_signature(assigned(service, service.entry(V2)), signature))
    device.run(1000)
    assert last_reason(device) in (Reason.ASSIGNMENT_SIGNATURE, Reason.ASSIGNMENT_MALFORMED)
    assert unharmed(device)


def test_a_swapped_assignment_signature_is_refused() -> None:
    device, service = installed(V1)
    other = cbor2.loads(assigned(service, service.entry(V1))).value[3]
    device.broker.publish(DESIRED, with_signature(assigned(service, service.entry(V2)), other))
    device.run(1000)
    assert last_reason(device) == Reason.ASSIGNMENT_SIGNATURE
    assert unharmed(device)


def resigned(envelope: bytes, signature: bytes) -> Release:
    """V2 with other bytes where the signature of its envelope stands."""
    at = envelope.index(bytes.fromhex("a0f65840")) + 4
    return Release(V2.image, envelope[:at] + signature + envelope[at + 64 :])


@pytest.mark.parametrize("signature", [bytes(64), V1.envelope[67:131]], ids=["stripped", "swapped"])
def test_a_stripped_or_swapped_release_signature_is_refused(signature: bytes) -> None:
    device, service = installed(V1)
    service.assign(resigned(V2.envelope, signature))
    device.run(3000)
    assert last_reason(device) == Reason.MANIFEST_SIGNATURE
    assert unharmed(device)


def test_a_recorded_assignment_is_not_followed_again() -> None:
    device, service = installed(V1)
    recorded = device.broker.retained[DESIRED]
    service.assign(V2, base=V1)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    device.broker.publish(DESIRED, recorded)
    device.run(3000)
    assert last_reason(device) == Reason.ASSIGNMENT_OLD_SEQUENCE
    assert holds(device, V2)


def test_undo_above_the_floor_works() -> None:
    device, service = installed(release(0, 5, floor=3))
    device_old, new = device.answering, release(1, 6, floor=5)
    service.assign(new)
    assert device.run_until(lambda d: holds(d, new), infer=True)
    assert device.info.floor == 5
    service.assign(release(0, 5, floor=3))
    assert device.run_until(lambda d: d.confirmed == device_old, infer=True)
    assert device.info.floor == 5


def test_a_frozen_device_runs_on_and_says_it_is_stale() -> None:
    device, service = installed(V1)
    assert device.state()["fresh"]
    device.now_ms += 8 * DAY_MS
    device.run(200_000)
    assert device.state()["fresh"] is False
    assert holds(device, V1)
    assert device.infer()[0] == 0
    service.send(service.entry(V1), nonce=device.state()["nonce"])
    device.run(2000)
    assert device.state()["fresh"] is True


@pytest.mark.parametrize(("hours", "boots"), [(20, 9), (1, 85), (0, 168)])
def test_a_freeze_is_seen_however_often_a_device_resets(hours: int, boots: int) -> None:
    """The broker replays one and the same assignment to a device that resets each time before a day is over."""
    device, service = installed(V1)
    service.send(service.entry(V1), nonce=device.state()["nonce"])
    device.run(2000)
    assert device.state()["fresh"]
    for boot in range(1, boots + 1):
        assert device.boot() == 0
        device.run(2000)
        assert device.state()["fresh"] is (boot < boots), boot
        device.now_ms += hours * HOUR_MS
        device.run((hours + 1) * 1000)
    assert holds(device, V1)
    assert device.boot() == 0
    device.run(2000)
    assert device.state()["fresh"] is False
    service.send(service.entry(V1), nonce=device.state()["nonce"])
    device.run(2000)
    assert device.state()["fresh"] is True
    assert device.violations == 0


def test_an_echo_counts_once_and_the_one_before_is_still_taken() -> None:
    device, service = installed(V1)
    first = device.state()["nonce"]
    service.send(service.entry(V1), nonce=first)
    device.run(2000)
    second = device.state()["nonce"]
    assert second != first
    service.send(service.entry(V1), nonce=first)  # signed before the service read of the second
    device.run(2000)
    assert (device.info.sequence, device.state()["nonce"]) == (service.sequence, second)
    assert device.boot() == 0
    device.run(2000)
    assert (device.info.sequence, device.state()["nonce"]) == (service.sequence, second)
    assert not device.events(EventKind.ASSIGNMENT_REFUSED)
    service.send(service.entry(V1), nonce=second)
    device.run(2000)
    service.send(service.entry(V1), nonce=first)
    device.run(2000)
    assert device.info.sequence == service.sequence - 1
    assert device.state()["last_reason"] == Reason.ASSIGNMENT_STALE_NONCE


def test_a_device_that_hears_nothing_fresh_writes_no_more_once_it_said_so() -> None:
    device, _ = installed(V1)
    device.now_ms += 8 * DAY_MS
    device.run(200_000)
    assert device.state()["fresh"] is False
    before = device.operations
    for _ in range(100):
        device.now_ms += 2 * HOUR_MS
        device.run(2000)
    assert device.operations == before


def rotated_root() -> bytes:
    """Root 2: another director key, so a higher epoch."""
    root = replace(root_one(), number=2, director_epoch=2, director_keys=(OTHER_KEY.public_key,))
    return make_root(root, ROOT_KEYS[:1], root_one())


def test_a_sequence_at_its_end_is_cured_by_a_root() -> None:
    """Fast-forward by a stolen director key: the highest sequence there is, then a root and sequence 1."""
    device, service = installed(V1)
    device.broker.publish(DESIRED, assigned(service, service.entry(V1), sequence=(1 << 53) - 1))
    device.run(1000)
    assert device.info.sequence == (1 << 53) - 1
    device.broker.publish(topics.root(2), rotated_root())
    device.run(1000)
    service.signer, service.epoch, service.sequence = OTHER_KEY, 2, 0
    service.assign(V2, base=V1)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    service.signer, service.epoch = DIRECTOR_KEY, 1
    device.broker.publish(DESIRED, assigned(service, service.entry(V3), sequence=(1 << 53) - 1))
    device.run(3000)
    assert holds(device, V2)


def test_an_image_of_another_component_is_refused() -> None:
    """Mix and match: the manifest names its component, so it cannot be brought to another one."""
    device, service = installed(V1)
    envelope = make_release(
        V2.image,
        device_class="cortex-m4",
        abi=1,
        release_counter=2,
        security_floor=0,
        component="model/1",
        version="v2",
        signer=RELEASE_KEY,
    )
    service.assign(Release(V2.image, envelope))
    device.run(3000)
    assert last_reason(device) == Reason.UNKNOWN_COMPONENT
    assert unharmed(device)


def test_a_bundle_with_one_bad_component_moves_nothing() -> None:
    """Mix and match: one assignment names every component; a device that cannot follow all of it follows none."""
    device, service = installed(V1)
    good = service.entry(V2)
    service.send(good, replace(good, component="model/1"))
    device.run(3000)
    assert last_reason(device) == Reason.UNKNOWN_COMPONENT
    assert unharmed(device)


def test_endless_data_stays_outside_the_slot_and_ends() -> None:
    """The broker sends chunks for ever, each on the topic that is asked for, all of the right size and wrong."""
    device, service = installed(V1)
    device.broker.deliver = lambda topic, data: bytes(len(data)) if "/b/" in topic else data
    service.assign(V2)
    for _ in range(4000):
        device.step()
        topic = topics.chunk(sha256(V2.image)[:16], CHUNK_BYTES, 10_000)
        device.broker.subscribed.add(topic)
        device.broker.publish(topic, bytes(CHUNK_BYTES))
    assert device.slot(device.info.active ^ 1).state == SlotState.REJECTED
    assert holds(device, V1)
    assert device.violations == 0
    assert device.operations < 3 * (2 * len(V2.image) // device.unit_bytes + 400)


def test_a_signed_size_that_lies_is_refused_or_ends_in_rejection() -> None:
    device, service = installed(V1)
    for size in (1, len(V2.image) - 1, len(V2.image) + 1, 0xFFFFFFFF):
        service.send(replace(service.entry(V2), blob_bytes=size))
        device.run(2000)
        assert last_reason(device) == Reason.ASSIGNMENT_MALFORMED, size
        assert unharmed(device)


def chunk_number(topic: str) -> int:
    return int(topic.rsplit("/", 1)[1]) if "/b/" in topic else -1


def test_wrong_chunks_end_in_a_digest_that_differs() -> None:
    """Two chunks change places under their topics."""
    device, service = installed(V1)
    chunks = [V2.image[at : at + CHUNK_BYTES] for at in range(0, len(V2.image), CHUNK_BYTES)]
    swapped = {1: chunks[2], 2: chunks[1]}
    device.broker.deliver = lambda topic, data: swapped.get(chunk_number(topic), data)
    service.assign(V2)
    device.run(30_000)
    slot = device.slot(device.info.active ^ 1)
    assert (slot.state, slot.reason) == (SlotState.REJECTED, Reason.DIGEST_MISMATCH)
    assert holds(device, V1)


def test_chunks_in_the_wrong_order_and_twice_are_sorted_out() -> None:
    device, service = installed(V1)
    broker = device.broker
    entry = service.entry(V2)
    held: list[tuple[str, bytes]] = []

    def reorder(topic: str, data: bytes) -> bytes | None:
        if chunk_number(topic) != 1 or held:
            return data
        held.append((topic, data))
        return None

    broker.deliver = reorder
    service.send(entry)
    device.run(20)
    for _ in range(2):
        broker.publish(*held[0])
        device.run(5)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    assert device.violations == 0


def test_a_missing_chunk_is_named_and_waited_for() -> None:
    device, service = installed(V1)
    device.broker.deliver = lambda topic, data: None if chunk_number(topic) == 3 else data
    service.assign(V2)
    device.run(20_000)
    assert device.state()["waiting"] == [sha256(V2.image)[:16], 3]
    assert holds(device, V1)
    device.broker.deliver = None
    assert device.run_until(lambda d: holds(d, V2), infer=True)


def test_a_broker_that_lies_about_everything_wears_no_flash() -> None:
    """Every retained payload has a bit flipped, for a simulated week: nothing is written after the third download."""
    device, service = installed(V1)

    def lie(topic: str, data: bytes) -> bytes:
        return data if topic == DESIRED or "/m/" in topic else bytes([data[0] ^ 1]) + data[1:]

    device.broker.deliver = lie
    service.assign(V2)
    device.run(30_000)
    assert len(device.events(EventKind.DOWNLOAD)) == 3
    before = device.operations
    for _ in range(7):
        device.now_ms += DAY_MS
        device.run(20_000)
    per_download = 2 * len(V2.image) // device.unit_bytes + 200
    assert device.operations - before <= 7 * per_download, "at most one download a day"
    device.broker.deliver = lambda topic, data: bytes([data[0] ^ 1]) + data[1:]
    before = device.operations
    device.boot()
    device.run(60_000)
    assert device.operations < 40
    assert holds(device, V1)


def test_the_director_key_alone_cannot_make_an_image_run() -> None:
    """It signs manifests, lowers floors, names other classes: nothing of it runs."""
    fix = release(3, 9, floor=9)
    device, service = installed(fix)
    attempts = [
        release(1, 10, signer=DIRECTOR_KEY),
        release(1, 10, device_class="cortex-m7"),
        release(1, 8),
    ]
    for attempt, reason in zip(attempts, (Reason.KEY_REVOKED, Reason.OTHER_CLASS, Reason.BELOW_FLOOR), strict=True):
        service.assign(attempt)
        device.run(3000)
        assert last_reason(device) == reason
        assert holds(device, fix)


def test_the_release_key_alone_cannot_reach_a_device() -> None:
    device, service = installed(V1)
    service.signer = RELEASE_KEY
    service.assign(V2)
    device.run(3000)
    assert last_reason(device) == Reason.ASSIGNMENT_SIGNATURE
    assert unharmed(device)


def test_one_root_key_of_two_changes_nothing() -> None:
    root = replace(root_one(), threshold=2)
    device, service = installed(V1, Device(root=make_root(root, ROOT_KEYS[:2])))
    evil = replace(root, number=2, director_epoch=2, director_keys=(OTHER_KEY.public_key,))
    payload = cbor2.loads(make_root(evil, ROOT_KEYS[:2], root))
    one = [payload.value[3][0]]
    device.broker.publish(topics.root(2), cbor2.dumps(cbor2.CBORTag(98, [*payload.value[:3], one]), canonical=True))
    device.run(1000)
    assert device.info.root == 1
    assert last_reason(device) == Reason.ROOT_INVALID
    service.signer, service.epoch = OTHER_KEY, 2
    service.assign(V2)
    device.run(2000)
    assert unharmed(device)


def test_a_device_five_roots_behind_walks_them() -> None:
    device, service = installed(V1)
    previous = root_one()
    for number in range(2, 7):
        root = replace(previous, number=number, director_epoch=number)
        root = replace(root, director_keys=(OTHER_KEY.public_key,)) if number == 6 else root
        device.broker.retained[topics.root(number)] = make_root(root, ROOT_KEYS[:1], previous)
        previous = root
    service.signer, service.epoch, service.sequence = OTHER_KEY, 6, 0
    service.assign(V2, base=V1)
    assert device.boot() == 0
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    assert (device.info.root, device.info.director_epoch) == (6, 6)


def test_a_database_that_lags_is_told_and_goes_on_above() -> None:
    device, service = installed(V1)
    service.sequence = 40
    service.assign(V1)
    device.run(1000)
    service.sequence = 12  # the backup
    service.assign(V2)
    device.run(3000)
    state = device.state()
    assert (last_reason(device), state["sequence"]) == (Reason.ASSIGNMENT_OLD_SEQUENCE, 41)
    assert unharmed(device)
    service.sequence = state["sequence"]
    service.assign(V2)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
