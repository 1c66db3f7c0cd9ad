"""One rollout in which controller, broker, ingester, a builder and the database are killed in turn, on both engines.

It ends as if none had been, and so does the build of the next version: of two builders the one at work is killed.
SQLite has no process to kill. (C agents whose broker dies with all it retained are in `test_hostile_outages.py`.)
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from sqlmodel import select

from integration.fleet_database import CLASS
from integration.fleet_house import FleetHouse, make_house
from integration.fleet_support import connected, device_files, eventually
from postgres import crash_and_restart, postgres_database, shared_server
from service_harness import push_unserved
from tinyfleet_ota import parse_assignment, parse_release, topics
from tinyfleet_ota.protocol import SlotState
from tinyfleet_service import broker
from tinyfleet_service.broker.pki import Pki
from tinyfleet_service.database.engine import Lease, session_scope
from tinyfleet_service.database.models import Build, BuildState, Desired, ModelVersion, Rollout, RolloutMember
from tinyfleet_service.keys import load_signer
from tinyfleet_service.publish import CONTROLLER_LEASE, read_retained
from tinyfleet_service.rollouts import make_plan, parse_spec, start_rollout
from tinyfleet_service.telemetry import TelemetryStore
from unit.service.fleet_state_builders import slot, state
from unit.service.fleet_telemetry_builders import image_counters, telemetry

DEVICES = ("m4-a", "m4-b", "m4-c", "m4-d", "m4-e")
BUILDERS = ("builder/1", "builder/2")
SPEC = {
    "model": "digits", "version": "v1", "canary": "100%", "soak_s": 0, "min_inferences": 10,
    "gates": {"silence": "advisory"},
}  # fmt: skip
pytestmark = pytest.mark.slow
server = pytest.fixture(shared_server, scope="module")


class Fleet:
    """The house; broker, controller, ingester and two builders, each a process; devices that answer when told."""

    def __init__(self, house: FleetHouse, folder: Path) -> None:
        self.house, self.folder, self.pki = house, folder, Pki.create(house.settings)
        self.broker = broker.start(house.settings, self.pki)
        self.processes = {name: self._start(name) for name in ("controller", "ingest", *BUILDERS)}
        self.files = {name: device_files(self.pki, name, folder) for name in DEVICES}
        self.counted: dict[str, int] = {}

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        settings = self.house.settings
        own = {"BROKER_PORT": settings.broker_port, "DATABASE_URL": settings.database_url, "TICK_S": 0.1, "LEASE_S": 3}
        own |= {"BUILD_LEASE_S": 2, "BUILD_ATTEMPTS": 50, "BUILDER_WORKERS": 1}  # a busy machine may miss a short lease
        command = [sys.executable, "-m", "tinyfleet_service.serve", name.partition("/")[0]]
        return subprocess.Popen(
            [*command, "--data", str(settings.dirs.path), "--log", str(self.folder / name.replace("/", "-"))],
            env=os.environ | {f"TINYFLEET_{key}": str(value) for key, value in own.items()},
        )

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        broker.stop(self.broker)
        self.house.engine.dispose()

    def kill_process(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()
        self.processes[name] = self._start(name)

    def kill_builder(self) -> None:
        """The one that has the build of v5, in the middle of it."""

        def at_work() -> list[str]:
            owner = self.build_of("v5").lease_owner or ""
            return [name for name in BUILDERS if f"-{self.processes[name].pid}-" in owner]

        push_unserved(self.house.engine, self.house.settings, "v5")
        assert eventually(at_work, 60)
        self.kill_process(at_work()[0])

    def kill_broker(self) -> None:
        """-9, and nothing that it retained is left."""
        os.kill(self.broker.pid, signal.SIGKILL)
        self.broker.wait()
        (self.house.settings.dirs.broker / "mosquitto.db").unlink(missing_ok=True)
        self.broker = broker.start(self.house.settings, self.pki)

    def answer(self, device_id: str) -> None:
        """Do what `desired` says, report it, and answer some inputs."""
        image, topic = self.house.image_id("v1"), topics.desired(device_id)
        with connected(self.house.settings, self.files[device_id], device_id) as device:
            found: list[bytes | None] = []

            def arrived() -> bool:
                found.append(read_retained(device, topic))
                return bool(found[-1])

            assert eventually(arrived, 60)
            assignment = parse_assignment(found[-1] or b"", [self.house.keys.director.public_key])
            slots = [slot(SlotState.CONFIRMED, image), slot()]
            report = state(slots=slots, active=0, sequence=assignment.sequence, report_interval_s=5)
            device.publish(topics.state(device_id), report, retain=True)
            self.counted[device_id] = self.counted.get(device_id, 0) + 20
            counters = image_counters(image, inferences=self.counted[device_id])
            device.publish(topics.telemetry(device_id), telemetry(counters, report=self.counted[device_id]))

    def state_of(self, rollout_id: int) -> str:
        with session_scope(self.house.engine, read_only=True) as session:
            return session.get_one(Rollout, rollout_id).state

    def build_of(self, version: str) -> Build:
        with session_scope(self.house.engine, read_only=True) as session:
            query = select(Build).join(ModelVersion).where(ModelVersion.version == version)
            return session.exec(query.where(Build.device_class == CLASS)).one()


@contextmanager
def fleet_on(server: str, folder: Path) -> Iterator[Fleet]:
    with postgres_database(server) if server else nullcontext("") as url:
        house = make_house(folder / "fleet", DEVICES, database_url=url)
        Lease.release(house.engine, CONTROLLER_LEASE, "test")
        fleet = Fleet(house, folder)
        try:
            yield fleet
        finally:
            fleet.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_rollout_ends_the_same_whatever_is_killed(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    server = request.getfixturevalue("server") if kind == "postgresql" else ""
    with fleet_on(server, tmp_path) as fleet:
        house = fleet.house
        with session_scope(house.engine) as session:
            rollout = start_rollout(session, make_plan(session, parse_spec(SPEC))).id or 0
        faults = {
            "controller": lambda: fleet.kill_process("controller"),
            "broker": fleet.kill_broker,
            "database": lambda: crash_and_restart(server) if server else None,
            "ingester": lambda: fleet.kill_process("ingest"),
            "builder": fleet.kill_builder,
        }
        for device_id, fault in zip(DEVICES, faults.values(), strict=True):
            fleet.answer(device_id)
            fault()

        def promoted() -> bool:
            for device_id in DEVICES:
                fleet.answer(device_id)
            return fleet.state_of(rollout) == "promoted"

        assert eventually(promoted, 120), fleet.state_of(rollout)
        with session_scope(house.engine, read_only=True) as session:
            members = session.exec(select(RolloutMember)).all()
            desired = {row.device_id: row.payload for row in session.exec(select(Desired))}
        assert {(m.device_id, m.status) for m in members} == {(name, "confirmed") for name in DEVICES}
        assert len(members) == len(desired) == len(DEVICES)
        _broker_has(fleet, desired)
        store, image = TelemetryStore(house.settings), house.image_id("v1").hex()
        assert eventually(lambda: store.totals()[image].inferences == sum(fleet.counted.values()))
        store.close()
        _built(fleet)


def _built(fleet: Fleet) -> None:
    """The version pushed meanwhile is signed, by another attempt than the killed one; builders end when told."""
    settings = fleet.house.settings
    assert eventually(lambda: fleet.build_of("v5").state == BuildState.READY, 120)
    build = fleet.build_of("v5")
    assert build.attempt >= 2
    signed = parse_release(build.manifest or b"", [load_signer(settings, "release").public_key])
    assert hashlib.sha256(fleet.house.store.get(build.image_sha256 or "")).digest() == signed.image_digest
    for name in BUILDERS:
        fleet.processes[name].terminate()
        assert fleet.processes[name].wait(60) == 0


def _broker_has(fleet: Fleet, desired: dict[str, bytes]) -> None:
    with connected(fleet.house.settings, fleet.pki.service("svc-tool"), "svc-tool") as tool:
        for device_id, payload in desired.items():
            topic = topics.desired(device_id)
            assert eventually(lambda topic=topic, sent=payload: read_retained(tool, topic) == sent)
