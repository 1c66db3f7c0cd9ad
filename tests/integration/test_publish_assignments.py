"""Assignments and transfer blobs with real keys, images and deltas; no broker."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
from sqlmodel import select

from integration.fleet_house import BASE_IMAGE, FleetHouse, image_like_base, make_house
from tinyfleet_ota import AssignmentEntry, apply_delta, parse_assignment, parse_release, topics
from tinyfleet_ota.protocol import Codec, Reason, SlotState
from tinyfleet_service.builds import sign_waiting, withdraw_revoked
from tinyfleet_service.controller.process import Controller
from tinyfleet_service.database.engine import Lease, session_scope
from tinyfleet_service.database.models import Desired, Device, DeviceState, Outbox, Project, TransferBlob, utc_now
from tinyfleet_service.errors import BrokerUnavailableError, LeaseLostError, SettingsError, StateConflictError
from tinyfleet_service.keys import key_folder, load_signer
from tinyfleet_service.keys.ceremony import rotate
from tinyfleet_service.publish import (
    CONTROLLER_LEASE,
    REFRESH_AFTER,
    assign,
    clean_blobs,
    clean_outbox,
    drain_outbox,
    enqueue,
    handle_waiting,
    prepare_transfers,
    publish_roots,
    refresh_assignment,
    refresh_settled,
    reissue,
    restore_broker,
)
from tinyfleet_service.publish.outbox import expected_sentinel
from tinyfleet_service.publish.sentinel import Sentinel
from unit.service.fleet_state_builders import NONCE


@pytest.fixture
def house(tmp_path: Path) -> FleetHouse:
    return make_house(tmp_path / "fleet")


class Shelf:
    """A broker that keeps retained messages in a dictionary and fails when told."""

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.connections = 1
        self.fail_after: int | None = None

    def wait_connected(self, timeout_s: float = 0) -> None:
        """It always is."""

    def publish_all(self, messages: Iterable[tuple[str, bytes, bool, int]], timeout_s: float = 0) -> int:
        count = 0
        for topic, payload, retain, _ in messages:
            if self.fail_after is not None and len(self.sent) >= self.fail_after:
                raise BrokerUnavailableError("gone", next="wait")
            self.sent.append(topic)
            if retain and payload:
                self.retained[topic] = payload
            elif retain:
                self.retained.pop(topic, None)
            count += 1
        return count

    def publish_on(self, connection: int, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        return connection == self.connections and self.publish_all([(topic, payload, retain, 0)]) == 1


def give(
    house: FleetHouse, device_id: str, version: str, until: SlotState = SlotState.CONFIRMED, **options: object
) -> Desired:
    with session_scope(house.engine) as session:
        return assign(
            session,
            house.store,
            house.keys,
            house.device(session, device_id),
            house.build(session, version),
            until,
            fence=house.fence,
            **options,
        )


def entry_of(house: FleetHouse, desired: Desired) -> AssignmentEntry:
    (entry,) = parse_assignment(desired.payload, [house.keys.director.public_key]).entries
    return entry


def blob_on(shelf: Shelf, entry: AssignmentEntry) -> bytes:
    count = -(-entry.blob_bytes // entry.chunk_bytes)
    return b"".join(shelf.retained[topics.chunk(entry.blob, entry.chunk_bytes, n)] for n in range(count))


def test_first_assignment_carries_the_full_image_and_everything_it_names(house: FleetHouse) -> None:
    desired = give(house, "m4-a", "v1", confirm_min_inferences=20, latency_budget_us=900)
    shelf = Shelf()
    drain_outbox(house.engine, shelf, house.fence)
    assignment = parse_assignment(shelf.retained["fleet/v1/d/m4-a/desired"], [house.keys.director.public_key])
    entry = assignment.entries[0]
    assert (assignment.device, assignment.sequence, assignment.director_epoch) == ("m4-a", 1, 1)
    assert (entry.codec, entry.until, entry.confirm_min_inferences) == (Codec.RAW, SlotState.CONFIRMED, 20)
    assert entry.latency_budget_us == 900
    assert blob_on(shelf, entry) == BASE_IMAGE
    manifest = shelf.retained[topics.manifest(entry.manifest_digest[:16])]
    assert parse_release(manifest, [_release_key(house)]).release_counter == 1
    assert shelf.sent.index("fleet/v1/d/m4-a/desired") > max(
        n for n, topic in enumerate(shelf.sent) if topic.startswith(("fleet/v1/b/", "fleet/v1/m/"))
    )
    assert desired.sequence == 1


def _release_key(house: FleetHouse) -> bytes:
    return load_signer(house.settings, "release").public_key


def test_device_that_runs_the_base_gets_a_delta_that_gives_the_new_image(house: FleetHouse) -> None:
    house.report("m4-a", "v1")
    entry = entry_of(house, give(house, "m4-a", "v2"))
    shelf = Shelf()
    drain_outbox(house.engine, shelf, house.fence)
    assert entry.codec == Codec.DELTA
    assert entry.blob_bytes < len(BASE_IMAGE) // 4
    assert apply_delta(BASE_IMAGE, blob_on(shelf, entry)) == image_like_base(40)


def test_delta_that_does_not_pay_is_replaced_by_the_full_image_that_all_share(house: FleetHouse) -> None:
    house.report("m4-a", "v1")
    first, second = give(house, "m4-a", "v3"), give(house, "m4-b", "v3")
    assert entry_of(house, first).codec == Codec.RAW
    assert entry_of(house, second).blob == entry_of(house, first).blob


def test_full_image_that_packs_travels_packed_and_waits_for_nothing_smaller(house: FleetHouse) -> None:
    house.report("m4-a", "v1")  # nothing of v1 predicts v4: the packed image is smaller than any delta
    desired = give(house, "m4-a", "v4")
    entry, shelf = entry_of(house, desired), Shelf()
    drain_outbox(house.engine, shelf, house.fence)
    with session_scope(house.engine) as session:
        image = house.store.get(house.build(session, "v4").image_sha256 or "")
    assert (entry.codec, entry.base_digest) == (Codec.DELTA, None)
    assert entry.blob_bytes < len(image) // 2
    assert apply_delta(b"", blob_on(shelf, entry)) == image
    _age(house, 120)
    assert waits(house, desired, running="v1") == "republished"


def test_blob_is_computed_once_per_pair_and_can_be_prepared_before(house: FleetHouse) -> None:
    pair = (house.builds["v2"], house.builds["v1"])
    assert prepare_transfers(house.engine, house.store, [pair, pair, (house.builds["v2"], None)]) == 2
    assert prepare_transfers(house.engine, house.store, [pair]) == 0
    house.report("m4-a", "v1")
    give(house, "m4-a", "v2")
    with session_scope(house.engine) as session:
        assert len(session.exec(select(TransferBlob)).all()) == 2


def test_sequence_lies_above_stored_and_reported_and_echoes_the_nonce(house: FleetHouse) -> None:
    assert give(house, "m4-a", "v1").sequence == 1
    assert give(house, "m4-a", "v1").sequence == 2
    house.report("m4-a", None, sequence=40)  # a database restored from a backup lags the fleet
    desired = give(house, "m4-a", "v1")
    assignment = parse_assignment(desired.payload, [house.keys.director.public_key])
    assert (desired.sequence, assignment.nonce) == (41, NONCE)


def test_stage_change_keeps_the_blob_of_a_download_under_way(house: FleetHouse) -> None:
    house.report("m4-a", "v1")
    shadow = give(house, "m4-a", "v2", SlotState.SHADOW)
    blob = entry_of(house, shadow).blob
    house.report("m4-a", "v2")
    confirm = give(house, "m4-a", "v2", SlotState.CONFIRMED)
    assert (entry_of(house, confirm).blob, confirm.sequence) == (blob, 2)
    assert entry_of(house, give(house, "m4-a", "v2", full=True)).codec == Codec.RAW


def test_going_back_to_an_image_the_device_holds_computes_no_delta(house: FleetHouse) -> None:
    house.report("m4-a", "v2", other=house.image_id("v1"))
    assert entry_of(house, give(house, "m4-a", "v1")).codec == Codec.RAW


def test_what_cannot_be_assigned_is_refused(house: FleetHouse) -> None:
    with pytest.raises(StateConflictError, match="cortex-m4"):
        give(house, "m4-a", "m0")
    with session_scope(house.engine) as session:
        house.build(session, "v2").manifest_sha256 = None
    with pytest.raises(StateConflictError, match="wait until it is ready"):
        give(house, "m4-a", "v2")
    with session_scope(house.engine) as session:
        house.device(session, "m4-a").state = DeviceState.QUARANTINED
    with pytest.raises(StateConflictError, match="quarantined"):
        give(house, "m4-a", "v1")
    with session_scope(house.engine) as session:
        assert session.exec(select(Outbox)).all() == []


def test_a_sequence_that_leaves_none_above_it_is_refused(house: FleetHouse) -> None:
    house.report("m4-a", None, sequence=(1 << 53) - 1)
    with pytest.raises(StateConflictError, match="enrol it anew"):
        give(house, "m4-a", "v1")
    assert give(house, "m4-b", "v1").sequence == 1


def test_older_director_key_than_the_fleet_knows_is_refused(house: FleetHouse) -> None:
    house.report("m4-a", None, director_epoch=7)
    with pytest.raises(SettingsError, match="epoch 7"):
        give(house, "m4-a", "v1")


def test_controller_that_lost_its_lease_writes_and_sends_nothing(house: FleetHouse) -> None:
    give(house, "m4-a", "v1")
    old = house.fence
    Lease.release(house.engine, CONTROLLER_LEASE, "test")
    assert Lease.acquire(house.engine, CONTROLLER_LEASE, "other", 60) == old + 1
    with pytest.raises(LeaseLostError):
        give(house, "m4-a", "v2")
    shelf = Shelf()
    with pytest.raises(LeaseLostError):
        drain_outbox(house.engine, shelf, old)
    assert shelf.sent == []
    drain_outbox(house.engine, shelf, old + 1)
    assert "fleet/v1/d/m4-a/desired" in shelf.retained


def test_refused_for_an_old_nonce_is_signed_again_with_the_newest(house: FleetHouse) -> None:
    give(house, "m4-a", "v1", shadow_min_inferences=5)
    fresh = bytes(8)
    house.report("m4-a", None, nonce=fresh, last_reason=Reason.ASSIGNMENT_STALE_NONCE, refused_sequence=1)
    with session_scope(house.engine) as session:
        again = refresh_assignment(session, house.keys, house.device(session, "m4-a"), house.fence)
        assert again is not None
    assignment = parse_assignment(again.payload, [house.keys.director.public_key])
    assert (assignment.sequence, assignment.nonce, assignment.entries[0].shadow_min_inferences) == (2, fresh, 5)
    with session_scope(house.engine) as session:
        assert refresh_assignment(session, house.keys, house.device(session, "m4-a"), house.fence) is None


def refreshed(house: FleetHouse, days: float, **options: int) -> list[str]:
    """Devices that are signed for anew so many days from now, by as many calls as that takes."""
    before, after = utc_now() + timedelta(days=days) - REFRESH_AFTER, ""
    sequences = sequences_of(house)
    for _ in range(99):
        with session_scope(house.engine) as session:
            _, after = refresh_settled(session, house.keys, before, after, fence=house.fence, **options)
        if not after:
            break
    return [name for name, sequence in sequences_of(house).items() if sequence > sequences[name]]


def sequences_of(house: FleetHouse) -> dict[str, int]:
    with session_scope(house.engine, read_only=True) as session:
        return {row.device_id: row.sequence for row in session.exec(select(Desired))}


def test_a_quiet_fleet_hears_something_fresh_before_it_calls_itself_stale(tmp_path: Path) -> None:
    """Once for each nonce, of devices that run what they are assigned, and never while the fleet is frozen."""
    house = make_house(tmp_path / "fleet", devices=("m4-a", "m4-b", "m4-c", "m4-d"))
    for name in ("m4-a", "m4-b", "m4-c", "m4-d"):
        house.report(name, None)
        give(house, name, "v2")
        house.report(name, "v2", nonce=bytes(8), sequence=1)
    house.report("m4-b", "v1", nonce=bytes(8), sequence=1)  # it rejected what it was assigned
    house.report("m4-c", "v2", sequence=1)  # it has not taken that yet, or has no newer nonce
    house.report("m4-d", "v2", nonce=bytes(8), sequence=9)  # it is ahead of the database
    assert refreshed(house, 2.9) == []
    with session_scope(house.engine) as session:
        session.get_one(Project, 1).frozen_at = utc_now()
    assert refreshed(house, 3.1) == []
    with session_scope(house.engine) as session:
        session.get_one(Project, 1).frozen_at = None
    assert refreshed(house, 3.1, portion=1) == ["m4-a"]
    with session_scope(house.engine, read_only=True) as session:
        assignment = parse_assignment(session.get_one(Desired, "m4-a").payload, [house.keys.director.public_key])
    assert (assignment.sequence, assignment.nonce) == (2, bytes(8))
    assert refreshed(house, 99) == [], "the device has not told of another nonce since"
    house.report("m4-a", "v2", sequence=2)
    assert refreshed(house, 99, portion=3) == ["m4-a"]


def test_the_controller_refreshes_a_portion_a_tick_and_rests_between_rounds(
    house: FleetHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(house, "m4-a", "v1")
    house.report("m4-a", "v1", nonce=bytes(8), sequence=1)
    controller = Controller(house.settings, house.engine)
    for days, signed in ((4, 2), (4, 2), (4.01, 2), (8, 3)):
        monkeypatch.setattr("tinyfleet_service.controller.process.utc_now", lambda at=utc_now() + timedelta(days): at)
        controller._refresh(house.fence)
        assert sequences_of(house) == {"m4-a": signed}, days
        if days == 4.01:
            house.report("m4-a", "v1", sequence=2)
            with session_scope(house.engine) as session:
                session.get_one(Desired, "m4-a").assigned_at = utc_now() + timedelta(days=4)
    controller.telemetry.close()


# ---- the outbox


def test_only_the_newest_message_of_a_topic_travels(house: FleetHouse) -> None:
    for _ in range(3):
        give(house, "m4-a", "v1")
    shelf = Shelf()
    drain_outbox(house.engine, shelf, house.fence)
    assert shelf.sent.count("fleet/v1/d/m4-a/desired") == 1
    assert parse_assignment(shelf.retained["fleet/v1/d/m4-a/desired"], [house.keys.director.public_key]).sequence == 3


@pytest.mark.parametrize("point", ["published", "marked"])
def test_crash_between_the_steps_loses_nothing(house: FleetHouse, point: str) -> None:
    give(house, "m4-a", "v1")
    shelf = Shelf()

    def crash(at: str) -> None:
        if at == point:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drain_outbox(house.engine, shelf, house.fence, fault=crash)
    assert topics.sentinel() not in shelf.retained  # the broker is not yet said to be complete
    give(house, "m4-b", "v1")
    drain_outbox(house.engine, shelf, house.fence)
    assert {"fleet/v1/d/m4-a/desired", "fleet/v1/d/m4-b/desired", topics.sentinel()} <= set(shelf.retained)
    assert drain_outbox(house.engine, shelf, house.fence) == 0


def test_broker_that_breaks_off_gets_everything_again(house: FleetHouse) -> None:
    give(house, "m4-a", "v1")
    shelf = Shelf()
    shelf.fail_after = 3
    with pytest.raises(BrokerUnavailableError):
        drain_outbox(house.engine, shelf, house.fence)
    shelf.fail_after = None
    assert drain_outbox(house.engine, shelf, house.fence) == 8  # manifest, six chunks, desired
    assert "fleet/v1/d/m4-a/desired" in shelf.retained


def test_sentinel_is_withheld_when_the_connection_changed_meanwhile(house: FleetHouse) -> None:
    give(house, "m4-a", "v1")
    shelf = Shelf()
    drain_outbox(house.engine, shelf, house.fence, connection=0)
    assert topics.sentinel() not in shelf.retained


def test_old_messages_are_forgotten_but_the_one_the_sentinel_names(house: FleetHouse) -> None:
    shelf = Shelf()
    for n in range(5):
        with session_scope(house.engine) as session:
            enqueue(session, f"fleet/v1/m/{n}", b"x", fence=house.fence)
        drain_outbox(house.engine, shelf, house.fence)
    mark = Sentinel.decode(shelf.retained[topics.sentinel()])
    with session_scope(house.engine) as session:
        assert clean_outbox(session, timedelta(0)) == 4
        assert [row.id for row in session.exec(select(Outbox))] == [mark.number if mark else None]


def test_a_command_behind_chunks_does_not_hide_them_from_the_sentinel(house: FleetHouse) -> None:
    """Nothing that was sent and retained may be newer than the mark: an older broker would pass for a complete one."""
    give(house, "m4-a", "v1")
    shelf = Shelf()
    drain_outbox(house.engine, shelf, house.fence)
    before = shelf.retained[topics.sentinel()]
    with session_scope(house.engine) as session:
        for n in range(2):
            enqueue(session, topics.chunk(bytes(16), 1024, n), b"chunk", fence=house.fence)
        enqueue(session, topics.command("m4-a"), b"reboot", retain=False, fence=house.fence)
    drain_outbox(house.engine, shelf, house.fence)
    mark = shelf.retained[topics.sentinel()]
    assert mark != before
    with session_scope(house.engine, read_only=True) as session:
        assert Sentinel.decode(mark) == expected_sentinel(session)


def test_chunks_leave_the_database_once_sent(house: FleetHouse) -> None:
    give(house, "m4-a", "v1")
    drain_outbox(house.engine, Shelf(), house.fence)
    with session_scope(house.engine) as session:
        assert not [row.topic for row in session.exec(select(Outbox)) if row.topic.startswith("fleet/v1/b/")]


def test_roots_are_published_once(house: FleetHouse) -> None:
    for _ in range(2):
        with session_scope(house.engine) as session:
            publish_roots(session, house.keys, house.fence)
    with session_scope(house.engine) as session:
        rows = session.exec(select(Outbox)).all()
    assert [(row.topic, row.payload) for row in rows] == [("fleet/v1/root/1", house.keys.roots[0])]


def test_who_lacks_an_image_is_told_of_its_new_signature(house: FleetHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is missing, a broker that lost everything gets all that there is."""
    monkeypatch.setattr("tinyfleet_service.publish.restore.read_retained", lambda *_: None)
    house.report("m4-b", "v2")  # runs it already: its assignment may stay as it is
    before = {device_id: give(house, device_id, "v2") for device_id in ("m4-a", "m4-b")}
    shelf = Shelf()
    drain_outbox(house.engine, shelf, house.fence)
    folder = key_folder(house.settings)
    rotate(folder, "release")
    withdraw_revoked(house.engine, folder.newest())
    with session_scope(house.engine, read_only=True) as session:
        assert restore_broker(session, house.store, Mock(), Shelf(), house.keys) > 0
    sign_waiting(house.engine, house.store, folder.load("release"))
    with session_scope(house.engine) as session:
        assert reissue(session, house.keys, house.fence) == 1
    drain_outbox(house.engine, shelf, house.fence)
    with session_scope(house.engine, read_only=True) as session:
        after = {device_id: session.get_one(Desired, device_id) for device_id in before}
        newest = house.build(session, "v2").manifest_sha256
    assert entry_of(house, after["m4-a"]).manifest_digest.hex() == newest
    assert after["m4-a"].sequence == before["m4-a"].sequence + 1
    assert after["m4-b"].payload == before["m4-b"].payload
    manifest = shelf.retained[topics.manifest(bytes.fromhex(newest or "")[:16])]
    assert parse_release(manifest, folder.newest().release_keys).release_counter == 2


