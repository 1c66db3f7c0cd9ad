"""Bring a backup back, into a directory that is not there yet.

Every project of the restored database is frozen: the fleet may have moved on since the backup, and an operator should
look before devices are told anything. Once the freeze ends, devices that report a higher sequence than the database
knows are assigned anew, above it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

from sqlmodel import select

from tinyfleet_service.data_dir import DataDir
from tinyfleet_service.database.blobs import is_digest
from tinyfleet_service.database.engine import make_engine, session_scope
from tinyfleet_service.database.models import Lease, Project, utc_now
from tinyfleet_service.database.object_blobs import open_blobs
from tinyfleet_service.errors import ConflictError, CorruptError, InvalidInputError, SettingsError, StorageError
from tinyfleet_service.maintenance.backup import DATABASES, FILES, FOLDERS, FORMAT, MANIFEST
from tinyfleet_service.rollouts import freeze
from tinyfleet_service.schema import upgrade
from tinyfleet_service.settings import Settings, load_settings

MAX_MANIFEST_BYTES = 256 << 20


def restore(file: Path, data: Path, *, database: bool = False) -> dict[str, Any]:
    """Unpack `file` as the data directory `data`; when it was made and what it holds.

    With `database` the settings name a PostgreSQL database that was restored already: it is migrated and frozen too.

    Blobs of the backup go to the bucket where the settings name one; `blobs_left_in` of the answer is the bucket that
    the backup left them in.

    Raises ConflictError when `data` is there and not empty, InvalidInputError or CorruptError for a file that is no
    whole backup, StorageError. Until everything is checked nothing stands at `data`.
    """
    if data.exists() and any(data.iterdir()):
        raise ConflictError(
            f"{data} is not empty", next="restore into a new directory, or move this one away", path=str(data)
        )
    new = data.with_name(data.name + ".restoring")
    shutil.rmtree(new, ignore_errors=True)
    try:
        manifest = _unpack(file, new)
        frozen = _prepare(new, manifest, database)
        _fill_bucket(load_settings(new))
        if data.exists():
            data.rmdir()
        os.replace(new, data)
    except OSError as error:
        raise StorageError(f"cannot restore to {data}: {error.strerror or error}", next="free disk space") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    found = {"made_at": manifest["at"], "files": len(manifest["files"]), "frozen_projects": frozen}
    return {**found, "blobs_left_in": str(manifest.get("blobs_left_in", ""))}


def _fill_bucket(settings: Settings) -> None:
    """Move blobs that were unpacked to the bucket of the settings. What it has already is not sent again."""
    if settings.blobs:
        store = open_blobs(settings)
        for path in [path for path in settings.dirs.blobs.glob("*/*") if is_digest(path.name)]:
            store.put(path.read_bytes())
            path.unlink()


def _unpack(file: Path, new: Path) -> dict[str, Any]:
    try:
        with tarfile.open(file, mode="r:") as archive:
            manifest = _manifest(archive)
            DataDir(new).create()
            for name, digest in manifest["files"].items():
                _unpack_one(archive, new, name, digest)
            return manifest
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise InvalidInputError(f"{file} is no whole backup: {error}", next="use another backup") from error


def _manifest(archive: tarfile.TarFile) -> dict[str, Any]:
    entry = archive.getmember(MANIFEST)
    source = archive.extractfile(entry) if entry.isfile() and entry.size <= MAX_MANIFEST_BYTES else None
    try:
        document = json.loads(source.read()) if source else None
    except ValueError as error:
        raise CorruptError(f"the backup's {MANIFEST} is damaged", next="use another backup") from error
    if not isinstance(document, dict) or not isinstance(document.get("files"), dict) or "at" not in document:
        raise CorruptError(f"the backup's {MANIFEST} is damaged", next="use another backup")
    if document.get("format") != FORMAT:
        raise InvalidInputError("the backup has another format", next="restore it with the tinyfleet that made it")
    return document


def _unpack_one(archive: tarfile.TarFile, new: Path, name: str, digest: str) -> None:
    """Only names that a backup has, and only bytes that are what the manifest says."""
    path = PurePosixPath(name)
    known = (path.parts[0] in FOLDERS and len(path.parts) > 1) or name in (*FILES, *DATABASES)
    if not known or ".." in path.parts or path.is_absolute():
        raise CorruptError(f"the backup names {name!r}", next="use another backup", name=name)
    entry = archive.getmember(name)
    source = archive.extractfile(entry) if entry.isfile() else None
    data = source.read() if source else b""
    if hashlib.sha256(data).hexdigest() != digest:
        raise CorruptError(f"{name} is damaged in the backup", next="use another backup", name=name)
    target = new / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _prepare(new: Path, manifest: dict[str, Any], database: bool) -> int:
    """Migrate the restored database and freeze its projects; how many."""
    settings = load_settings(new)
    if DATABASES[0] in manifest["files"]:
        settings = settings.model_copy(update={"database_url": ""})
    elif not database:
        return 0
    elif not settings.database_url:
        raise SettingsError(
            "which database was restored?", next="set TINYFLEET_DATABASE_URL to the one that pg_restore filled"
        )
    upgrade(settings)
    engine = make_engine(settings)
    try:
        with session_scope(engine) as session:
            ids = [project_id for project_id in session.exec(select(Project.id)) if project_id is not None]
            for project_id in ids:
                freeze(session, project_id, f"restore of the backup of {manifest['at'][:19]}")
            for lease in session.exec(select(Lease)):  # whoever held it then does not hold it here
                lease.owner, lease.until = "", utc_now()
                session.add(lease)
        return len(ids)
    finally:
        engine.dispose()
