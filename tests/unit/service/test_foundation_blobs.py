"""The blob store: whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.errors import CorruptError, NotFoundError, StorageError, TooLargeError


def files_of(store: BlobStore) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


@given(chunks=st.lists(st.binary(max_size=50), max_size=8))
def test_chunks_become_one_blob(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]) -> None:
    store = BlobStore(tmp_path_factory.mktemp("blobs"))
    data = b"".join(chunks)
    stored = store.put_chunks(chunks, limit_bytes=400)
    assert (stored.sha256, stored.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert store.get(stored.sha256) == data
    assert store.put(data) == stored.sha256
    assert len(files_of(store)) == 1


def test_too_large_leaves_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    with pytest.raises(TooLargeError) as caught:
        store.put_chunks([b"x" * 60, b"y" * 60], limit_bytes=100)
    assert caught.value.data["limit_bytes"] == 100
    assert files_of(store) == []


def test_an_aborted_stream_leaves_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError("client went away")

    with pytest.raises(ConnectionResetError):
        asyncio.run(store.put_stream(broken(), 100))
    assert files_of(store) == []


def test_damage_on_disk_is_noticed(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    digest = store.put(b"weights")
    store.path_of(digest).write_bytes(b"weightz")
    with pytest.raises(CorruptError):
        store.get(digest)


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "/", "0" * 64 + "\n"])
def test_names_from_outside_never_become_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFoundError):
        BlobStore(tmp_path).get(name)


def test_missing_and_deleted(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    digest = store.put(b"x")
    assert store.exists(digest)
    store.delete(digest)
    store.delete(digest)
    assert not store.exists(digest)
    with pytest.raises(NotFoundError):
        store.get(digest)


def test_full_or_unwritable_disk_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="nothing was changed"):
        BlobStore(tmp_path / "blobs").put(b"x")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlobStore(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        store.put(b"x")
    assert files_of(store) == []
