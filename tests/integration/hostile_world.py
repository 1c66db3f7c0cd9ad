"""The chain on real parts, with somebody at the broker who lies: real ACLs, EST listener, publishing and C agents."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.ports.fleet_world import DEVICE_CLASS, Fleet, image, write_dataset
from integration.fleet_database import PROJECT
from integration.fleet_house import FleetHouse, make_house
from integration.fleet_support import eventually, store
from tinyfleet_ota.protocol import SlotState
from tinyfleet_service import broker
from tinyfleet_service.broker.pki import Pki
from tinyfleet_service.database.engine import Lease, session_scope
from tinyfleet_service.database.models import ProjectClass
from tinyfleet_service.devices import create_claim
from tinyfleet_service.devices.subscriber import StateReader
from tinyfleet_service.est import EstServer
from tinyfleet_service.mqtt import MqttClient
from tinyfleet_service.publish import (
    CONTROLLER_LEASE,
    BrokerSync,
    assign,
    publish_roots,
    refresh_assignment,
    repair_broker,
)

VERSIONS = ("v1", "v2")
WAIT_S = 60.0
Lie = Callable[[str, bytes], bytes]


def model(version: str) -> str:
    """Version name of a digits model in the house, whose own v1 .. v3 are random bytes."""
    return f"digits-{version}"


class LyingClient(MqttClient):
    """The controller's connection through a broker that changes what is retained."""

    lie: Lie | None = None

    def publish_all(self, messages: Iterable[tuple[str, bytes, bool, int]], timeout_s: float = 10.0) -> int:
        lie = self.lie or (lambda topic, payload: payload)
        return super().publish_all(((topic, lie(topic, data), *rest) for topic, data, *rest in messages), timeout_s)


class World:
    """A house with real images, its broker and EST listener, and devices that answer live inputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.house: FleetHouse = make_house(folder / "fleet", ())
        with session_scope(self.house.engine) as session:
            session.add(ProjectClass(project_id=PROJECT, name=DEVICE_CLASS, toml=""))
            for version in VERSIONS:
                self.house.add_build(session, model(version), image(version), DEVICE_CLASS)
        self.settings = self.house.settings
        self.pki = Pki.create(self.settings)
        self.broker = broker.start(self.settings, self.pki)
        self.est = EstServer(self.settings, self.house.engine, self.pki)
        self._est = threading.Thread(target=self.est.serve_forever, daemon=True)
        self._est.start()
        self.fleets: list[Fleet] = []

    def close(self) -> None:
        for fleet in self.fleets:
            if fleet.process.poll() is None:
                fleet.process.kill()
                fleet.process.wait()
        self.est.shutdown()
        self.est.server_close()
        self._est.join()
        broker.stop(self.broker)
        self.house.engine.dispose()

    def start(self, knobs: Sequence[str] = (), **options: object) -> Fleet:
        """fleet_device, built with `knobs`, enrolled by a claim of its own."""
        with session_scope(self.house.engine) as session:
            row, certificate, key = create_claim(
                session, self.pki, project_id=PROJECT, name="batch", device_class=DEVICE_CLASS, tags={}, quota=9
            )
        claim = store(self.folder, row.serial, certificate, key, self.pki)
        values: dict[str, object] = {
            "est": f"localhost:{self.est.port}",
            "claim-cert": claim.certificate,
            "claim-key": claim.key,
            "broker": f"localhost:{self.settings.broker_port}",
            "ca": self.pki.ca_path,
            "root": self.settings.dirs.keys / "root-1.cbor",
            "dir": self.folder / "devices",
            "device-class": DEVICE_CLASS,
            "slot-bytes": 32768,
            "report-interval-s": 1,
            "dataset": write_dataset(self.folder / "field.tfds"),
            "rate-hz": 50,
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        fleet = Fleet([text for name, value in values.items() for text in (f"--{name}", str(value))], knobs=knobs)
        self.fleets.append(fleet)
        return fleet

    def kill_broker(self, *, start_again: bool = True) -> None:
        """kill -9, and nothing that it retained is left."""
        os.kill(self.broker.pid, signal.SIGKILL)
        self.broker.wait()
        (self.settings.dirs.broker / "mosquitto.db").unlink(missing_ok=True)
        if start_again:
            self.broker = broker.start(self.settings, self.pki)


@contextmanager
def running_world(folder: Path) -> Iterator[World]:
    world = World(folder)
    try:
        yield world
    finally:
        world.close()


class Desk:
    """The controller's part by hand: assigns, publishes through the lying broker, reads what devices report."""

    def __init__(self, world: World) -> None:
        self.world, self.house = world, world.house
        files = world.pki.service("svc-controller")
        self.client = LyingClient(
            "127.0.0.1",
            world.settings.broker_port,
            ca=files.ca,
            certificate=files.certificate,
            key=files.key,
            client_id="svc-controller",
        )
        self.reader = StateReader(world.settings, self.house.engine, self.client)
        self.sync = BrokerSync(self.house.engine, self.house.store, self.client, self.client, self.house.keys)
        self.client.connect()

    def assign(self, device_id: str, version: str) -> None:
        self.reader.apply()
        house = self.house
        with session_scope(house.engine) as session:
            publish_roots(session, house.keys, house.fence)
            device, build = house.device(session, device_id), house.build(session, model(version))
            terms = {"confirm_min_inferences": 3, "confirm_timeout_s": 60}
            assign(session, house.store, house.keys, device, build, SlotState.CONFIRMED, fence=house.fence, **terms)
        self.sync.run(house.fence)

    def repair(self, device_id: str) -> str:
        """What the controller does at each tick about a device that found something damaged."""
        self.reader.apply()
        house = self.house
        with session_scope(house.engine) as session:
            done = repair_broker(session, house.store, house.device(session, device_id), house.fence)
        self.sync.run(house.fence)
        return done

    def answer(self, device_id: str) -> bool:
        """What the controller does about a device that knows another nonce; False, for conditions that go on."""
        self.reader.apply()
        with session_scope(self.house.engine) as session:
            refresh_assignment(session, self.house.keys, self.house.device(session, device_id), self.house.fence)
        self.sync.run(self.house.fence)
        return False

    def reported(self, device_id: str) -> dict[str, Any]:
        self.reader.apply()
        with session_scope(self.house.engine, read_only=True) as session:
            return self.house.device(session, device_id).reported

    def reason(self, device_id: str) -> str:
        return str(self.reported(device_id).get("last_reason"))

    def confirmed(self, device_id: str, version: str) -> bool:
        """The device runs `version`, for good."""
        return runs(self.reported(device_id), self.house.image_id(model(version)).hex())

    def wait(self, condition: Callable[[], bool], what: object = "") -> None:
        assert eventually(condition, WAIT_S), what


def runs(reported: dict[str, Any], image_id: str) -> bool:
    """True when the report says that this image is active and confirmed."""
    for component in reported.get("components", []):
        if component["active"] is not None:
            slot = component["slots"][component["active"]]
            return bool(slot["image"] == image_id and slot["state"] == "CONFIRMED")
    return False


@contextmanager
def running_desk(world: World) -> Iterator[Desk]:
    desk = Desk(world)
    try:
        yield desk
    finally:
        desk.client.close()


def free_lease(world: World) -> None:
    """The house was made under the controller's lease; a real controller needs it."""
    Lease.release(world.house.engine, CONTROLLER_LEASE, "test")
