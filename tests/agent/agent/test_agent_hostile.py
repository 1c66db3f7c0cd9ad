"""What an attacker, a broken broker or broken flash can send: refused with a reason, state intact, no crash."""

from dataclasses import replace
from typing import Any

import pytest

from agent.agent.rig import (
    CHUNK_BYTES,
    DIRECTOR_KEY,
    NO_SLOT,
    OTHER_KEY,
    RELEASE_KEY,
    ROOT_KEYS,
    Device,
    holds,
    image,
    installed,
    release,
    root_one,
    sha256,
)
from tinyfleet_ota import Assignment, make_assignment, make_delta, make_root, topics
from tinyfleet_ota.protocol import EventKind, Reason, SlotState

V1, V2, V3 = release(0, 1), release(1, 2), release(2, 3)
DESIRED = topics.desired("m4-7")


def refused(device: Device, reason: Reason) -> bool:
    """The device says so, runs V1 and wrote nothing."""
    events = [event["reason"] for event in device.events(EventKind.ASSIGNMENT_REFUSED)]
    return reason in events and holds(device, V1) and device.state()["last_reason"] == reason


def spoilt(data: bytes) -> bytes:
    """Every byte behind the first quarter changed: a single one may be of those at a block's end that say nothing."""
    first = len(data) // 4
    return data[:first] + bytes(byte ^ 1 for byte in data[first:])


def message(
    service, *, device: str = "m4-7", sequence: int | None = None, nonce: bytes | None = None, **terms
) -> bytes:
    sequence = service.sequence + 1 if sequence is None else sequence
    return make_assignment(
        Assignment(device, service.epoch, sequence, nonce, (service.entry(V2, **terms),)), service.signer
    )


def test_every_flipped_byte_of_an_assignment_is_refused() -> None:
    device, service = installed(V1)
    good = message(service)
    for at in range(0, len(good), 3):
        device.broker.publish(DESIRED, good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1 :])
        device.step()
        device.step()
        assert device.info.sequence == service.sequence, at
    device.run(100)
    assert holds(device, V1)
    assert device.state()["last_reason"] in (Reason.ASSIGNMENT_SIGNATURE, Reason.ASSIGNMENT_MALFORMED)


@pytest.mark.parametrize("size", [1, 7, 40, 100, 150])
def test_a_cut_assignment_is_refused(size: int) -> None:
    device, service = installed(V1)
    device.broker.publish(DESIRED, message(service)[:size])
    device.run(500)
    assert refused(device, Reason.ASSIGNMENT_MALFORMED)


def test_an_assignment_by_another_key_is_refused() -> None:
    device, service = installed(V1)
    service.signer = OTHER_KEY
    device.broker.publish(DESIRED, message(service))
    device.run(500)
    assert refused(device, Reason.ASSIGNMENT_SIGNATURE)


def test_the_release_key_cannot_assign() -> None:
    device, service = installed(V1)
    service.signer = RELEASE_KEY
    device.broker.publish(DESIRED, message(service))
    device.run(500)
    assert refused(device, Reason.ASSIGNMENT_SIGNATURE)


def test_another_devices_assignment_is_refused() -> None:
    device, service = installed(V1)
    device.broker.publish(DESIRED, message(service, device="m4-8"))
    device.run(500)
    assert refused(device, Reason.ASSIGNMENT_OTHER_DEVICE)


def test_an_older_sequence_is_refused_also_after_a_reboot() -> None:
    device, service = installed(V1)
    old = message(service, sequence=1)
    service.sequence = 10
    service.assign(V1)
    device.run(500)
    assert device.boot() == 0
    device.broker.retained[DESIRED] = old
    device.run(2000)
    assert refused(device, Reason.ASSIGNMENT_OLD_SEQUENCE)
    assert device.info.sequence == 11


def test_the_same_sequence_with_other_bytes_is_refused() -> None:
    device, service = installed(V1)
    device.broker.publish(DESIRED, message(service, sequence=service.sequence))
    device.run(500)
    assert refused(device, Reason.ASSIGNMENT_OLD_SEQUENCE)


def test_another_epoch_is_refused() -> None:
    device, service = installed(V1)
    service.epoch = 2
    device.broker.publish(DESIRED, message(service))
    device.run(500)
    assert refused(device, Reason.ASSIGNMENT_OLD_SEQUENCE)


def test_a_foreign_nonce_is_refused() -> None:
    device, service = installed(V1)
    device.broker.publish(DESIRED, message(service, nonce=b"12345678"))
    device.run(500)
    assert refused(device, Reason.ASSIGNMENT_STALE_NONCE)