@pytest.mark.parametrize("payload", [b"", b"\xff", b"\x82\x01\x41\x00", b"\x01", b"\x82\x61a\x48" + bytes(8)])
def test_unreadable_sentinel_counts_as_missing(payload: bytes) -> None:
    assert Sentinel.decode(payload) is None


# ---- blobs: waiting devices, cleaning


def waits(house: FleetHouse, desired: Desired, device_id: str = "m4-a", running: str | None = None) -> str:
    house.report(device_id, running, waiting=[entry_of(house, desired).blob, 2])
    with session_scope(house.engine) as session:
        device = house.device(session, device_id)
        return handle_waiting(session, house.store, house.keys, device, house.fence)


def test_waiting_device_gets_its_blob_published_again(house: FleetHouse) -> None:
    desired = give(house, "m4-a", "v1")
    drain_outbox(house.engine, Shelf(), house.fence)
    assert waits(house, desired) == ""  # it was published a moment ago
    _age(house, 30)
    assert waits(house, desired) == "republished"
    empty = Shelf()
    drain_outbox(house.engine, empty, house.fence)
    assert blob_on(empty, entry_of(house, desired)) == BASE_IMAGE


def test_device_that_waits_for_long_gets_the_full_image(house: FleetHouse) -> None:
    house.report("m4-a", "v1")
    desired = give(house, "m4-a", "v2", SlotState.SHADOW, rollout_id=None, confirm_timeout_s=77)
    assert entry_of(house, desired).codec == Codec.DELTA
    _age(house, 120)
    assert waits(house, desired, running="v1") == "full"
    with session_scope(house.engine) as session:
        newer = session.get(Desired, "m4-a")
        assert newer is not None
    entry = entry_of(house, newer)
    assert (entry.codec, entry.until, entry.confirm_timeout_s) == (Codec.RAW, SlotState.SHADOW, 77)
    assert newer.sequence == desired.sequence + 1
    assert waits(house, desired, running="v1") == ""  # it still names the old blob; the new assignment is on its way


