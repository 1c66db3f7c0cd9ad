"""Publishing through a real broker that crashes: what is retained comes back from database and blob store."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.fleet_house import BASE_IMAGE, FleetHouse, make_house
from integration.fleet_support import Inbox, client, connected, device_files, eventually, publisher
from postgres import database_away
from tinyfleet_ota import parse_assignment, topics
from tinyfleet_ota.protocol import SlotState
from tinyfleet_service import broker
from tinyfleet_service.broker.pki import Pki
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.devices.subscriber import MOST_WAITING, StateReader
from tinyfleet_service.errors import BrokerUnavailableError, DatabaseUnavailableError
from tinyfleet_service.mqtt import MqttClient
from tinyfleet_service.publish import BrokerSync, assign, publish_roots, read_retained
from unit.service.fleet_state_builders import event, state


class Place:
    """A house with its broker process and the controller's connection."""

    def __init__(self, folder: Path) -> None:
        self.house: FleetHouse = make_house(folder)
        self.pki = Pki.create(self.house.settings)
        self.process: subprocess.Popen[bytes] = broker.start(self.house.settings, self.pki)
        self.client: MqttClient = client(
            self.house.settings, self.pki.service("svc-controller"), "svc-controller"
        ).connect()
        self.publisher = publisher(self.house.settings, self.pki)
        self.sync = BrokerSync(self.house.engine, self.house.store, self.client, self.publisher, self.house.keys)

    def assign(self, device_id: str, version: str) -> None:
        house = self.house
        with session_scope(house.engine) as session:
            publish_roots(session, house.keys, house.fence)
            device, build = house.device(session, device_id), house.build(session, version)
            assign(session, house.store, house.keys, device, build, SlotState.CONFIRMED, fence=house.fence)

    def crash_broker(self, *, keep_snapshot: bool = False) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if not keep_snapshot:
            (self.house.settings.dirs.broker / "mosquitto.db").unlink(missing_ok=True)
        before = self.client.connections
        self.process = broker.start(self.house.settings, self.pki)
        assert eventually(lambda: self.client.connections > before)

    def image_seen_by(self, device_id: str, folder: Path) -> bytes:
        """Read as a device does: its desired set, then each chunk from a topic of its own."""
        with connected(self.house.settings, device_files(self.pki, device_id, folder), device_id) as device:
            desired = read_retained(device, topics.desired(device_id))
            assert desired is not None
            (entry,) = parse_assignment(desired, [self.house.keys.director.public_key]).entries
            assert read_retained(device, topics.manifest(entry.manifest_digest[:16])) is not None
            assert read_retained(device, topics.root(1)) == self.house.keys.roots[0]
            count = -(-entry.blob_bytes // entry.chunk_bytes)
            parts = [read_retained(device, topics.chunk(entry.blob, entry.chunk_bytes, n)) for n in range(count)]
            return b"".join(part or b"" for part in parts)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "fleet")
    yield place
    place.client.close()
    broker.stop(place.process)


def test_device_finds_what_its_assignment_names(place: Place, tmp_path: Path) -> None:
    place.assign("m4-a", "v1")
    place.sync.run(place.house.fence)
    assert place.image_seen_by("m4-a", tmp_path) == BASE_IMAGE
    assert place.sync.run(place.house.fence) == 0


def test_broker_that_lost_everything_is_restored(place: Place, tmp_path: Path) -> None:
    place.assign("m4-a", "v1")
    place.sync.run(place.house.fence)
    place.crash_broker()
    assert place.sync.run(place.house.fence) == 1 + 1 + 6 + 1  # root, manifest, chunks, desired
    assert place.image_seen_by("m4-a", tmp_path) == BASE_IMAGE
    assert place.sync.run(place.house.fence) == 0


def test_broker_that_came_back_with_an_older_snapshot_is_restored(place: Place, tmp_path: Path) -> None:
    place.assign("m4-a", "v1")
    place.sync.run(place.house.fence)
    os.kill(place.process.pid, signal.SIGUSR1)  # mosquitto saves what it retains
    snapshot = place.house.settings.dirs.broker / "mosquitto.db"
    assert eventually(snapshot.exists)
    place.assign("m4-b", "v1")
    place.sync.run(place.house.fence)
    place.crash_broker(keep_snapshot=True)
    assert place.sync.run(place.house.fence) > 0
    assert place.image_seen_by("m4-b", tmp_path) == BASE_IMAGE


