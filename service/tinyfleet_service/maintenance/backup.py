"""One file with everything that cannot be made again: database, authority, signing keys, blobs, settings.

The database first, the blobs after it: a blob is written before the row that names it, so every row of the copy finds
its blob. The service may run meanwhile. The broker's contents are left out: they follow from the database.
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
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import IO

from tinyfleet_service.data_dir import DataDir
from tinyfleet_service.database.models import utc_now
from tinyfleet_service.errors import ConflictError, SettingsError, StorageError
from tinyfleet_service.settings import Settings

FORMAT = 1
MANIFEST = "backup.json"
FOLDERS = ("pki", "keys", "blobs")
FILES = ("settings.toml", "admin.token")
DATABASES = ("tinyfleet.db", "telemetry.db")


def backup(settings: Settings, out: Path, *, database: bool = True) -> int:
    """Write the backup to `out`, readable by its owner only; how many files it holds.

    Raises ConflictError when `out` is there, SettingsError for a database that is not SQLite, StorageError.
    """
    if database and not settings.url.startswith("sqlite"):
        raise SettingsError(
            "this copies SQLite databases only",
            next="back PostgreSQL up with pg_dump at the same time, and give --without-database here",
        )
    if out.exists():
        raise ConflictError(f"{out} is there already", next="choose another name")
    new = out.with_name(out.name + ".new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            count = _write(settings.dirs, file, database)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, out)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise StorageError(f"cannot write {out}: {error.strerror or error}", next="free disk space") from error
    return count


def _write(dirs: DataDir, file: IO[bytes], database: bool) -> int:
    digests: dict[str, str] = {}
    with tarfile.open(fileobj=file, mode="w") as archive, tempfile.TemporaryDirectory(dir=dirs.path) as folder:
        sources = [*(_databases(dirs, Path(folder)) if database else ()), *_files(dirs)]
        for name, path in sources:
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue  # a blob that was cleaned away meanwhile: nothing needs it
            digests[name] = hashlib.sha256(data).hexdigest()
            _add(archive, name, data)
        manifest = {"format": FORMAT, "tinyfleet": version("tinyfleet"), "at": utc_now().isoformat(), "files": digests}
        _add(archive, MANIFEST, json.dumps(manifest, indent=1).encode())
    return len(digests)


def _databases(dirs: DataDir, folder: Path) -> Iterator[tuple[str, Path]]:
    """Consistent copies, by SQLite's own online backup."""
    for name in DATABASES:
        if not (dirs.path / name).exists():
            continue
        with (
            closing(sqlite3.connect(f"file:{dirs.path / name}?mode=ro", uri=True, timeout=30)) as source,
            closing(sqlite3.connect(folder / name)) as target,
        ):
            source.backup(target)
        yield name, folder / name


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