def test_made_up_waiting_changes_nothing(house: FleetHouse) -> None:
    give(house, "m4-a", "v1")
    house.report("m4-a", None, waiting=[bytes(16), 1 << 40])
    with session_scope(house.engine) as session:
        assert handle_waiting(session, house.store, house.keys, house.device(session, "m4-a"), house.fence) == ""
        assert handle_waiting(session, house.store, house.keys, house.device(session, "m4-b"), house.fence) == ""


def _age(house: FleetHouse, seconds: float) -> None:
    with session_scope(house.engine) as session:
        for desired in session.exec(select(Desired)):
            desired.assigned_at = utc_now() - timedelta(seconds=seconds)
        for blob in session.exec(select(TransferBlob)):
            blob.published_at = utc_now() - timedelta(seconds=seconds)


def test_blobs_live_while_a_desired_names_them(house: FleetHouse) -> None:
    shelf = Shelf()
    first = entry_of(house, give(house, "m4-a", "v1"))
    give(house, "m4-b", "v1")
    drain_outbox(house.engine, shelf, house.fence)
    give(house, "m4-a", "v3")
    with session_scope(house.engine) as session:
        assert clean_blobs(session, utc_now(), house.fence) == 0
    give(house, "m4-b", "v3")
    with session_scope(house.engine) as session:
        assert clean_blobs(session, utc_now() - timedelta(hours=1), house.fence) == 0
        assert clean_blobs(session, utc_now(), house.fence) == 1
        assert clean_blobs(session, utc_now(), house.fence) == 0
    drain_outbox(house.engine, shelf, house.fence)
    assert not [topic for topic in shelf.retained if topics.blob_id_text(first.blob) in topic]
    again = entry_of(house, give(house, "m4-a", "v1"))  # a device that goes back finds it published again
    drain_outbox(house.engine, shelf, house.fence)
    assert blob_on(shelf, again) == BASE_IMAGE


def test_assignments_of_two_devices_share_one_blob(house: FleetHouse) -> None:
    for device_id in ("m4-a", "m4-b"):
        give(house, device_id, "v1")
    shelf = Shelf()
    drain_outbox(house.engine, shelf, house.fence)
    assert len([topic for topic in shelf.sent if topic.startswith("fleet/v1/b/")]) == 6
    with session_scope(house.engine) as session:
        assert len(session.exec(select(Device)).all()) == 2
