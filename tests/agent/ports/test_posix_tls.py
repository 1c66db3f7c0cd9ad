"""TLS transport and MQTT client against a real mosquitto: who is trusted, who is not, and bytes that arrive."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.ports import mosquitto
from agent.ports.pki import Authority, Files
from agent.ports.posix_port import Tls, ffi, lib


class World(NamedTuple):
    """A broker with its authority, and a foreign one."""

    authority: Authority
    foreign: Authority
    device: Files
    folder: Path
    port: int


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("broker")
    authority, foreign = Authority(folder / "ca"), Authority(folder / "foreign", "other CA")
    server = authority.issue("broker", server_names=("localhost", "127.0.0.1"))
    with mosquitto.run(folder, authority.path, server) as port:
        yield World(authority, foreign, authority.issue("device-1"), folder, port)


def make(world: World, *, host: str = "127.0.0.1", ca: Path | None = None, files: Files | None = None) -> Tls:
    files = files or world.device
    return Tls(host, world.port, ca or world.authority.path, files.cert, files.key)


class Session:
    """MQTT over TLS, driven as an agent would."""

    def __init__(self, tls: Tls) -> None:
        self.tls = tls
        self.rx, self.tx, self.id = (
            ffi.new("uint8_t[]", 150_000),
            ffi.new("uint8_t[]", 150_000),
            ffi.new("char[]", b"x"),
        )
        config = {"client_id": self.id, "rx": self.rx, "rx_bytes": 150_000, "tx": self.tx, "tx_bytes": 150_000}
        self.mqtt = ffi.new("fleet_mqtt_t *")
        assert lib.fleet_mqtt_init(self.mqtt, ffi.new("fleet_mqtt_config_t *", config)) == lib.FLEET_OK
        self.events: list[tuple[int, bytes]] = []
        self.status = 0
        lib.fleet_mqtt_begin(self.mqtt, 0)

    def flush(self) -> None:
        data = ffi.new("uint8_t **")
        while size := lib.fleet_mqtt_output(self.mqtt, data):
            taken = self.tls.port.send(self.tls.port.ctx, data[0], size)
            assert taken >= 0, self.tls.error
            lib.fleet_mqtt_sent(self.mqtt, taken, 0)
            if taken == 0:
                return

    def until(self, kind: int, timeout_s: float = 30.0) -> bytes:
        """Payload of the next event of a kind."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            while self.events:
                got, payload = self.events.pop(0)
                if got == kind:
                    return payload
            self.flush()
            data = self.tls.recv(timeout_s=1.0)
            assert not isinstance(data, int), self.tls.error
            self._input(data)
        raise AssertionError("no such event in time")

    def settle(self) -> None:
        """Until everything is sent and acknowledged."""
        end = time.monotonic() + 30
        while lib.fleet_mqtt_queued_bytes(self.mqtt) and time.monotonic() < end:
            self.flush()
            data = self.tls.recv(timeout_s=0.2)
            assert not isinstance(data, int), self.tls.error
            self._input(data)
        assert lib.fleet_mqtt_queued_bytes(self.mqtt) == 0

    def _input(self, data: bytes) -> None:
        held, used, event, at = (
            ffi.new("uint8_t[]", data or b"\0"),
            ffi.new("uint32_t *"),
            ffi.new("fleet_mqtt_event_t *"),
            0,
        )
        while at < len(data):
            status = lib.fleet_mqtt_input(self.mqtt, held + at, len(data) - at, 0, used, event)
            assert status == lib.FLEET_OK
            at += used[0]
            if event.kind != lib.FLEET_MQTT_NOTHING:
                payload = bytes(ffi.buffer(event.payload, event.payload_bytes)) if event.payload else b""
                self.events.append((event.kind, payload))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_publish_and_receive_through_a_real_broker(world: World, host: str) -> None:
    tls = make(world, host=host)
    assert tls.connect() == lib.FLEET_OK, tls.error
    session = Session(tls)
    session.until(lib.FLEET_MQTT_CONNECTED)
    assert lib.fleet_mqtt_subscribe(session.mqtt, b"echo/#", 1) == lib.FLEET_OK
    session.until(lib.FLEET_MQTT_SUBSCRIBED)
    for size in (0, 1, 1024, 16_384, 60_000):
        payload = os.urandom(size)
        assert lib.fleet_mqtt_publish(session.mqtt, b"echo/it", payload, size, lib.FLEET_MQTT_QOS1) == lib.FLEET_OK
        assert session.until(lib.FLEET_MQTT_MESSAGE) == payload
    session.settle()
    tls.close()


def test_server_of_another_authority_is_refused(world: World) -> None:
    tls = make(world, ca=world.foreign.path)
    assert tls.connect() == lib.FLEET_ERR_TLS
    assert "not trusted" in tls.error
    assert tls.port.send(tls.port.ctx, b"x", 1) < 0
    tls.close()


