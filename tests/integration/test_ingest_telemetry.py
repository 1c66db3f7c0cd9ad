"""Telemetry through a real broker: acknowledged after the commit, nothing lost or counted twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.fleet_support import connected, device_files, eventually, make_settings, running_broker
from tinyfleet_service import ingest
from tinyfleet_service.broker.pki import Pki
from tinyfleet_service.errors import BrokerUnavailableError, DatabaseUnavailableError
from tinyfleet_service.ingest import Ingester
from tinyfleet_service.ingest.connection import ShareConnection
from tinyfleet_service.ingest.process import shared
from tinyfleet_service.mqtt import Broker, MqttClient
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore
from unit.service.fleet_telemetry_builders import IMAGE, image_counters, telemetry

House = tuple[Settings, Pki]
NAME = IMAGE.hex()
TOPIC = "fleet/v1/d/m4-a/telemetry"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    settings = make_settings(tmp_path / "fleet")
    with running_broker(settings) as pki:
        yield settings, pki


def report(number: int, inferences: int) -> bytes:
    return telemetry(image_counters(inferences=inferences), report=number)


def inferences(store: TelemetryStore) -> int:
    counters = store.read_counters(["m4-a"], NAME)
    return counters["m4-a"].inferences if counters else 0


def start(settings: Settings, member: int = 0) -> tuple[threading.Thread, threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=ingest.run, args=(settings, stop, member))
    thread.start()
    return thread, stop


def settle(device: MqttClient, store: TelemetryStore) -> None:
    """Wait until the ingester's subscription stands: before it the broker has nobody to keep a message for."""

    def arrived() -> bool:
        device.publish(TOPIC, report(0, 0))
        return bool(store.last_heard(["m4-a"]))

    assert eventually(arrived)


def test_reports_reach_the_store_and_nonsense_does_not_stop_them(house: House, tmp_path: Path) -> None:
    settings, pki = house
    thread, stop = start(settings)
    store = TelemetryStore(settings)
    with connected(settings, device_files(pki, "m4-a", tmp_path), "m4-a") as device:
        settle(device, store)
        device.publish(TOPIC, b"nonsense")
        for number in range(1, 51):
            device.publish(TOPIC, report(number, 2 * number))
        assert eventually(lambda: inferences(store) == 100)
    stop.set()
    thread.join()


def test_messages_sent_while_no_ingester_runs_are_kept_for_it(house: House, tmp_path: Path) -> None:
    settings, pki = house
    thread, stop = start(settings)  # makes the session that the broker keeps
    store = TelemetryStore(settings)
    with connected(settings, device_files(pki, "m4-a", tmp_path), "m4-a") as device:
        settle(device, store)
        device.publish(TOPIC, report(1, 1))
        assert eventually(lambda: inferences(store) == 1)
        stop.set()
        thread.join()
        for number in range(2, 12):
            device.publish(TOPIC, report(number, number))
    thread, stop = start(settings)
    assert eventually(lambda: inferences(store) == 11)
    stop.set()
    thread.join()


def member_of(settings: Settings, pki: Pki, store: TelemetryStore) -> tuple[ShareConnection, Ingester]:
    place = Broker("127.0.0.1", settings.broker_port, pki.service("svc-ingest-0"))
    connection = ShareConnection(place, "svc-ingest-0", {shared(pki): 1})
    return connection, Ingester(connection, store, settings.ingest_batch)


@pytest.mark.sqlite_only
def test_dead_database_keeps_messages_unacknowledged_and_they_come_again(house: House, tmp_path: Path) -> None:
    settings, pki = house
    store = TelemetryStore(settings)
    first, ingester = member_of(settings, pki, store)
    assert ingester.step(0.1) == 0  # the session stands
    settings.dirs.telemetry.write_bytes(b"damaged" * 1000)
    with connected(settings, device_files(pki, "m4-a", tmp_path), "m4-a") as device:
        device.publish(TOPIC, report(1, 7))
    for _ in range(2):
        with pytest.raises(DatabaseUnavailableError):
            assert eventually(lambda: ingester.step() > 0)
        assert ingester.waiting == 1
    first.close()  # the process dies with the message in its hands
    settings.dirs.telemetry.unlink()
    second, again = member_of(settings, pki, store)
    assert eventually(lambda: again.step() == 1)
    assert inferences(store) == 7
    second.close()


