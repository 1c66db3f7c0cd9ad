"""A fleet in memory for rollout tests: real database, real plan, tick and publishing; devices and time are simulated.

A device follows its `desired` row as the agent does (download, shadow, test, confirm, back from the second slot),
answers labelled inputs with the accuracy its version has on it, and writes what `apply_state` would write into its
twin.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Engine
from sqlmodel import Session, SQLModel, select

from postgres import create_database
from tinyfleet_ota import FileSigner
from tinyfleet_ota.protocol import SlotState
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import Lease, make_engine, session_scope
from tinyfleet_service.database.keep_lease import LeaseKeeper
from tinyfleet_service.database.models import (
    MODEL,
    Build,
    BuildState,
    DesiredEntry,
    Device,
    Event,
    Model,
    ModelVersion,
    Project,
    Rollout,
    RolloutMember,
    utc_now,
)
from tinyfleet_service.publish import CONTROLLER_LEASE, DirectorKeys
from tinyfleet_service.rollouts import explain, make_plan, parse_spec, request, rollout_view, start_rollout, tick
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import Counters
from tinyfleet_service.telemetry.columns import Columns
from unit.service.fleet_telemetry_builders import plainly

EVENLY = (1.0, 1.0, 1.0, 1.0, 1.0)
CLASSES = ("cortex-m4", "cortex-m0plus")
SITES = ("lyon", "oslo")
IMAGE_BYTES = 6000
LEASE_S = 3600.0
FAST = {
    "min_labels": 60,
    "min_inferences": 60,
    "soak_s": 3.0,
    "deadline_s": 300.0,
    "confirm_min_inferences": 5,
    "confirm_timeout_s": 30,
}


class MemoryTelemetry:
    """In-memory implementation of what rollouts read of telemetry."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, str], Counters] = {}
        self.heard: dict[str, datetime] = {}
        self.cohorts: dict[str, str] = {}

    def read_counters(self, device_ids: Sequence[str], image_id: str) -> dict[str, Counters]:
        return {d: c for d in device_ids if (c := self.counters.get((d, image_id))) is not None}

    def read_columns(self, device_ids: Sequence[str], image_id: str) -> Columns:
        columns: Columns = {}
        for at, device in enumerate(device_ids):
            for key, count in plainly(self.counters.get((device, image_id), Counters())).items():
                columns.setdefault(key, np.zeros(len(device_ids), np.int64))[at] = count
        return columns

    def sum_counters(self, device_ids: Sequence[str], image_id: str) -> Counters:
        return sum(self.read_counters(device_ids, image_id).values(), Counters())

    def last_heard(self, device_ids: Sequence[str]) -> dict[str, datetime]:
        return {d: self.heard[d] for d in device_ids if d in self.heard}

    def totals(self) -> dict[str, Counters]:
        sums: dict[str, Counters] = {}
        for (_, image), counters in self.counters.items():
            sums[image] = sums.get(image, Counters()) + counters
        return sums

    def set_cohorts(self, cohorts: Mapping[str, str]) -> None:
        self.cohorts |= cohorts

    def add(self, device: str, image: str, **gain: Any) -> None:
        self.counters[(device, image)] = self.counters.get((device, image), Counters()) + Counters(**gain)


@dataclass
class SimDevice:
    """One component of a simulated device; `slots` are (state, image, reason). `beside`: the device's other ones."""

    id: str
    device_class: str
    difficulty: float
    slots: list[list[Any]] = field(default_factory=lambda: [["EMPTY", None, "NONE"], ["EMPTY", None, "NONE"]])
    active: int | None = None
    sequence: int = 0
    wait: int = 0
    off: bool = False
    tested: int = 0
    component: str = "model/0"
    beside: list[SimDevice] = field(default_factory=list)

    @property
    def parts(self) -> list[SimDevice]:
        return [self, *self.beside]

    def slot_of(self, image: str) -> int | None:
        return next((i for i, s in enumerate(self.slots) if s[1] == image), None)


