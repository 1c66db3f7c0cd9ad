"""A fleet with signing keys, signed builds and enrolled devices, ready to publish."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine
from sqlmodel import Session

from integration.fleet_database import CLASS, PROJECT, make_database
from integration.fleet_support import make_settings
from tinyfleet_ota import make_release
from tinyfleet_ota.protocol import SlotState
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import Lease, session_scope
from tinyfleet_service.database.models import Build, BuildState, DesiredEntry, Device, Model, ModelVersion
from tinyfleet_service.devices import apply_state
from tinyfleet_service.keys import ensure_keys, load_signer
from tinyfleet_service.publish import CONTROLLER_LEASE, DirectorKeys, load_director
from tinyfleet_service.settings import Settings
from unit.service.fleet_state_builders import slot, state

BASE_IMAGE = os.urandom(6000)


def image_like_base(changes: int) -> bytes:
    """An image that differs from the base in a few bytes, so that a delta pays."""
    image = bytearray(BASE_IMAGE)
    for n in range(changes):
        image[n * 97 % len(image)] ^= 1
    return bytes(image)


@dataclass
class FleetHouse:
    settings: Settings
    engine: Engine
    store: BlobStore
    keys: DirectorKeys
    fence: int
    builds: dict[str, int]

    def build(self, session: Session, version: str) -> Build:
        build = session.get(Build, self.builds[version])
        assert build is not None
        return build

    def device(self, session: Session, device_id: str) -> Device:
        device = session.get(Device, device_id)
        assert device is not None
        return device

    def entry(self, device_id: str, component: str = "model/0") -> DesiredEntry:
        with session_scope(self.engine, read_only=True) as session:
            return session.get_one(DesiredEntry, (device_id, component))

    def image_id(self, version: str) -> bytes:
        with session_scope(self.engine, read_only=True) as session:
            return bytes.fromhex(self.build(session, version).image_sha256 or "")[:16]

    def report(self, device_id: str, running: str | None, other: bytes | None = None, **values: object) -> None:
        """Apply a `state` in which the device runs `running` from slot 0."""
        image = self.image_id(running) if running else None
        first = slot(SlotState.CONFIRMED, image) if running else slot()
        second = slot(SlotState.CONFIRMED, other) if other else slot()
        payload = state(slots=[first, second], active=0 if running else None, **values)
        with session_scope(self.engine) as session:
            apply_state(session, device_id, payload)

    def add_build(
        self,
        session: Session,
        version: str,
        image: bytes,
        device_class: str = CLASS,
        *,
        model_id: int = 1,
        component: str = "model/0",
    ) -> int:
        counter = len(self.builds) + 1
        row = ModelVersion(model_id=model_id, version=version, model_sha256="", model_bytes=0)
        session.add(row)
        session.flush()
        manifest = make_release(
            image,
            device_class=device_class,
            abi=1,
            release_counter=counter,
            security_floor=0,
            component=component,
            version=version,
            signer=load_signer(self.settings, "release"),
        )
        build = Build(
            version_id=row.id or 0,
            device_class=device_class,
            state=BuildState.READY,
            image_sha256=self.store.put(image),
            image_bytes=len(image),
            abi=1,
            release_counter=counter,
            manifest=manifest,
            manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        )
        session.add(build)
        session.flush()
        self.builds[version] = build.id or 0
        return self.builds[version]


def make_house(path: Path, devices: tuple[str, ...] = ("m4-a", "m4-b"), database_url: str = "") -> FleetHouse:
    settings = make_settings(path, database_url=database_url)
    ensure_keys(settings)
    engine = make_database(settings)
    fence = Lease.acquire(engine, CONTROLLER_LEASE, "test", 3600)
    house = FleetHouse(settings, engine, BlobStore(settings.dirs.blobs), load_director(settings), fence or 0, {})
    with session_scope(engine) as session:
        session.add(Model(id=1, project_id=PROJECT, name="digits"))
        session.flush()
        house.add_build(session, "v1", BASE_IMAGE)
        house.add_build(session, "v2", image_like_base(40))
        house.add_build(session, "v3", os.urandom(5000))
        house.add_build(session, "v4", bytes(os.urandom(1)[0] % 8 for _ in range(6000)))
        house.add_build(session, "m0", os.urandom(500), "cortex-m0plus")
        for device_id in devices:
            session.add(Device(id=device_id, project_id=PROJECT, device_class=CLASS))
    return house
