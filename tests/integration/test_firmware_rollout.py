"""Firmware rolled out by the service to C agents with MCUboot's part emulated: images by imgtool, swaps at every reset.

The broker is in memory, one for each device; database, publishing, rollouts and telemetry are the service's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlmodel import Session, select

from agent.agent.firmware_rig import FirmwareDevice, firmware_image, firmware_release
from agent.agent.rig import DIRECTOR_KEY, RELEASE_KEY, Release, release
from integration.fleet_database import CLASS, PROJECT, make_database
from integration.fleet_support import make_settings
from tinyfleet_service.builds import StoredImage, push_firmware, sign_waiting
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import Lease, session_scope
from tinyfleet_service.database.models import (
    Build,
    BuildState,
    DesiredEntry,
    Device,
    Model,
    ModelVersion,
    Rollout,
    RolloutMember,
    utc_now,
)
from tinyfleet_service.devices import apply_event, apply_state
from tinyfleet_service.publish import CONTROLLER_LEASE, DirectorKeys, drain_outbox
from tinyfleet_service.registry.firmware import parse_firmware
from tinyfleet_service.rollouts import explain, make_plan, parse_spec, request, start_rollout, tick
from tinyfleet_service.telemetry import TelemetryStore

NAMES = ("m4-a", "m4-b", "m4-c", "m4-d")
MODEL_IMAGE = release(0, 1)
COUNTS = {"min_inferences": 3, "confirm_min_inferences": 1, "confirm_timeout_s": 60, "soak_s": 0}
OFF = {"accuracy": "off", "latency": "off"}


class Field:
    """Four devices, their brokers, and the service's tick once a second of theirs."""

    connections = 1

    def __init__(self, folder: Path) -> None:
        self.settings = make_settings(folder)
        self.engine = make_database(self.settings)
        self.store, self.telemetry = BlobStore(self.settings.dirs.blobs), TelemetryStore(self.settings)
        self.keys = DirectorKeys(DIRECTOR_KEY, 1, ec.generate_private_key(ec.SECP256R1()))
        self.fence = Lease.acquire(self.engine, CONTROLLER_LEASE, "test", 3600) or 0
        self.now = utc_now()
        self.read: dict[str, int] = dict.fromkeys(NAMES, 0)
        self.devices = [FirmwareDevice(device_id=name, report_interval_s=5) for name in NAMES]
        with session_scope(self.engine) as session:
            for device in self.devices:
                session.add(Device(id=device.device_id, project_id=PROJECT, device_class=CLASS, director_epoch=1))
                device.program(firmware_image(0))
                assert device.boot() == 0
            self._add_model(session, MODEL_IMAGE)

    def _add_model(self, session: Session, item: Release) -> None:
        session.add(Model(id=1, project_id=PROJECT, name="digits"))
        session.flush()
        session.add(ModelVersion(id=1, model_id=1, version="v1", model_sha256="", model_bytes=0))
        session.flush()
        digest = hashlib.sha256(item.envelope).hexdigest()
        session.add(
            Build(
                version_id=1,
                device_class=CLASS,
                state=BuildState.READY,
                image_sha256=self.store.put(item.image),
                image_bytes=len(item.image),
                abi=1,
                release_counter=1,
                manifest=item.envelope,
                manifest_sha256=digest,
            )
        )

    def push(self, version: str, image: bytes) -> None:
        """A firmware version, signed by the release key."""
        stored = StoredImage(self.store.put(image), len(image), parse_firmware(image, "app.bin"))
        push_firmware(self.engine, PROJECT, "app", version, {CLASS: stored}, abi=1)
        assert sign_waiting(self.engine, self.store, RELEASE_KEY) == 1

    def start(self, model: str, version: str, **spec: Any) -> int:
        body = {"model": model, "version": version, "canary": "50%", "gates": OFF, **COUNTS, **spec}
        with session_scope(self.engine) as session:
            plan = make_plan(session, parse_spec(body, self.settings))
            return start_rollout(session, plan, now=self.now).id or 0

    def run(self, rollout: int, seconds: int = 120) -> str:
        """Seconds until the rollout ended; its state."""
        for _ in range(seconds):
            self.step()
            with session_scope(self.engine, read_only=True) as session:
                state = session.get_one(Rollout, rollout).state
            if state not in ("running", "paused"):
                return state
        return state

    def step(self) -> None:
        self.now += timedelta(seconds=1)
        for device in self.devices:
            self._live(device)
        tick(self.engine, self.store, self.telemetry, self.keys, self.fence, self.now)
        drain_outbox(self.engine, self, self.fence)

    def _live(self, device: FirmwareDevice) -> None:
        device.run(1000)
        if device.reset_asked:
            assert device.boot() == 0
        for _ in range(3):
            device.infer()
        fresh = device.broker.published[self.read[device.device_id] :]
        self.read[device.device_id] += len(fresh)
        for topic, payload in fresh:
            self._receive(device.device_id, topic.rsplit("/", 1)[1], payload)

    def _receive(self, name: str, kind: str, payload: bytes) -> None:
        if kind == "telemetry":
            self.telemetry.ingest([(name, payload)])
        with session_scope(self.engine) as session:
            if kind == "state":
                apply_state(session, name, payload)
            elif kind == "event":
                apply_event(session, name, payload)
            session.get_one(Device, name).last_seen_at = self.now

    # ---- as an MQTT client, for the outbox

    def wait_connected(self, timeout_s: float = 0) -> None: ...

    def publish_all(self, messages: Iterable[tuple[str, bytes, bool, int]], timeout_s: float = 0) -> int:
        sent = list(messages)
        for topic, payload, *_ in sent:
            for device in self.devices:
                device.broker.publish(topic, payload)
        return len(sent)

    def publish_on(self, connection: int, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        return True

    # ---- what became of it

    def entries(self, component: str) -> dict[str, DesiredEntry]:
        with session_scope(self.engine, read_only=True) as session:
            rows = session.exec(select(DesiredEntry).where(DesiredEntry.component == component)).all()
        return {row.device_id: row for row in rows}

    def statuses(self, rollout: int) -> set[str]:
        with session_scope(self.engine, read_only=True) as session:
            return set(session.exec(select(RolloutMember.status).where(RolloutMember.rollout_id == rollout)))

    def answer(self) -> bool:
        """Every device runs the model, whatever its firmware."""
        return all(device.answering == MODEL_IMAGE.id and device.infer()[0] == 0 for device in self.devices)


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Field]:
    """Devices that run the model, and a firmware of the factory."""
    field = Field(tmp_path)
    assert field.run(field.start("digits", "v1")) == "promoted"
    yield field
    field.telemetry.close()
    field.engine.dispose()


