"""The broker with the configuration we ship: who gets in, and what each identity may do."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.fleet_support import (
    QUIET_S,
    Inbox,
    client,
    connected,
    device_files,
    eventually,
    make_settings,
    publisher,
    running_broker,
    store,
)
from tinyfleet_service import broker
from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.pki import Pki
from tinyfleet_service.errors import BrokerUnavailableError, StartError
from tinyfleet_service.publish import read_retained
from tinyfleet_service.settings import Settings

House = tuple[Settings, Pki]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    settings = make_settings(tmp_path_factory.mktemp("a folder with spaces"))
    with running_broker(settings) as pki:
        yield settings, pki


def test_client_without_a_certificate_is_refused(house: House) -> None:
    settings, pki = house
    context = ssl.create_default_context(cafile=str(pki.ca_path))
    assert _answer_to_connect(settings.broker_port, context) == b""


def _answer_to_connect(port: int, context: ssl.SSLContext) -> bytes:
    """What the broker answers to an MQTT CONNECT; empty when it hangs up (under TLS 1.3 only after the handshake)."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02d1")
            return tls.recv(4)
    except (ssl.SSLError, ConnectionError):
        return b""


def test_claim_certificate_is_refused_by_the_broker(house: House, tmp_path: Path) -> None:
    settings, pki = house
    certificate, key = pki.issue_claim("factory")
    files = store(tmp_path, "claim", x.certificate_pem(certificate), x.key_pem(key), pki)
    with pytest.raises(BrokerUnavailableError):
        client(settings, files, "claim factory").connect(timeout_s=3)


def test_claim_certificate_that_names_a_device_is_refused_too(house: House, tmp_path: Path) -> None:
    settings, pki = house
    key = x.new_key()
    forged = x.issue(pki.claim_ca, "m4-aaaaaaaa", key.public_key(), usage=x.CLIENT, days=1)
    files = store(tmp_path, "forged", x.certificate_pem(forged), x.key_pem(key), pki)
    with pytest.raises(BrokerUnavailableError):
        client(settings, files, "m4-aaaaaaaa").connect(timeout_s=3)


def test_device_writes_its_own_topics_and_reads_what_is_meant_for_it(house: House, tmp_path: Path) -> None:
    settings, pki = house
    seen, told = Inbox(), Inbox()
    with (
        connected(settings, pki.service("svc-controller"), "svc-controller") as controller,
        connected(settings, device_files(pki, "m4-one", tmp_path), "m4-one") as device,
    ):
        controller.subscribe("fleet/v1/d/+/state", seen)
        for topic in ("fleet/v1/d/m4-one/desired", "fleet/v1/m/x", "fleet/v1/b/x/1024/0", "fleet/v1/root/1"):
            device.subscribe(topic, told)
            controller.publish(topic, b"for you", retain=True)
        device.publish("fleet/v1/d/m4-one/state", b"state", retain=True)
        assert {m.topic for m in told.wait(4)} == {
            "fleet/v1/d/m4-one/desired",
            "fleet/v1/m/x",
            "fleet/v1/b/x/1024/0",
            "fleet/v1/root/1",
        }
        assert [m.payload for m in seen.wait(1)] == [b"state"]


def test_publisher_writes_what_devices_read_and_hears_no_device(house: House, tmp_path: Path) -> None:
    settings, pki = house
    seen, overheard = Inbox(), Inbox()
    files = pki.service("svc-publisher")
    with connected(settings, pki.service("svc-tool"), "svc-tool") as tool:
        tool.subscribe("fleet/v1/#", seen)
        with connected(settings, files, "svc-publisher") as spy:
            spy.subscribe("fleet/v1/#", overheard)
            for topic in ("fleet/v1/d/m4-one/state", "fleet/v1/d/m4-one/telemetry", "fleet/v1/d/m4-one/event"):
                spy.publish(topic, b"forged")
            spy.publish("fleet/v1/sentinel", b"its mark", retain=True)
        topics = ["fleet/v1/d/m4-one/desired", "fleet/v1/d/m4-one/command", "fleet/v1/m/x3", "fleet/v1/b/x3/1024/0"]
        bulk = publisher(settings, pki)
        bulk.wait_connected()
        wanted = [*((topic, b"from the outbox", True, 1) for topic in topics), ("fleet/v1/root/3", b"r" * 300, True, 1)]
        assert bulk.publish_all(wanted * 100) == 500
        bulk.close()
        assert eventually(lambda: sum(m.payload == b"from the outbox" for m in seen.messages) == 400)
        assert {m.topic for m in seen.messages if m.payload == b"from the outbox"} == set(topics)
        assert "fleet/v1/sentinel" in {m.topic for m in seen.messages if m.payload == b"its mark"}
        assert not [m for m in seen.messages if m.payload == b"forged"]
        assert not [m.topic for m in overheard.messages if "/d/" in m.topic]