def test_address_that_is_not_in_the_certificate_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    server = authority.issue("broker", server_names=("broker.example",))
    with mosquitto.run(tmp_path, authority.path, server) as port:
        device = authority.issue("device-1")
        for host, word in (("127.0.0.1", "IP address mismatch"), ("localhost", "hostname mismatch")):
            tls = Tls(host, port, authority.path, device.cert, device.key)
            assert tls.connect() == lib.FLEET_ERR_TLS
            assert word in tls.error
            tls.close()


def test_expired_server_certificate_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    server = authority.issue("broker", server_names=("127.0.0.1",), life=(-3600, -60))
    with mosquitto.run(tmp_path, authority.path, server) as port:
        device = authority.issue("device-1")
        tls = Tls("127.0.0.1", port, authority.path, device.cert, device.key)
        assert tls.connect() == lib.FLEET_ERR_TLS
        assert "expired" in tls.error
        tls.close()


def test_client_certificate_serves_no_server(tmp_path: Path) -> None:
    """A device's certificate, even with the right name, cannot impersonate the broker: its use says client."""
    authority = Authority(tmp_path / "ca")
    impostor = authority.issue("127.0.0.1")
    with mosquitto.run(tmp_path, authority.path, impostor) as port:
        tls = Tls("127.0.0.1", port, authority.path, impostor.cert, impostor.key)
        assert tls.connect() == lib.FLEET_ERR_TLS
        tls.close()


@pytest.mark.parametrize("kind", ["foreign", "expired"])
def test_refused_device_certificate_is_said_clearly(world: World, kind: str) -> None:
    files = world.foreign.issue("device-1") if kind == "foreign" else world.authority.issue("old", life=(-3600, -60))
    tls = make(world, files=files)
    status = tls.connect()
    if status == lib.FLEET_OK:  # TLS 1.3: the server's refusal comes with the first read
        answer = tls.recv()
        assert isinstance(answer, int)
        assert answer < 0
    assert "alert" in tls.error
    tls.close()


def test_key_of_another_certificate_is_refused_before_connecting(world: World) -> None:
    other = world.authority.issue("other")
    tls = make(world, files=Files(world.device.cert, other.key))
    assert tls.connect() == lib.FLEET_ERR_TLS
    assert "other.key" in tls.error
    tls.close()


@pytest.mark.parametrize("missing", ["ca", "cert", "key"])
def test_missing_files_are_named(world: World, missing: str, tmp_path: Path) -> None:
    gone = tmp_path / f"{missing}.gone"
    paths = {"ca": world.authority.path, "cert": world.device.cert, "key": world.device.key, missing: gone}
    tls = Tls("127.0.0.1", world.port, paths["ca"], paths["cert"], paths["key"])
    assert tls.connect() == lib.FLEET_ERR_TLS
    assert f"{missing}.gone" in tls.error
    tls.close()


def test_dead_broker_and_unknown_host_fail_and_can_be_tried_again(world: World) -> None:
    tls = Tls("127.0.0.1", mosquitto.free_port(), world.authority.path, world.device.cert, world.device.key)
    for _ in range(3):
        assert tls.connect() == lib.FLEET_ERR_NETWORK
        assert "refused" in tls.error
        tls.close()
    unknown = Tls("no-such-host.invalid", 1, world.authority.path, world.device.cert, world.device.key)
    assert unknown.connect() == lib.FLEET_ERR_NETWORK
    assert "no-such-host.invalid" in unknown.error
    unknown.close()


def test_server_that_speaks_no_tls_is_refused(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_greet_once, args=(listener,), daemon=True).start()
        port = listener.getsockname()[1]
        tls = Tls("127.0.0.1", port, world.authority.path, world.device.cert, world.device.key)
        assert tls.connect() == lib.FLEET_ERR_TLS
        tls.close()


def test_silent_server_stays_pending_and_never_blocks(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tls = Tls("127.0.0.1", listener.getsockname()[1], world.authority.path, world.device.cert, world.device.key)
        assert tls.connect(timeout_s=0.5) == 1
        tls.close()
        assert lib.fleet_posix_tls_socket(tls.tls) == -1


def test_broker_that_dies_breaks_the_stream(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    server = authority.issue("broker", server_names=("127.0.0.1",))
    device = authority.issue("device-1")
    with mosquitto.run(tmp_path, authority.path, server) as port:
        tls = Tls("127.0.0.1", port, authority.path, device.cert, device.key)
        assert tls.connect() == lib.FLEET_OK
        Session(tls).until(lib.FLEET_MQTT_CONNECTED)
    answer = tls.recv()
    assert isinstance(answer, int)
    assert answer < 0
    assert tls.error
    tls.close()
    assert tls.connect() == lib.FLEET_ERR_NETWORK
    tls.close()


def _greet_once(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(b"220 hello, this is not TLS\r\n")
        connection.recv(4096)