def test_an_unknown_component_is_refused() -> None:
    device, service = installed(V1)
    service.send(replace(service.entry(V2), component="model/7"))
    device.run(500)
    assert refused(device, Reason.UNKNOWN_COMPONENT)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (release(1, 2, signer=OTHER_KEY), Reason.KEY_REVOKED),
        (release(1, 2, signer=DIRECTOR_KEY), Reason.KEY_REVOKED),
        (release(1, 2, device_class="cortex-m7"), Reason.OTHER_CLASS),
        (release(1, 2, abi=77), Reason.ABI_MISMATCH),
        (release(1, 2, data=bytes(5000)), Reason.IMAGE_TOO_LARGE),
    ],
    ids=["unknown release key", "director key", "class", "abi", "size"],
)
def test_a_manifest_that_does_not_fit_is_refused_before_flash_is_touched(bad, reason: Reason) -> None:
    device, service = installed(V1)
    service.assign(bad)
    device.run(3000)
    assert refused(device, reason)
    assert device.slot(device.info.active ^ 1).state == SlotState.EMPTY


def test_a_release_below_the_floor_is_refused() -> None:
    fix = release(3, 9, floor=9)
    device, service = installed(fix)
    service.assign(release(1, 5))
    device.run(3000)
    assert holds(device, fix)
    assert device.state()["last_reason"] == Reason.BELOW_FLOOR


def test_every_flipped_byte_of_a_manifest_is_refused() -> None:
    """With the digest in the assignment right for the flipped bytes: only template and signature stand in the way."""
    device, service = installed(V1)
    for at in range(0, len(V2.envelope), 5):
        envelope = V2.envelope[:at] + bytes([V2.envelope[at] ^ 0x01]) + V2.envelope[at + 1 :]
        entry = replace(service.entry(V2), manifest_digest=sha256(envelope))
        device.broker.retained[topics.manifest(sha256(envelope)[:16])] = envelope
        service.send(entry)
        device.run(50)
        assert device.info.sequence == service.sequence
        assert device.slot(device.info.active ^ 1).state == SlotState.EMPTY, at
    assert holds(device, V1)


@pytest.mark.parametrize("other", [V3.envelope, V2.envelope + bytes(300)], ids=["another release", "too long"])
def test_what_is_not_the_manifest_under_its_topic_is_not_followed(other: bytes) -> None:
    device, service = installed(V1)
    entry = service.entry(V2)
    device.broker.retained[topics.manifest(sha256(V2.envelope)[:16])] = other
    service.send(entry)
    device.run(5000)
    assert device.slot(device.info.active ^ 1).state == SlotState.EMPTY
    device.broker.retained[topics.manifest(sha256(V2.envelope)[:16])] = V2.envelope
    assert device.run_until(lambda d: holds(d, V2), infer=True)


@pytest.mark.parametrize("base", [None, V1], ids=["raw", "delta"])
def test_a_lying_broker_gets_three_downloads_then_back_off(base) -> None:
    device, service = installed(V1)
    device.broker.deliver = lambda topic, data: spoilt(data) if "/b/" in topic else data
    service.assign(V2, base=base)
    device.run(30_000)
    slot = device.slot(device.info.active ^ 1)
    assert slot.state == SlotState.REJECTED
    assert slot.reason in (Reason.DIGEST_MISMATCH, Reason.PATCH_INVALID)
    assert len(device.events(EventKind.DOWNLOAD)) == 3
    assert holds(device, V1)
    operations = device.operations
    device.run(600_000)
    assert device.boot() == 0
    device.run(600_000)
    assert device.operations < operations, "back-off must survive the reset"
    device.broker.deliver = None
    device.run(3_600_000)
    assert device.run_until(lambda d: holds(d, V2), infer=True)


@pytest.mark.parametrize("wrong", [b"", b"short", b"x" * 400, b"y" * 5000], ids=["gone", "short", "long", "oversize"])
def test_chunks_of_a_wrong_size_end_the_download(wrong: bytes) -> None:
    device, service = installed(V1)
    device.broker.deliver = lambda topic, data: wrong if topic.endswith("/2") else data
    service.assign(V2)
    device.run(30_000)
    slot = device.slot(device.info.active ^ 1)
    assert (slot.state, slot.reason) == (SlotState.REJECTED, Reason.BLOB_GONE if not wrong else Reason.DOWNLOAD_FAILED)
    assert holds(device, V1)


