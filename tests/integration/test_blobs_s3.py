"""Blobs in S3-compatible storage: the same store, against a real server (moto's), and a build that lives on it."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from postgres import free_port
from service_harness import build_all, push_digits, running_api
from tinyfleet_compiler import read_image
from tinyfleet_service.database.blobs import BlobStore, blob_key
from tinyfleet_service.database.object_blobs import PART_BYTES, ObjectBlobs, open_blobs
from tinyfleet_service.errors import CorruptError, NotFoundError, SettingsError, StorageError, TooLargeError
from tinyfleet_service.settings import load_settings

BUCKET = "fleet-blobs"


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    assert httpx.put(f"http://{host}:{port}/{BUCKET}").status_code == 200
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Place of the blobs; the environment holds what every S3 client reads."""
    for name, value in (("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "key"), ("REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    return f"s3://{BUCKET}/models"


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


def test_a_model_becomes_an_image_without_a_local_blob(tmp_path: Path, s3: str) -> None:
    with running_api(tmp_path, blobs=s3) as api, api.client() as client:
        push_digits(client)
        build_all(api)
        (build,) = client.version("digits", "v1")["builds"]
        assert build["state"] == "ready"
        assert read_image(client.build_image(build["id"])).name == "digits"
        assert [path for path in api.settings.dirs.blobs.rglob("*") if path.is_file()] == []