def test_a_lost_broker_drops_the_batch_and_it_comes_again(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "fleet")
    store = TelemetryStore(settings)
    with running_broker(settings) as pki:
        connection, ingester = member_of(settings, pki, store)
        assert ingester.step(0.1) == 0
        with connected(settings, device_files(pki, "m4-a", tmp_path), "m4-a") as device:
            device.publish(TOPIC, report(1, 7))
        assert eventually(lambda: bool(connection.receive(0.1)))  # taken, never acknowledged
    with pytest.raises(BrokerUnavailableError, match="nothing is lost"):
        eventually(lambda: ingester.step() < 0)
    assert ingester.waiting == 0
    with running_broker(settings):
        assert eventually(lambda: ingester.step() == 1)
    assert inferences(store) == 7
    connection.close()


def test_an_ingester_says_how_it_is_doing(house: House, tmp_path: Path) -> None:
    settings, _ = house
    thread, stop = start(settings)
    store = TelemetryStore(settings)
    with connected(settings, device_files(house[1], "m4-a", tmp_path), "m4-a") as device:
        settle(device, store)
        assert eventually(lambda: store.ingesters().get(0, {}).get("stored", 0) >= 1)
    stop.set()
    thread.join()
    told = store.ingesters()[0]
    assert told["commit_s"] > 0
    assert (told["waiting"], told["dropped"], told["refused"]) == (0, 0, 0)


@pytest.mark.sqlite_only
def test_outage_of_the_database_is_waited_out_and_said(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, pki = house
    settings.dirs.telemetry.write_bytes(b"damaged" * 1000)
    thread, stop = start(settings)
    with connected(settings, device_files(pki, "m4-a", tmp_path), "m4-a") as device:

        def said() -> bool:
            device.publish(TOPIC, report(1, 9))
            return "wait un-acknowledged" in caplog.text

        assert eventually(said)
    settings.dirs.telemetry.unlink()
    store = TelemetryStore(settings)
    assert eventually(lambda: inferences(store) == 9)
    stop.set()
    thread.join()


def test_a_device_that_joins_a_share_takes_nothing_from_the_ingesters(house: House, tmp_path: Path) -> None:
    """The broker answers "granted", counts it as a member and drops at the access rules what falls to it."""
    settings, pki = house
    thread, stop = start(settings)
    store = TelemetryStore(settings)
    with (
        connected(settings, device_files(pki, "m4-a", tmp_path), "m4-a") as device,
        connected(settings, device_files(pki, "m4-thief", tmp_path), "m4-thief") as thief,
    ):
        settle(device, store)
        thief.subscribe("$share/ingest/fleet/v1/d/+/telemetry", lambda message: None)
        thief.publish("fleet/v1/d/m4-thief/event", b"own")  # acknowledged: what came before was handled
        for number in range(1, 21):
            device.publish(TOPIC, telemetry(image_counters(inferences=1), boot=number, report=1))
        all_of_them = eventually(lambda: inferences(store) == 20)
    stop.set()
    thread.join()
    assert all_of_them


def test_two_members_share_and_a_retired_one_holds_nothing_back(house: House, tmp_path: Path) -> None:
    settings, pki = house
    store = TelemetryStore(settings)
    store.note_ingester(7, {})  # it ran before the setting was lowered
    runs = [start(settings, member) for member in (0, 1)]
    with connected(settings, device_files(pki, "m4-a", tmp_path), "m4-a") as device:
        settle(device, store)
        device.publish(TOPIC, report(1, 1))
        assert eventually(lambda: inferences(store) == 1)
        assert eventually(lambda: 7 not in store.ingesters())
        thread, stop = runs[1]
        stop.set()
        thread.join()
        ingest.retire_member(settings, 1)
        for number in range(2, 22):
            device.publish(TOPIC, telemetry(image_counters(inferences=1), boot=number, report=1))
        assert eventually(lambda: inferences(store) == 21)
    thread, stop = runs[0]
    stop.set()
    thread.join()