def test_a_chunk_behind_the_last_one_does_not_deafen_the_device() -> None:
    """It comes while the last chunk, which makes many bytes, still waits for erased flash."""
    device, service = installed(V1)
    same = release(0, 2)
    entry = service.entry(same, base=V1)
    assert entry.blob_bytes < CHUNK_BYTES < len(same.image) // 2
    behind = topics.chunk(entry.blob, CHUNK_BYTES, 1)
    device.lib.rig_flash_busy_polls(device.flash, 3)

    def and_more(topic: str, data: bytes) -> bytes:
        if "/b/" in topic:
            device.broker.deliver = None
            device.broker.publish(topic, data)
            device.broker.subscribed.add(behind)
            for _ in range(8):
                device.broker.publish(behind, bytes(CHUNK_BYTES))
        return data

    device.broker.deliver = and_more
    service.send(entry)
    assert device.run_until(lambda d: d.slot(d.info.active).release_counter == 2, infer=True)
    service.assign(V2)
    assert device.run_until(lambda d: d.info.sequence == service.sequence, 5000), "it reads nothing any more"


def test_a_delta_from_another_base_is_refused() -> None:
    device, service = installed(V1)
    service.assign(V2, base=V3)
    device.run(3000)
    assert refused(device, Reason.BASE_MISSING)


def test_a_patch_that_names_another_base_inside_ends_the_download() -> None:
    device, service = installed(V1)
    blob = make_delta(V3.image, V2.image)
    service.put_blob(blob)
    service.send(replace(service.entry(V2, base=V1), blob=sha256(blob)[:16], blob_bytes=len(blob)))
    device.run(30_000)
    assert device.slot(device.info.active ^ 1).reason == Reason.BASE_MISSING
    assert holds(device, V1)


def test_an_image_that_is_signed_but_no_model_is_rejected() -> None:
    device, service = installed(V1)
    service.assign(release(0, 3, data=bytes(1024)))
    device.run(5000)
    assert device.slot(device.info.active ^ 1).reason == Reason.IMAGE_INVALID
    assert holds(device, V1)


def test_flash_that_fails_is_reported_and_the_old_image_runs() -> None:
    device, service = installed(V1)
    device.lib.rig_flash_fail_from(device.flash, device.operations + 30)
    service.assign(V2)
    device.run(20_000)
    assert device.answering == V1.id
    assert device.infer()[0] == 0
    assert device.state()["last_reason"] == Reason.FLASH_FAILED
    device.lib.rig_flash_fail_from(device.flash, 0)
    assert device.boot() == 0
    assert device.run_until(lambda d: holds(d, V2), ms=4_000_000, infer=True)


def test_an_assignment_that_flash_did_not_take_is_followed_once_it_does() -> None:
    device, service = installed(V1)
    device.lib.rig_flash_fail_from(device.flash, device.operations)
    service.assign(V2)
    device.run(20_000)
    assert device.state()["last_reason"] == Reason.FLASH_FAILED
    assert device.answering == V1.id
    device.lib.rig_flash_fail_from(device.flash, 0)
    assert device.run_until(lambda d: holds(d, V2), ms=120_000, infer=True)


def test_a_damaged_active_image_boots_the_other_slot() -> None:
    device, service = installed(V1)
    service.assign(V2, base=V1)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    start = device.lib.rig_slot_offset(device.rig, device.info.active)
    device.lib.rig_flash_data(device.flash)[start + 700] ^= 0x10
    device.broker.retained.pop(DESIRED)
    assert device.boot() == 0
    assert holds(device, V1)
    device.run(1000)
    boots = device.events(EventKind.BOOT)
    assert boots[-1]["reason"] == Reason.BOOT_OTHER_SLOT
    assert device.slot(device.info.active ^ 1).reason == Reason.BOOT_IMAGE_CORRUPT


def test_a_damaged_fallback_takes_nothing_from_the_image_that_is_tested() -> None:
    device, service = installed(V1)
    fallback = device.info.active
    service.assign(V2, base=V1, confirm_min_inferences=100)
    assert device.run_until(lambda d: d.slot(fallback ^ 1).state == SlotState.TESTING)
    start = device.lib.rig_slot_offset(device.rig, fallback)
    device.lib.rig_flash_data(device.flash)[start + 700] ^= 0x10
    assert device.boot() == 0
    assert device.slot(fallback).reason == Reason.BOOT_IMAGE_CORRUPT
    assert (device.info.active, device.info.fallback, device.answering) == (fallback ^ 1, NO_SLOT, V2.id)
    assert device.slot(fallback ^ 1).state == SlotState.TESTING


