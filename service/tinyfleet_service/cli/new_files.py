"""Files that a command makes: all of them or none, readable by their owner alone, never in place of another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tinyfleet_service.errors import ConflictError, StorageError


class NewFiles:
    """Reserves empty files at the start of a `with` block, so that what cannot be made twice is not made in vain.

    They are removed again when the block ends by an exception. Raises ConflictError when one is there already,
    StorageError when the folder cannot be written to.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self._paths = [folder / name for name in names]
        self._made: list[Path] = []

    def __enter__(self) -> NewFiles:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self._paths:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                self._made.append(path)
        except FileExistsError as error:
            self._remove()
            raise ConflictError(f"{error.filename} is there already", next="name another folder") from error
        except OSError as error:
            self._remove()
            raise StorageError(
                f"cannot write to {self._folder}: {error.strerror}", next="name another folder"
            ) from error
        return self

    def write(self, contents: Sequence[bytes]) -> None:
        """Fill the files, in the order of their names. Raises StorageError."""
        try:
            for path, content in zip(self._paths, contents, strict=True):
                path.write_bytes(content)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}", next="free disk space, then repeat") from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self._remove()

    def _remove(self) -> None:
        for path in self._made:
            path.unlink(missing_ok=True)
