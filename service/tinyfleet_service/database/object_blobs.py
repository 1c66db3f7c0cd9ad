"""The blob store in S3-compatible storage, chosen by `TINYFLEET_BLOBS=s3://BUCKET/PREFIX`.

Keys are the local store's paths. Bytes are spooled and checked in the data directory's `blobs/incoming` before they
travel, in parts, so that memory does not grow with a blob. Credentials, region and endpoint come from the environment
variables of every S3 client: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tinyfleet_service.database.blobs import (
    BlobStore,
    Incoming,
    StoredBlob,
    blob_key,
    damaged_blob,
    is_digest,
    missing_blob,
)
from tinyfleet_service.errors import SettingsError, StorageError
from tinyfleet_service.settings import Settings

if TYPE_CHECKING:
    from obstore.store import S3Store

PART_BYTES = 5 << 20  # S3's smallest part
PARTS_AT_ONCE = 2
RETRIES = 3
PATIENCE = timedelta(seconds=20)


def open_blobs(settings: Settings) -> BlobStore:
    """The store that the settings name. Raises SettingsError."""
    if not settings.blobs:
        return BlobStore(settings.dirs.blobs)
    return ObjectBlobs(settings.blobs, settings.dirs.blobs)


class ObjectBlobs(BlobStore):
    """Blobs in a bucket; `spool` is a local directory for uploads that are not checked yet."""

    def __init__(self, url: str, spool: Path) -> None:
        super().__init__(spool)
        self.url = url
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.hostname or parts.query:
            raise SettingsError(
                f"blobs {url!r} is no place", next="set TINYFLEET_BLOBS to s3://BUCKET or s3://BUCKET/PREFIX"
            )

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root, "url": self.url}

    @cached_property
    def _store(self) -> S3Store:
        try:
            from obstore.store import S3Store
        except ImportError as error:
            raise SettingsError("blobs in S3 need obstore", next="pip install 'tinyfleet[s3]'") from error
        plain_http = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        with _object_errors(self.url):
            return S3Store.from_url(
                self.url,
                client_options={"allow_http": plain_http, "timeout": PATIENCE},
                retry_config={"max_retries": RETRIES, "retry_timeout": PATIENCE},
            )

    def commit(self, incoming: Incoming) -> StoredBlob:
        """Send the bytes to the bucket, visible under their digest when all of them are there."""
        source, digest = incoming.path, incoming.sha256
        if not self.exists(digest):
            with _object_errors(self.url):
                self._store.put(blob_key(digest), source, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)
        return StoredBlob(digest, incoming.size_bytes)

    def _read(self, sha256: str) -> bytes:
        with _object_errors(self.url, may_miss=True):
            return bytes(self._store.get(blob_key(sha256)).bytes())

    def place(self, sha256: str, target: Path) -> None:
        """Fetch the blob, part by part, into the file `target`. Raises NotFoundError, CorruptError, StorageError."""
        seen = hashlib.sha256()
        try:
            with open(target, "wb") as file:
                for part in self._parts(sha256):
                    seen.update(part)
                    file.write(part)
        except FileNotFoundError as error:
            raise missing_blob(sha256) from error
        if seen.hexdigest() != sha256:
            raise damaged_blob(sha256)

    def _parts(self, sha256: str) -> Iterator[bytes]:
        with _object_errors(self.url, may_miss=True):
            for part in self._store.get(blob_key(sha256)).stream(min_chunk_size=PART_BYTES):
                yield bytes(part)

    def exists(self, sha256: str) -> bool:
        """True when the bucket has the blob. Raises StorageError when it does not answer."""
        try:
            with _object_errors(self.url, may_miss=True):
                self._store.head(blob_key(sha256))
        except FileNotFoundError:
            return False
        return True

    def digests(self) -> Iterator[str]:
        """Digests of what the bucket has below the prefix. Raises StorageError."""
        with _object_errors(self.url):
            for page in self._store.list():
                paths = (str(entry["path"]) for entry in page)
                yield from (p[3:] for p in paths if is_digest(p[3:]) and p == blob_key(p[3:]))

    def delete(self, sha256: str) -> None:
        """Remove; no effect when it is not there. Raises StorageError."""
        try:
            with _object_errors(self.url, may_miss=True):
                self._store.delete(blob_key(sha256))
        except FileNotFoundError:
            pass


@contextmanager
def _object_errors(url: str, *, may_miss: bool = False) -> Iterator[None]:
    """What the storage says, as ours; with `may_miss` a missing object stays a FileNotFoundError."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError) as error:
        if may_miss and isinstance(error, FileNotFoundError):
            raise
        raise StorageError(
            f"{url} does not answer as it should: {str(error).splitlines()[0]}",
            next="check TINYFLEET_BLOBS, the AWS_* environment variables and the network; nothing was changed",
        ) from error