def test_messages_written_while_the_broker_was_away_do_not_hide_its_loss(place: Place, tmp_path: Path) -> None:
    place.assign("m4-a", "v1")
    place.sync.run(place.house.fence)
    os.kill(place.process.pid, signal.SIGKILL)
    place.process.wait()
    assert eventually(lambda: not place.client.connected)
    place.assign("m4-b", "v3")
    with pytest.raises(BrokerUnavailableError):
        place.client.wait_connected(0.1)
    (place.house.settings.dirs.broker / "mosquitto.db").unlink(missing_ok=True)
    place.process = broker.start(place.house.settings, place.pki)
    assert eventually(lambda: place.client.connected)
    place.sync.run(place.house.fence)
    assert place.image_seen_by("m4-a", tmp_path) == BASE_IMAGE
    assert len(place.image_seen_by("m4-b", tmp_path)) == 5000


def test_orderly_restart_needs_no_restoring(place: Place, tmp_path: Path) -> None:
    place.assign("m4-a", "v1")
    place.sync.run(place.house.fence)
    broker.stop(place.process)
    place.process = broker.start(place.house.settings, place.pki)
    assert eventually(lambda: place.client.connections == 2 and place.client.connected)
    assert place.sync.run(place.house.fence) == 0
    assert place.image_seen_by("m4-a", tmp_path) == BASE_IMAGE


def test_state_reader_keeps_twins_and_resyncs_after_a_pause(place: Place, tmp_path: Path) -> None:
    house = place.house
    files = device_files(place.pki, "m4-a", tmp_path)
    with connected(house.settings, files, "m4-a") as device:
        device.publish("fleet/v1/d/m4-a/state", state(sequence=1), retain=True)
        reader = StateReader(house.settings, house.engine, place.client)
        assert eventually(lambda: reader.waiting == 1)  # retained from before: nobody had to send it again
        device.publish("fleet/v1/d/m4-a/state", state(sequence=2), retain=True)  # takes the place of the first
        device.publish("fleet/v1/d/m4-a/event", event())
        device.publish("fleet/v1/d/m4-a/event", event())
        device.publish("fleet/v1/d/m4-a/event", b"nonsense")
        assert eventually(lambda: reader.waiting == 4)
        applied = reader.apply()
    assert (applied.devices, applied.events, applied.refused) == (("m4-a",), 1, 1)
    with session_scope(house.engine) as session:
        assert house.device(session, "m4-a").reported_sequence == 2
    assert reader.apply().devices == ()


def test_a_device_that_floods_us_with_events_keeps_no_other_from_being_heard(place: Place, tmp_path: Path) -> None:
    reader = StateReader(place.house.settings, place.house.engine, place.client)
    with connected(place.house.settings, device_files(place.pki, "m4-a", tmp_path), "m4-a") as device:
        for _ in range(3):
            device.publish_all([("fleet/v1/d/m4-a/event", event(), False, 1)] * MOST_WAITING)
    with connected(place.house.settings, device_files(place.pki, "m4-b", tmp_path), "m4-b") as device:
        device.publish("fleet/v1/d/m4-b/event", event())
    assert eventually(lambda: reader.waiting > MOST_WAITING)
    assert reader.waiting == MOST_WAITING + 1
    assert reader.apply().events == 2
    with connected(place.house.settings, device_files(place.pki, "m4-a", tmp_path), "m4-a") as device:
        device.publish("fleet/v1/d/m4-a/event", event(number=2))
    assert eventually(lambda: reader.apply().events == 1)  # and it is heard again itself


def test_state_reader_keeps_what_a_dead_database_refused(place: Place, tmp_path: Path) -> None:
    house = place.house
    reader = StateReader(house.settings, house.engine, place.client)
    with connected(house.settings, device_files(place.pki, "m4-a", tmp_path), "m4-a") as device:
        device.publish("fleet/v1/d/m4-a/event", event())
        device.publish("fleet/v1/d/m4-a/state", state(sequence=5), retain=True)
    assert eventually(lambda: reader.waiting == 2)
    with database_away(house.engine), pytest.raises(DatabaseUnavailableError):
        reader.apply()
    assert reader.waiting == 2
    assert reader.apply().devices == ("m4-a",)


def test_inbox_of_a_device_sees_a_new_assignment_at_once(place: Place, tmp_path: Path) -> None:
    inbox = Inbox()
    with connected(place.house.settings, device_files(place.pki, "m4-a", tmp_path), "m4-a") as device:
        device.subscribe("fleet/v1/d/m4-a/desired", inbox)
        place.assign("m4-a", "v1")
        place.sync.run(place.house.fence)
        assert len(inbox.wait(1)) == 1