def test_device_can_neither_read_nor_forge_what_belongs_to_another(house: House, tmp_path: Path) -> None:
    settings, pki = house
    stolen, seen = Inbox(), Inbox()
    with (
        connected(settings, pki.service("svc-controller"), "svc-controller") as controller,
        connected(settings, pki.service("svc-tool"), "svc-tool") as tool,
        connected(settings, device_files(pki, "m4-thief", tmp_path), "m4-thief") as thief,
    ):
        tool.subscribe("fleet/v1/#", seen)
        for topic in ("fleet/v1/d/m4-victim/desired", "fleet/v1/d/+/desired", "fleet/v1/d/m4-victim/#", "#"):
            thief.subscribe(topic, stolen)
        controller.publish("fleet/v1/d/m4-victim/desired", b"secret", retain=True)
        forged = [
            "fleet/v1/d/m4-victim/state",
            "fleet/v1/d/m4-victim/telemetry",
            "fleet/v1/d/m4-thief/desired",
            "fleet/v1/m/x2",
            "fleet/v1/b/x2/1024/0",
            "fleet/v1/root/2",
            "fleet/v1/sentinel",
        ]
        for topic in forged:
            thief.publish(topic, b"forged", retain=True)
        thief.publish("fleet/v1/d/m4-thief/event", b"own")  # the last of one connection: what came before was handled
        assert eventually(lambda: any(m.payload == b"own" for m in seen.messages))
        assert not [m.topic for m in seen.messages if m.payload == b"forged"]
        assert not [m.topic for m in stolen.wait(1, QUIET_S) if m.payload == b"secret"]


def test_client_id_follows_the_certificate_so_no_session_can_be_taken_over(house: House, tmp_path: Path) -> None:
    settings, pki = house
    told = Inbox()
    with (
        connected(settings, device_files(pki, "m4-honest", tmp_path), "m4-honest") as honest,
        connected(settings, device_files(pki, "m4-evil", tmp_path), "m4-honest") as evil,
    ):
        honest.subscribe("fleet/v1/d/m4-honest/desired", told)
        evil.publish("fleet/v1/d/m4-honest/state", b"forged", retain=True)
        assert honest.connected
        assert honest.connections == 1
        with connected(settings, pki.service("svc-controller"), "svc-controller") as controller:
            controller.publish("fleet/v1/d/m4-honest/desired", b"yours")
        assert [m.payload for m in told.wait(1)] == [b"yours"]


def test_revocation_list_is_read_again_without_restart(house: House, tmp_path: Path) -> None:
    settings, pki = house
    files = device_files(pki, "m4-lost", tmp_path)
    with connected(settings, files, "m4-lost"):
        pass
    certificate = x.x509.load_pem_x509_certificate(files.certificate.read_bytes())
    pki.write_crl([certificate.serial_number])
    assert broker.reload(settings)

    mqtt = client(settings, files, "m4-lost")
    assert eventually(lambda: _refused(mqtt))
    with connected(settings, device_files(pki, "m4-other", tmp_path), "m4-other") as other:
        assert other.connected


def _refused(mqtt: object) -> bool:
    try:
        mqtt.connect(timeout_s=2)  # type: ignore[attr-defined]
    except BrokerUnavailableError:
        return True
    mqtt.close()  # type: ignore[attr-defined]
    return False


def test_retained_messages_survive_an_orderly_restart(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "fleet")
    for attempt in range(2):
        inbox = Inbox()
        with (
            running_broker(settings) as pki,
            connected(settings, pki.service("svc-controller"), "svc-controller") as controller,
        ):
            if attempt == 0:
                controller.publish("fleet/v1/sentinel", b"kept", retain=True)
            controller.subscribe("fleet/v1/sentinel", inbox)
            assert [m.payload for m in inbox.wait(1)] == [b"kept"]


def test_taken_port_and_missing_program_are_said_clearly(house: House, tmp_path: Path) -> None:
    settings, _ = house
    with pytest.raises(StartError, match="TINYFLEET_BROKER_PORT"):
        broker.start(settings)
    missing = make_settings(tmp_path, mosquitto="no-such-broker")
    with pytest.raises(StartError, match="apt install mosquitto"):
        broker.start(missing)


def test_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    pki = Pki.create(settings)
    pki.crl_path.write_text("not a revocation list")
    with pytest.raises(StartError, match="did not start"):
        broker.start(settings, pki)


def test_killed_broker_is_reconnected_to(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    pki = Pki.create(settings)
    process = broker.start(settings, pki)
    inbox = Inbox()
    with connected(settings, pki.service("svc-controller"), "svc-controller") as controller:
        controller.subscribe("fleet/v1/sentinel", inbox)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert eventually(lambda: not controller.connected)
        with pytest.raises(BrokerUnavailableError):
            controller.publish("fleet/v1/sentinel", b"lost", retain=True)
        second = broker.start(settings, pki)
        try:
            controller.wait_connected()
            controller.publish("fleet/v1/sentinel", b"back", retain=True)
            assert eventually(lambda: any(m.payload == b"back" for m in inbox.messages))
        finally:
            broker.stop(second)


def test_what_is_meant_for_one_connection_reaches_no_later_broker(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    pki = Pki.create(settings)
    process = broker.start(settings, pki)
    with connected(settings, pki.service("svc-controller"), "svc-controller") as controller:
        os.kill(process.pid, signal.SIGKILL)
        for _ in range(20):  # the client has not heard of it yet, or just has
            controller.publish_on(1, "fleet/v1/sentinel", b"old", retain=True)
        process.wait()
        assert eventually(lambda: not controller.connected)
        assert not controller.publish_on(1, "fleet/v1/sentinel", b"old", retain=True)
        second = broker.start(settings, pki)
        try:
            controller.wait_connected()
            assert controller.connections == 2
            assert not controller.publish_on(1, "fleet/v1/sentinel", b"old", retain=True)
            assert read_retained(controller, "fleet/v1/sentinel", 0.5) is None
            assert controller.publish_on(2, "fleet/v1/sentinel", b"new", retain=True)
            assert read_retained(controller, "fleet/v1/sentinel") == b"new"
        finally:
            broker.stop(second)