def test_a_promoted_firmware_is_undone(field: Field) -> None:
    first, second = firmware_release(1, 1), firmware_release(2, 2)
    for version, item in (("v1", first), ("v2", second)):
        field.push(version, item.image)
        rollout = field.start("app", version)
        assert field.run(rollout) == "promoted"
        assert all(device.runs(item) for device in field.devices)
    with session_scope(field.engine) as session:
        request(session, rollout, "undo")
    for _ in range(40):
        field.step()
    assert field.statuses(rollout) == {"undone"}
    assert all(device.runs(first) for device in field.devices)
    assert field.answer()


def test_a_good_firmware_is_promoted_and_a_bad_one_comes_back(field: Field) -> None:
    first, second = firmware_release(1, 1), firmware_release(2, 2)
    field.push("v1", first.image)
    before = field.entries("model/0")
    good = field.start("app", "v1")
    assert field.run(good) == "promoted"
    assert all(device.runs(first) for device in field.devices)
    assert field.answer()
    assert field.entries("model/0") == before, "the model's entries were taken over"
    assert field.statuses(good) == {"confirmed"}
    with session_scope(field.engine) as session:
        assert explain(session, good)["equal"]

    field.push("v2", second.image)
    for device in field.devices:
        device.self_test = -1  # asked only while a firmware is on trial
    bad = field.start("app", "v2")
    assert field.run(bad) == "rolled_back"
    for _ in range(10):
        field.step()
    assert all(device.runs(first) for device in field.devices)
    assert field.answer()
    assert field.statuses(bad) == {"undone", "skipped"}
    assert {row.rollout_id for row in field.entries("firmware").values()} <= {good, bad}
    with session_scope(field.engine, read_only=True) as session:
        assert "threw it out" in session.get_one(Rollout, bad).reason
