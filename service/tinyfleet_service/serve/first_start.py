"""What must be there before any process starts. Every step keeps what it finds, so each start runs all of them."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sqlmodel import Session, select

from tinyfleet_service.auth import ensure_admin, ensure_project
from tinyfleet_service.broker import Pki
from tinyfleet_service.database.engine import make_engine, session_scope
from tinyfleet_service.database.migrate import upgrade
from tinyfleet_service.database.models import Device
from tinyfleet_service.devices import write_revocations
from tinyfleet_service.errors import SettingsError, StartError
from tinyfleet_service.keys import ensure_keys, key_folder
from tinyfleet_service.registry import ensure_device_classes
from tinyfleet_service.settings import Settings

BROKER_END_S = 5.0


def prepare(settings: Settings) -> None:
    """Folders, schema, project, administrator's token, certificates, signing keys. Raises FleetError subclasses."""
    settings.dirs.create()
    engine = make_engine(settings)
    try:
        upgrade(engine)
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


def take_data_directory(settings: Settings) -> IO[str]:
    """Hold the directory until the file is closed. Raises StartError when another `serve` has it."""
    settings.dirs.create()
    file = settings.dirs.lock.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise StartError(
            f"a `serve` (process {owner}) already runs on {settings.dirs.path}",
            next="use that one, stop it, or choose another directory with --data",
            pid=owner,
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


@contextmanager
def standing_still(settings: Settings) -> Iterator[Settings]:
    """For work on a data directory that no `serve` may use meanwhile. Raises StartError when one does."""
    file = take_data_directory(settings)
    try:
        yield settings
    finally:
        file.close()


def end_leftover_broker(settings: Settings) -> None:
    """A `serve` killed with -9 leaves its broker behind, which would keep the port: end it, if it is really ours."""
    try:
        pid = int((settings.dirs.broker / "mosquitto.pid").read_text())
    except (OSError, ValueError):
        return
    until = time.monotonic() + BROKER_END_S
    while _is_our_broker(pid, settings):
        os.kill(pid, signal.SIGTERM if time.monotonic() < until else signal.SIGKILL)
        time.sleep(0.1)


def _is_our_broker(pid: int, settings: Settings) -> bool:
    """By its command line, because the number may belong to somebody else by now."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(str(settings.dirs.broker).encode() in part for part in command)