class Fleet:
    """Database, devices and a clock of one second per step."""

    def __init__(
        self, path: Path, devices: int = 60, seed: int = 1, database_url: str = "", components: Sequence[str] = (MODEL,)
    ) -> None:
        self.components = tuple(components)
        self.settings = Settings(data=path, database_url=database_url, **FAST)
        self.settings.dirs.create()
        self.engine: Engine = make_engine(self.settings)
        SQLModel.metadata.create_all(self.engine)
        self.store = BlobStore(self.settings.dirs.blobs)
        self.keys = DirectorKeys(FileSigner.generate(), 1, ec.generate_private_key(ec.SECP256R1()))
        self.telemetry = MemoryTelemetry()
        self.random = random.Random(seed)
        self.answers_random = random.Random(seed)
        self.now = utc_now()
        self.silence_from: datetime | None = None
        self.owner = "test"
        self.fence = Lease.acquire(self.engine, CONTROLLER_LEASE, self.owner, LEASE_S) or 0
        self.accuracy: dict[str, float] = {}
        self.latency_bucket: dict[str, int] = {}
        self.labels = True
        self.answers: dict[str, Sequence[float]] = {}
        self.agreement: dict[str, float] = {}
        self.golden_fails: set[str] = set()
        self.misbehave: Callable[[SimDevice, str], bool] | None = None
        self.downloads: list[tuple[str, str]] = []
        self.devices: list[SimDevice] = []
        with session_scope(self.engine) as session:
            session.add(Project(id=1, name="default"))
            session.flush()
            for number, component in enumerate(self.components):
                name = f"model{number or ''}"
                session.add(Model(id=number + 1, project_id=1, name=name, component=component))
        for number in range(devices):
            self.enrol(f"dev-{number:03}", CLASSES[number % 2], SITES[(number // 2) % 2])

    def copy(self, path: Path) -> Fleet:
        """This fleet once more, as it stands, in a directory of its own: database, blobs, devices, clock and chance."""
        self.engine.dispose()  # a database that somebody uses cannot be copied
        values = self.settings.model_dump() | {"data": path}
        if self.engine.dialect.name == "postgresql":
            values["database_url"] = create_database(self.settings.url, template=str(self.engine.url.database))
        shutil.copytree(self.settings.data, path, ignore=shutil.ignore_patterns("settings.toml"), dirs_exist_ok=True)
        twin = copy.copy(self)
        twin.settings = Settings(**values)
        twin.engine = make_engine(twin.settings)
        twin.store = BlobStore(twin.settings.dirs.blobs)
        for name, value in vars(self).items():
            if name not in ("settings", "engine", "store", "keys"):
                setattr(twin, name, copy.deepcopy(value))
        return twin

    # ---- the fleet's contents

    def enrol(self, device_id: str, device_class: str, site: str) -> SimDevice:
        difficulty = self.random.uniform(-0.06, 0.06)
        device, *device.beside = [SimDevice(device_id, device_class, difficulty, component=c) for c in self.components]
        self.devices.append(device)
        with session_scope(self.engine) as session:
            session.add(
                Device(
                    id=device_id, project_id=1, device_class=device_class, tags={"site": site}, report_interval_s=1,
                    reported_at=self.now, last_seen_at=self.now, director_epoch=1,
                )
            )  # fmt: skip
        return device

    def push(
        self,
        version: str,
        accuracy: float,
        classes: Sequence[str] = CLASSES,
        server: float = 0.9,
        component: str = MODEL,
    ) -> None:
        """Register a version whose accuracy in the field is `accuracy`, with a signed build per class."""
        with session_scope(self.engine) as session:
            row = ModelVersion(
                model_id=1 + self.components.index(component), version=version, model_sha256=version * 32, model_bytes=1
            )
            session.add(row)
            session.flush()
            for device_class in classes:
                image = self.random.randbytes(IMAGE_BYTES)
                manifest = f"manifest {version} {device_class}".encode()
                session.add(
                    Build(
                        version_id=row.id, device_class=device_class, state=BuildState.READY,
                        image_sha256=self.store.put(image), image_bytes=len(image), abi=1, manifest=manifest,
                        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
                        report={"accuracy": {"quantized": server}, "fits": {"shadow": True}},
                    )
                )  # fmt: skip
        self.accuracy[version] = accuracy

    def images(self, version: str) -> set[str]:
        with session_scope(self.engine, read_only=True) as session:
            row = session.exec(select(ModelVersion).where(ModelVersion.version == version)).one()
            builds = session.exec(select(Build).where(Build.version_id == row.id))
            return {str(b.image_sha256)[:32] for b in builds}

    # ---- rollouts

    def start(self, version: str, model: str = "model", **spec: Any) -> int:
        with session_scope(self.engine) as session:
            plan = make_plan(session, parse_spec({"model": model, "version": version, **spec}, self.settings))
            return start_rollout(session, plan, now=self.now).id or 0

    def ask(self, rollout_id: int, verb: str) -> None:
        with session_scope(self.engine) as session:
            request(session, rollout_id, verb)

    def tick(self) -> None:
        """One tick, so slow that the lease is renewed wherever it is kept."""
        keep = LeaseKeeper(
            self.engine, CONTROLLER_LEASE, self.fence, LEASE_S, clock=itertools.count(0.0, LEASE_S).__next__
        )
        since = self.silence_from
        tick(self.engine, self.store, self.telemetry, self.keys, self.fence, self.now, keep=keep, silence_from=since)

    def run(
        self, rollout_id: int, seconds: int = 120, until: Sequence[str] = ("promoted", "rolled_back", "held")
    ) -> str:
        """Step until the rollout is in one of the states; its state."""
        for _ in range(seconds):
            self.step()
            self.tick()
            if (state := self.rollout(rollout_id).state) in until:
                return state
        return self.rollout(rollout_id).state

    def settle(self, seconds: int = 15) -> None:
        for _ in range(seconds):
            self.step()
            self.tick()

    def rollout(self, rollout_id: int) -> Rollout:
        with session_scope(self.engine, read_only=True) as session:
            row = session.get(Rollout, rollout_id)
            assert row is not None
            return row

    def members(self, rollout_id: int) -> list[RolloutMember]:
        with session_scope(self.engine, read_only=True) as session:
            return list(session.exec(select(RolloutMember).where(RolloutMember.rollout_id == rollout_id)))

    def view(self, rollout_id: int) -> dict[str, Any]:
        with session_scope(self.engine, read_only=True) as session:
            view = rollout_view(session, rollout_id, self.telemetry)
        return json.loads(json.dumps(view))

    def explain(self, rollout_id: int) -> dict[str, Any]:
        with session_scope(self.engine, read_only=True) as session:
            return explain(session, rollout_id)

    def running(self, version: str) -> list[str]:
        images = self.images(version)
        parts = [part for device in self.devices for part in device.parts]
        return [d.id for d in parts if d.active is not None and d.slots[d.active][1] in images]

    # ---- devices

    def step(self) -> None:
        """One second of every device's life."""
        self.now += timedelta(seconds=1)
        with session_scope(self.engine) as session, session.no_autoflush:
            # Held, so that every `session.get` below finds its row without asking the database.
            held = [*session.exec(select(Device)), *session.exec(select(Build))]
            wanted = {(row.device_id, row.component): row for row in session.exec(select(DesiredEntry))}
            versions = self._versions(session)
            for device in self.devices:
                if device.off:
                    continue
                for part in device.parts:
                    self._follow(session, part, wanted.get((part.id, part.component)))
                    self._infer(part, versions)
                if self.misbehave and self.misbehave(device, self._phase(device)):
                    continue
                self._report(session, device)
            del held

    def _versions(self, session: Session) -> dict[str, str]:
        rows = session.exec(select(Build, ModelVersion).where(Build.version_id == ModelVersion.id))
        return {str(build.image_sha256)[:32]: version.version for build, version in rows}

    def _phase(self, device: SimDevice) -> str:
        return "/".join(str(slot[0]) for slot in device.slots)

    def _follow(self, session: Session, device: SimDevice, desired: DesiredEntry | None) -> None:
        if desired is None:
            self._drop_others(device, "")
            return
        fresh = desired.sequence > device.sequence
        device.sequence = max(device.sequence, desired.sequence)
        build = session.get(Build, desired.build_id)
        assert build is not None
        image = str(build.image_sha256)[:32]
        slot = device.slot_of(image)
        if fresh:
            self._drop_others(device, image)
        if slot is not None and slot == device.active:
            if device.slots[slot][0] == "TESTING":
                device.tested += 10
                if device.tested >= 10:
                    device.slots[slot][0] = "CONFIRMED"
            return
        if slot is None or (fresh and device.slots[slot][0] == "REJECTED" and not self._kept(device, slot)):
            self._begin(device, image)
        elif device.slots[slot][0] == "WRITING":
            self._download(session, device, slot, image, desired)
        elif device.slots[slot][0] in ("STAGED", "SHADOW", "CONFIRMED") or self._kept(device, slot):
            self._advance(device, slot, image, desired.until)

    def _kept(self, device: SimDevice, slot: int) -> bool:
        return device.slots[slot][2] == "UNDONE"

    def _drop_others(self, device: SimDevice, image: str) -> None:
        for index, slot in enumerate(device.slots):
            if slot[1] != image and index != device.active and slot[0] in ("SHADOW", "STAGED"):
                slot[0], slot[2] = "REJECTED", "UNDONE"
            elif slot[1] != image and slot[0] == "WRITING":
                slot[0], slot[1], slot[2] = "EMPTY", None, "NONE"

    def _begin(self, device: SimDevice, image: str) -> None:
        index = 0 if device.active is None else 1 - device.active
        device.slots[index] = ["WRITING", image, "NONE"]
        device.wait = self.random.randint(1, 2)

    def _download(self, session: Session, device: SimDevice, slot: int, image: str, desired: DesiredEntry) -> None:
        device.wait -= 1
        if device.wait > 0:
            return
        device.slots[slot][0] = "STAGED"
        self.downloads.append((device.id, image))
        session.add(
            Event(
                project_id=1, device_id=device.id, boot=1, number=len(self.downloads), kind="slot", at=self.now,
                detail={"image": image, "to": "STAGED", "received_bytes": 2000},
            )
        )  # fmt: skip

    def _advance(self, device: SimDevice, slot: int, image: str, until: int) -> None:
        if image in self.golden_fails:
            device.slots[slot] = ["REJECTED", image, "GOLDEN_FAILED"]
        elif until == SlotState.SHADOW:
            device.slots[slot][0] = "SHADOW"
        else:
            if device.active is not None:
                old = device.slots[device.active]
                old[0], old[2] = (
                    ("REJECTED", "UNDONE") if device.slots[slot][0] == "CONFIRMED" else ("CONFIRMED", "NONE")
                )
            device.slots[slot] = ["TESTING", image, "NONE"]
            device.active, device.tested = slot, 0

    def _infer(self, device: SimDevice, versions: dict[str, str]) -> None:
        if device.active is None:
            return
        image = device.slots[device.active][1]
        labels = self.random.randint(12, 18)
        shadow = next((s[1] for i, s in enumerate(device.slots) if s[0] == "SHADOW" and i != device.active), None)
        right = [self.random.random() < self._skill(device, versions[image]) for _ in range(labels)]
        bucket = self.latency_bucket.get(versions[image], 40)
        truth = {"labelled": labels, "correct": sum(right)} if self.labels else {}
        self.telemetry.add(
            device.id, image, inferences=labels, active_s=1, latency_histogram={bucket: labels},
            predictions=self._answered(versions[image], labels), confidence_histogram={9: labels}, **truth,
        )  # fmt: skip
        if shadow is not None:
            skill = self._skill(device, versions[shadow])
            pairs = [0, 0, 0, 0]
            for active_right in right:
                pairs[(0 if self.random.random() < skill else 1) + (0 if active_right else 2)] += 1
            agreement = self.agreement.get(versions[shadow], 0.97)
            same = sum(self.answers_random.random() < agreement for _ in range(labels))
            told = tuple(pairs) if self.labels else (0, 0, 0, 0)
            self.telemetry.add(device.id, shadow, shadow_inferences=labels, shadow_agree=same, shadow_pairs=told)

    def _answered(self, version: str, count: int) -> dict[int, int]:
        """Answers by class, drawn by the version's weights."""
        weights = self.answers.get(version, EVENLY)
        return dict(Counter(self.answers_random.choices(range(len(weights)), weights, k=count)))

    def _skill(self, device: SimDevice, version: str) -> float:
        return self.accuracy[version] + device.difficulty

    def _report(self, session: Session, device: SimDevice) -> None:
        row = session.get(Device, device.id)
        assert row is not None
        row.reported = {
            "director_epoch": 1,
            "sequence": max(part.sequence for part in device.parts),
            "components": [
                {
                    "component": part.component,
                    "active": part.active,
                    "slots": [{"state": s, "image": i, "reason": r} for s, i, r in part.slots],
                }
                for part in device.parts
            ],
        }
        row.reported_sequence, row.reported_at, row.last_seen_at = row.reported["sequence"], self.now, self.now
        row.active_image = device.slots[device.active][1] if device.active is not None else None
        self.telemetry.heard[device.id] = self.now
        session.add(row)