def test_a_damaged_only_image_leaves_a_device_that_says_so_and_recovers() -> None:
    device, _ = installed(V1)
    start = device.lib.rig_slot_offset(device.rig, device.info.active)
    device.lib.rig_flash_data(device.flash)[start + 700] ^= 0x10
    assert device.boot() == 0
    assert device.infer()[0] == -103
    assert device.run_until(lambda d: holds(d, V1), infer=True)
    assert Reason.BOOT_NO_IMAGE in [event["reason"] for event in device.events(EventKind.BOOT)]


ABI_AT = 16


def other_firmware(device: Device, *slots: int) -> bytes:
    """Boots as with a runtime that cannot run what is in `slots`: their headers name another ABI. What they named."""
    data = device.lib.rig_flash_data(device.flash)
    places = [device.lib.rig_slot_offset(device.rig, slot) + ABI_AT for slot in slots]
    before = bytes(data[at] for at in places)
    for at in places:
        data[at] = 0x7F
    device.broker.retained.pop(DESIRED, None)
    assert device.boot() == 0
    return before


def test_what_another_firmware_cannot_run_is_overwritten_where_it_is_needed_least() -> None:
    device, service = installed(V1)
    service.assign(V2, base=V1)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    active, fallback = device.info.active, device.info.fallback
    abi = other_firmware(device, active)[0]
    other_firmware(device, fallback)
    assert device.answering is None
    device.broker.deliver = lambda topic, data: None if topic.endswith("/3") else data
    service.assign(V3)
    device.run(5000)
    assert device.slot(fallback).state == SlotState.WRITING
    device.lib.rig_flash_data(device.flash)[device.lib.rig_slot_offset(device.rig, active) + ABI_AT] = abi
    device.broker.retained.pop(DESIRED)
    assert device.boot() == 0
    assert holds(device, V2), "the firmware changed back"


def test_a_download_leaves_the_fallback_alone_while_that_answers() -> None:
    device, service = installed(V1)
    service.assign(V2, base=V1)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    active = device.info.active
    other_firmware(device, active)
    assert device.answering == V1.id
    device.broker.deliver = lambda topic, data: None if topic.endswith("/3") else data
    service.assign(V3)
    device.run(5000)
    assert (device.slot(active).state, device.answering) == (SlotState.WRITING, V1.id)
    device.broker.deliver = None
    assert device.run_until(lambda d: holds(d, V3), infer=True)


def test_undo_to_an_image_of_another_abi_is_refused() -> None:
    device, service = installed(V1)
    service.assign(V2, base=V1)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    other_firmware(device, device.info.fallback)
    service.assign(V1)
    device.run(3000)
    assert (holds(device, V2), device.state()["last_reason"]) == (True, Reason.ABI_MISMATCH)
    assert device.slot(device.info.active ^ 1).state == SlotState.CONFIRMED, "the firmware may change back"


def test_a_lost_journal_finds_whole_images_again() -> None:
    device, _ = installed(V1)
    size = device.lib.rig_slot_offset(device.rig, 0)
    for at in range(0, size, 64):
        device.lib.rig_flash_data(device.flash)[at] = 0
    assert device.boot() == 0
    assert device.answering == V1.id
    device.run(2000)
    assert device.events(EventKind.BOOT)[-1]["reason"] == Reason.JOURNAL_RECOVERED


def test_one_slot_parts_are_refused() -> None:
    assert Device(flash_bytes_total=2 * 2048 + 4096).boot() == -100


class Worn(Device):
    """Its flash takes nothing any more."""

    def new_rig(self) -> Any:
        self.lib.rig_flash_fail_from(self.flash, 1)
        return super().new_rig()


def test_flash_that_fails_at_boot_ends_it() -> None:
    assert Worn().boot() == -107


@pytest.mark.parametrize("shift", [1, 4, 8])
def test_an_arena_that_no_model_could_run_in_is_refused(shift: int) -> None:
    """Said to whoever brings the agent up; each model would end as GOLDEN_FAILED."""
    assert Device(arena_shift=shift).boot() == -1


@pytest.mark.parametrize("at", [0, 9, 60, 200])
def test_a_damaged_provisioned_root_is_refused(at: int) -> None:
    root = bytearray(make_root(root_one(), ROOT_KEYS[:1]))
    root[at] ^= 1
    assert Device(root=bytes(root)).boot() == -102


def next_root(number: int = 2, **changes):
    return replace(root_one(), number=number, director_epoch=2, director_keys=(OTHER_KEY.public_key,), **changes)


