"""Files that are there whole or not at all, private from the first byte."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tinyfleet_service.errors import StorageError

PRIVATE = 0o600
PUBLIC = 0o644


def write_file(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """Replace `path` by `data` in one step. Raises StorageError, and leaves what was there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, mode)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            next="free disk space or check permissions; nothing was changed",
            path=str(path),
        ) from error


def write_private(path: Path, data: bytes) -> None:
    """`write_file` for secrets: readable by the owner only."""
    write_file(path, data, PRIVATE)
