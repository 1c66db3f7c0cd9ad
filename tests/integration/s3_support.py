"""A real S3 server (moto's) and the environment that every S3 client reads."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

import web

BUCKET = "fleet-blobs"


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    answer = web.put(f"http://{host}:{port}/{BUCKET}")  # it loads its models of S3 first
    assert answer.status_code == 200
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Place of the blobs, for TINYFLEET_BLOBS."""
    for name, value in (("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "key"), ("REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    return f"s3://{BUCKET}/models"