def test_roots_are_walked_one_by_one_and_kept() -> None:
    device, service = installed(V1)
    two = next_root()
    three = replace(two, number=3)
    device.broker.publish(topics.root(3), make_root(three, ROOT_KEYS[:1], two))
    device.broker.publish(topics.root(2), make_root(two, ROOT_KEYS[:1], root_one()))
    device.run(1000)
    assert device.info.root == 3
    assert device.boot() == 0
    assert device.info.root == 3
    service.signer, service.epoch, service.sequence = OTHER_KEY, 2, 0
    service.assign(V2)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    assert (device.info.director_epoch, device.info.sequence) == (2, 1)


def test_an_assignment_that_came_before_its_root_is_followed_after_it() -> None:
    device, service = installed(V1)
    service.signer, service.epoch = OTHER_KEY, 2
    service.assign(V2)
    device.run(500)
    assert refused(device, Reason.ASSIGNMENT_SIGNATURE)
    device.broker.publish(topics.root(2), make_root(next_root(), ROOT_KEYS[:1], root_one()))
    assert device.run_until(lambda d: holds(d, V2), infer=True)


def test_roots_with_any_flipped_byte_are_refused() -> None:
    device, _ = installed(V1)
    good = make_root(next_root(), ROOT_KEYS[:1], root_one())
    for at in range(0, len(good), 5):
        device.broker.publish(topics.root(2), good[:at] + bytes([good[at] ^ 0x20]) + good[at + 1 :])
        device.run(5)
    device.run(100)
    assert device.info.root == 1
    assert device.state()["last_reason"] == Reason.ROOT_INVALID


def test_a_revoked_release_key_forbids_undo() -> None:
    device, service = installed(V1)
    service.assign(V2, base=V1)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    revoking = replace(root_one(), number=2, release_keys=(OTHER_KEY.public_key,))
    device.broker.publish(topics.root(2), make_root(revoking, ROOT_KEYS[:1], root_one()))
    device.run(500)
    service.assign(V1)
    device.run(2000)
    assert holds(device, V2)
    assert device.state()["last_reason"] == Reason.KEY_REVOKED


def revoke(device: Device) -> None:
    revoking = replace(root_one(), number=2, release_keys=(OTHER_KEY.public_key,))
    device.broker.publish(topics.root(2), make_root(revoking, ROOT_KEYS[:1], root_one()))


@pytest.mark.parametrize("boot", [False, True])
def test_a_revoked_release_key_ends_a_shadow(boot: bool) -> None:
    device, service = installed(V1)
    service.assign(V2, until=SlotState.SHADOW)
    assert device.run_until(lambda d: d.slot(1).state == SlotState.SHADOW)
    revoke(device)
    assert device.run_until(lambda d: d.slot(1).reason == Reason.KEY_REVOKED)
    if boot:
        assert device.boot() == 0
    service.assign(V2)
    assert not device.run_until(lambda d: holds(d, V2), ms=5000, infer=True)
    assert holds(device, V1)
    assert device.slot(1).state == SlotState.REJECTED
    assert device.state()["last_reason"] == Reason.KEY_REVOKED


def test_an_image_that_is_here_is_what_its_new_manifest_says() -> None:
    """Signed anew as its key was replaced, with a fix declared: nothing is fetched, key and floor are the new ones."""
    device, service = installed(V1)
    service.assign(V2, until=SlotState.SHADOW)
    assert device.run_until(lambda d: d.slot(1).state == SlotState.SHADOW)
    revoke(device)
    assert device.run_until(lambda d: d.slot(1).reason == Reason.KEY_REVOKED)
    received = device.info.received_bytes
    again = release(1, 5, floor=5, signer=OTHER_KEY)
    service.assign(again)
    assert device.run_until(lambda d: holds(d, again), infer=True), device.slot(1)
    assert (device.info.received_bytes, device.info.floor) == (received, 5)
    assert device.boot() == 0
    assert holds(device, again)


def test_a_revoked_release_key_ends_a_download() -> None:
    device, service = installed(V1)
    service.assign(V2)
    assert device.run_until(lambda d: d.slot(1).state == SlotState.WRITING)
    revoke(device)
    assert not device.run_until(lambda d: holds(d, V2), ms=5000, infer=True)
    assert device.info.root == 2
    assert holds(device, V1)
    assert (device.slot(1).state, device.slot(1).reason) == (SlotState.REJECTED, Reason.KEY_REVOKED)


def test_an_empty_desired_changes_nothing() -> None:
    device, _ = installed(V1)
    device.broker.publish(DESIRED, b"")
    device.run(2000)
    assert holds(device, V1)


def test_image_of_the_rig_is_a_real_one() -> None:
    assert image(0)[:4] == b"TFM1"
    assert image(0) != image(1)
    assert len(image(0)) == len(image(1))
