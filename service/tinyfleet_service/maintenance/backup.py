"""One file with everything that cannot be made again: database, authority, signing keys, blobs, settings.

The database first, the blobs after it: a blob is written before the row that names it, so every row of the copy finds
its blob. The service may run meanwhile. The broker's contents are left out: they follow from the database. Blobs in a
bucket are copied, or left to the bucket's own versions or replica, as the operator says; the manifest tells which.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import IO

from tinyfleet_service.data_dir import DataDir
from tinyfleet_service.database.blobs import blob_key
from tinyfleet_service.database.models import utc_now
from tinyfleet_service.database.object_blobs import ObjectBlobs, open_blobs
from tinyfleet_service.errors import ConflictError, NotFoundError, SettingsError, StorageError
from tinyfleet_service.settings import Settings

FORMAT = 1
MANIFEST = "backup.json"
FOLDERS = ("pki", "keys", "blobs")
FILES = ("settings.toml", "admin.token")
DATABASES = ("tinyfleet.db", "telemetry.db")


def backup(settings: Settings, out: Path, *, database: bool = True, blobs: bool | None = None) -> int:
    """Write the backup to `out`, readable by its owner only; how many files it holds.

    `blobs` says what becomes of those in a bucket. Raises ConflictError when `out` is there, SettingsError where no
    service is, for a database that is not SQLite and for a bucket that nobody decided about, StorageError.
    """
    _check_blobs(settings, blobs)
    if database and not settings.url.startswith("sqlite"):
        raise SettingsError(
            "this copies SQLite databases only",
            next="back PostgreSQL up with pg_dump at the same time, and give --without-database here",
        )
    if out.exists():
        raise ConflictError(f"{out} is there already", next="choose another name")
    if not (settings.dirs.database if database else settings.dirs.keys).exists():
        raise SettingsError(f"{settings.dirs.path} holds no service", next="name its data directory with --data")
    new = out.with_name(out.name + ".new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            count = _write(settings, file, out.parent, database, bool(blobs))
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, out)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}", next="free disk space") from error
    except sqlite3.Error as error:
        advice = "free disk space there; for a database that cannot be read see `fleetctl doctor`"
        raise StorageError(f"cannot copy the databases to {out.parent}: {error}", next=advice) from error
    finally:
        new.unlink(missing_ok=True)  # half a backup holds secrets too
    return count


def _check_blobs(settings: Settings, blobs: bool | None) -> None:
    if settings.blobs and blobs is None:
        raise SettingsError(
            f"the blobs are in {settings.blobs}: without them this is no whole backup",
            next="--with-blobs copies them, --without-blobs leaves them to the bucket's own versions or replica",
        )
    if not settings.blobs and blobs is False:
        raise SettingsError("the blobs are in the data directory", next="leave --without-blobs out: they are copied")


def _write(settings: Settings, file: IO[bytes], beside: Path, database: bool, bucket: bool) -> int:
    """What needs a copy first gets it `beside` the backup: the service's own disk may be full."""
    digests: dict[str, str] = {}
    dirs = settings.dirs
    with tarfile.open(fileobj=file, mode="w") as archive, tempfile.TemporaryDirectory(dir=beside) as name:
        folder = Path(name)
        copies = _databases(dirs, folder) if database else ()
        for name, path in chain(copies, _files(dirs), _bucket(settings, folder) if bucket else ()):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue  # a blob that was cleaned away meanwhile: nothing needs it
            digests[name] = hashlib.sha256(data).hexdigest()
            _add(archive, name, data)
        manifest = {"format": FORMAT, "tinyfleet": version("tinyfleet"), "at": utc_now().isoformat(), "files": digests}
        manifest["blobs_left_in"] = "" if bucket else settings.blobs
        _add(archive, MANIFEST, json.dumps(manifest, indent=1).encode())
    return len(digests)


def _databases(dirs: DataDir, folder: Path) -> Iterator[tuple[str, Path]]:
    """Consistent copies, by SQLite's own online backup."""
    for name in DATABASES:
        if not (dirs.path / name).exists():
            continue
        _copy(dirs.path / name, folder / name)
        yield name, folder / name


def _copy(path: Path, target: Path) -> None:
    """A full disk has no room for the index that reading a log makes, even of none; nobody can write there either."""
    try:
        _copy_as(path, target, "mode=ro")
    except sqlite3.OperationalError:
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise
        _copy_as(path, target, "mode=ro&immutable=1")


def _copy_as(path: Path, target: Path, how: str) -> None:
    with (
        closing(sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, timeout=30)) as source,
        closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)


def _bucket(settings: Settings, folder: Path) -> Iterator[tuple[str, Path]]:
    """Blobs of the bucket, one after the other in the same file."""
    store = open_blobs(settings)
    if isinstance(store, ObjectBlobs):
        for digest in store.digests():
            with suppress(NotFoundError):  # cleaned away meanwhile: nothing needs it
                store.place(digest, folder / "blob")
                yield f"blobs/{blob_key(digest)}", folder / "blob"


def _files(dirs: DataDir) -> Iterator[tuple[str, Path]]:
    for name in FILES:
        if (dirs.path / name).is_file():
            yield name, dirs.path / name
    for name in FOLDERS:
        for path in sorted((dirs.path / name).rglob("*")):
            if path.is_file() and "incoming" not in path.parts:
                yield str(path.relative_to(dirs.path)), path


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o600
    archive.addfile(entry, io.BytesIO(data))
