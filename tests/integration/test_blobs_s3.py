"""Blobs in S3-compatible storage: the same store, against a real server (moto's)."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from integration.s3_support import s3, s3_url
from postgres import free_port
from tinyfleet_service.database.blobs import BlobStore, blob_key
from tinyfleet_service.database.object_blobs import PART_BYTES, ObjectBlobs, open_blobs
from tinyfleet_service.errors import CorruptError, NotFoundError, SettingsError, StorageError, TooLargeError
from tinyfleet_service.settings import load_settings

__all__ = ["s3", "s3_url"]  # fixtures


def local(tmp_path: Path, place: str) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def remote(tmp_path: Path, place: str) -> BlobStore:
    return open_blobs(load_settings(tmp_path, blobs=place))


def spooled(store: BlobStore) -> list[Path]:
    return list((store.root / "incoming").iterdir())


@pytest.mark.parametrize("open_store", [local, remote])
def test_both_stores_behave_the_same(tmp_path: Path, s3: str, open_store: Callable[[Path, str], BlobStore]) -> None:
    store = open_store(tmp_path, s3)
    data = os.urandom(2 * PART_BYTES + 1)
    stored = store.put_chunks((data[n : n + 65536] for n in range(0, len(data), 65536)), limit_bytes=len(data))
    assert stored.sha256 == hashlib.sha256(data).hexdigest()
    assert store.put(data) == stored.sha256
    again = pickle.loads(pickle.dumps(store))  # as a build's worker gets it
    again.place(stored.sha256, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == data == again.get(stored.sha256)
    with pytest.raises(TooLargeError):
        store.put_chunks([b"x" * 60, b"y" * 60], limit_bytes=100)
    assert spooled(store) == []
    store.delete(stored.sha256)
    store.delete(stored.sha256)
    assert not store.exists(stored.sha256)
    for name in (stored.sha256, "..", "A" * 64):
        with pytest.raises(NotFoundError):
            store.get(name)
        with pytest.raises(NotFoundError):
            store.place(name, tmp_path / "none")


def test_damage_in_the_bucket_is_noticed(tmp_path: Path, s3: str) -> None:
    store = ObjectBlobs(s3, tmp_path)
    digest = store.put(b"weights")
    store._store.put(blob_key(digest), b"weightz")
    with pytest.raises(CorruptError):
        store.get(digest)
    with pytest.raises(CorruptError):
        store.place(digest, tmp_path / "file")


def test_a_bucket_that_is_away_says_so(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="nothing was changed"):
        ObjectBlobs("s3://no-such-bucket", tmp_path).put(b"x")
    monkeypatch.setattr("tinyfleet_service.database.object_blobs.RETRIES", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageError, match="AWS_"):
        remote(tmp_path, s3).exists("0" * 64)


@pytest.mark.parametrize("place", ["/srv/blobs", "s3://", "http://host/bucket", "s3://bucket?region=x"])
def test_a_place_that_is_none_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(SettingsError, match="s3://BUCKET"):
        open_blobs(load_settings(tmp_path, blobs=place))
