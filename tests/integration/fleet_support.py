"""What the fleet's integration tests share: a fleet directory with certificates, a real broker, clients by identity."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyfleet_service import broker
from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.pki import Pki, TlsFiles
from tinyfleet_service.mqtt import Broker, Message, MqttClient, Publisher
from tinyfleet_service.settings import Settings

WAIT_S = 20.0
QUIET_S = 0.5


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_settings(path: Path, **values: object) -> Settings:
    settings = Settings(data=path, broker_port=free_port(), est_port=free_port(), **values)
    settings.dirs.create()
    return settings


@contextmanager
def running_broker(settings: Settings) -> Iterator[Pki]:
    pki = Pki.create(settings)
    process = broker.start(settings, pki)
    try:
        yield pki
    finally:
        broker.stop(process)


def device_files(pki: Pki, device_id: str, folder: Path) -> TlsFiles:
    """A device certificate on disk, as a device would hold it."""
    key = x.new_key()
    return store(
        folder, device_id, x.certificate_pem(pki.issue_device(device_id, key.public_key())), x.key_pem(key), pki
    )


def store(folder: Path, name: str, certificate: bytes, key: bytes, pki: Pki) -> TlsFiles:
    folder.mkdir(parents=True, exist_ok=True)
    files = TlsFiles(pki.ca_path, folder / f"{name}.crt", folder / f"{name}.key")
    files.certificate.write_bytes(certificate)
    files.key.write_bytes(key)
    return files


def client(settings: Settings, files: TlsFiles, client_id: str, **options: bool) -> MqttClient:
    return MqttClient(
        "127.0.0.1",
        settings.broker_port,
        ca=files.ca,
        certificate=files.certificate,
        key=files.key,
        client_id=client_id,
        **options,
    )


def publisher(settings: Settings, pki: Pki) -> Publisher:
    """The controller's bulk connection, not yet connected."""
    name = "svc-publisher"
    return Publisher(Broker("127.0.0.1", settings.broker_port, pki.service(name)), name)


@contextmanager
def connected(settings: Settings, files: TlsFiles, client_id: str, **options: bool) -> Iterator[MqttClient]:
    mqtt = client(settings, files, client_id, **options).connect()
    try:
        yield mqtt
    finally:
        mqtt.close()


class Inbox:
    """Messages a client received, for tests that wait for them or for their absence."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._arrived = threading.Condition()

    def __call__(self, message: Message) -> None:
        with self._arrived:
            self.messages.append(message)
            self._arrived.notify_all()

    def wait(self, count: int, timeout_s: float = WAIT_S) -> list[Message]:
        with self._arrived:
            self._arrived.wait_for(lambda: len(self.messages) >= count, timeout_s)
            return list(self.messages)


def eventually(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> bool:
    """True as soon as `condition` holds; the bound only keeps a broken test from hanging."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
