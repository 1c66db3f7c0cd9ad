"""What must be there before any process starts. Every step keeps what it finds, so each start runs all of them."""

from __future__ import annotations

from sqlmodel import Session, select

from tinyfleet_service.auth import ensure_admin, ensure_project
from tinyfleet_service.broker import Pki
from tinyfleet_service.database.engine import make_engine, session_scope
from tinyfleet_service.database.models import Device
from tinyfleet_service.devices import write_revocations
from tinyfleet_service.errors import SettingsError
from tinyfleet_service.keys import ensure_keys, key_folder
from tinyfleet_service.registry import ensure_device_classes
from tinyfleet_service.schema import upgrade
from tinyfleet_service.settings import Settings


def prepare(settings: Settings) -> None:
    """Folders, schema, project, administrator's token, certificates, signing keys. Raises FleetError subclasses."""
    settings.dirs.create()
    upgrade(settings)
    engine = make_engine(settings)
    try:
        ensure_admin(engine, settings)
        with session_scope(engine) as session:
            project = ensure_project(session, settings.project)
            assert project.id is not None
            ensure_device_classes(session, project.id, settings.device_classes, encrypted=settings.encrypt_images)
            _check_keys(session, settings)
        write_revocations(engine, Pki.create(settings))
    finally:
        engine.dispose()
    ensure_keys(settings)


def _check_keys(session: Session, settings: Settings) -> None:
    """New keys are for a fleet that begins: devices follow the root 1 that came with their firmware, and no other."""
    if not key_folder(settings).count_roots() and session.exec(select(Device.id).limit(1)).first() is not None:
        raise SettingsError(
            f"no root 1 in {settings.dirs.keys}, but devices in the database, which follow no other",
            next="restore the keys folder from a backup, or begin with a new data directory and firmware",
        )
