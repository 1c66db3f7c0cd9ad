"""Content-addressed bytes in a local directory: `<root>/<2 hex>/<64 hex>`. A blob is there whole or not at all.

`object_blobs.py` keeps the same blobs in S3-compatible storage.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tinyfleet_service.errors import CorruptError, NotFoundError, StorageError, TooLargeError

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredBlob:
    """What a streamed upload became."""

    sha256: str
    size_bytes: int


class Incoming:
    """Bytes on their way in: counted, hashed, not yet visible to anybody."""

    def __init__(self, file: IO[bytes], limit_bytes: int) -> None:
        self._file = file
        self._limit = limit_bytes
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        """Append. Raises TooLargeError above the limit, StorageError when the disk is full."""
        self.size_bytes += len(data)
        if self.size_bytes > self._limit:
            raise TooLargeError(
                f"more than {self._limit} bytes",
                next="send a smaller file, or raise TINYFLEET_UPLOAD_LIMIT_BYTES on the server",
                limit_bytes=self._limit,
            )
        self._hash.update(data)
        with _storage_errors(self._file.name):
            self._file.write(data)

    @property
    def sha256(self) -> str:
        """Digest of what came so far."""
        return self._hash.hexdigest()

    @property
    def path(self) -> Path:
        """The temporary file, flushed: for a parse check before `commit`."""
        with _storage_errors(self._file.name):
            self._file.flush()
        return Path(self._file.name)


class BlobStore:
    """Local directory of blobs named by their SHA-256 (lower-case hex). Picklable: worker processes read from it."""

    def __init__(self, path: Path) -> None:
        self.root = Path(path)

    def put(self, data: bytes) -> str:
        """Store `data`; its SHA-256. Storing the same bytes again changes nothing. Raises StorageError."""
        with self.incoming(max(len(data), 1)) as incoming:
            incoming.write(data)
            return self.commit(incoming).sha256

    @contextmanager
    def incoming(self, limit_bytes: int) -> Iterator[Incoming]:
        """A bounded write that leaves nothing behind unless `commit` is called inside. Raises StorageError."""
        folder = self.root / "incoming"
        with _storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = tempfile.NamedTemporaryFile(dir=folder, delete=False)  # noqa: SIM115  (closed below, after renaming)
        try:
            yield Incoming(file, limit_bytes)
        finally:
            Path(file.name).unlink(missing_ok=True)
            with suppress(OSError):  # closing flushes once more; a full disk was reported by then
                file.close()

    def commit(self, incoming: Incoming) -> StoredBlob:
        """Make the bytes durable and visible under their digest."""
        target = self.path_of(incoming.sha256)
        source = incoming.path
        if not target.exists():
            with _storage_errors(self.root):
                target.parent.mkdir(exist_ok=True)
                with open(source, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(source, target)
                _sync_folder(target.parent)
        return StoredBlob(incoming.sha256, incoming.size_bytes)

    def put_chunks(self, chunks: Iterable[bytes], limit_bytes: int) -> StoredBlob:
        """Store a stream. Raises TooLargeError, StorageError."""
        with self.incoming(limit_bytes) as incoming:
            for chunk in chunks:
                incoming.write(chunk)
            return self.commit(incoming)

    async def put_stream(self, chunks: AsyncIterable[bytes], limit_bytes: int) -> StoredBlob:
        """Store an asynchronous stream. Raises TooLargeError, StorageError."""
        with self.incoming(limit_bytes) as incoming:
            async for chunk in chunks:
                incoming.write(chunk)
            return self.commit(incoming)

    def get(self, sha256: str) -> bytes:
        """The bytes, checked. Raises NotFoundError, CorruptError, StorageError."""
        try:
            data = self._read(sha256)
        except FileNotFoundError as error:
            raise missing_blob(sha256) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise damaged_blob(sha256)
        return data

    def _read(self, sha256: str) -> bytes:
        return self.path_of(sha256).read_bytes()

    def place(self, sha256: str, target: Path) -> None:
        """Make the blob readable as the file `target`. Raises NotFoundError, CorruptError, StorageError."""
        if not self.exists(sha256):
            raise missing_blob(sha256)
        with _storage_errors(target):
            os.symlink(self.path_of(sha256), target)

    def exists(self, sha256: str) -> bool:
        """True when the blob is there."""
        return self.path_of(sha256).exists()

    def delete(self, sha256: str) -> None:
        """Remove; no effect when it is not there."""
        self.path_of(sha256).unlink(missing_ok=True)

    def path_of(self, sha256: str) -> Path:
        """Where this directory keeps the blob. Raises NotFoundError when this is no digest."""
        return self.root / blob_key(sha256)


def is_digest(name: str) -> bool:
    """Whether a blob may be called this."""
    return bool(_DIGEST.fullmatch(name))


def blob_key(sha256: str) -> str:
    """`<2 hex>/<64 hex>`. Raises NotFoundError when this is no digest: names from outside never become paths."""
    if not is_digest(sha256):
        raise NotFoundError(
            "not a SHA-256 digest", next="use the 64 lower-case hex digits of a digest", what="blob", name=sha256
        )
    return f"{sha256[:2]}/{sha256}"


def missing_blob(sha256: str) -> NotFoundError:
    """No such blob in the store."""
    return NotFoundError(f"no blob {sha256}", next="restore the blobs from a backup", what="blob", name=sha256)


def damaged_blob(sha256: str) -> CorruptError:
    """The store's bytes are not those the name promises."""
    return CorruptError(f"blob {sha256} is damaged in the store", next="restore the blobs from a backup", name=sha256)


@contextmanager
def _storage_errors(where: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write to {where}: {error.strerror or error}",
            next="free disk space or check permissions; nothing was changed",
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
