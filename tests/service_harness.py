"""A real API on a free port over a prepared data directory, for integration tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from postgres import free_port
from tinyfleet_service.auth import ensure_project
from tinyfleet_service.builder.process import Builder
from tinyfleet_service.builds import CompileJob, CompileOutcome, compile_job, push_version, waiting_builds
from tinyfleet_service.client import Client
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import make_engine, session_scope
from tinyfleet_service.http import create_app
from tinyfleet_service.registry import NewVersion
from tinyfleet_service.serve.api import make_app, make_server
from tinyfleet_service.serve.first_start import prepare
from tinyfleet_service.settings import Settings, load_settings
from tinyfleet_service.telemetry import TelemetryStore

DIGITS = Path(__file__).parents[1] / "examples" / "digits"


@dataclass(frozen=True)
class Api:
    """A running API and what a test needs around it."""

    settings: Settings
    engine: Engine
    url: str
    token: str

    def client(self, token: str | None = None) -> Client:
        return Client(self.url, self.token if token is None else token)


@contextmanager
def running_api(data: Path, *, dashboard: bool = False, **overrides: Any) -> Iterator[Api]:
    """Prepare `data` as `serve` does and run the API in a thread, with the dashboard when asked."""
    settings = load_settings(
        data, **{"http_port": free_port(), "broker_port": free_port(), "poll_s": 0.05, **overrides}
    )
    prepare(settings)
    engine = make_engine(settings)
    app = make_app(settings, engine) if dashboard else create_app(settings, engine, TelemetryStore(settings))
    server = make_server(settings, app)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    try:
        token = settings.dirs.admin_token.read_text().strip()
        yield Api(settings, engine, f"http://127.0.0.1:{settings.http_port}", token)
    finally:
        server.should_exit = True
        thread.join()
        engine.dispose()


class WorkersHere:
    """Compile in this process: a worker of its own first imports for longer than it compiles."""

    lost: tuple[type[BaseException], ...] = ()

    def __init__(self) -> None:
        self._said: list[tuple[int, str]] = []

    def connect(self) -> None: ...

    def submit(self, job: CompileJob) -> Future[CompileOutcome]:
        future = Future[CompileOutcome]()
        future.set_result(compile_job(job, lambda text: self._said.append((job.build_id, text))))
        return future

    def notes(self) -> list[tuple[int, str]]:
        said, self._said = self._said, []
        return said

    def drop(self) -> None: ...

    def close(self) -> None: ...


def build_all(api: Api) -> None:
    """Compile and sign whatever is queued."""
    builder = Builder(api.settings, api.engine)
    builder.workers = WorkersHere()
    while builder.step() or waiting_builds(api.engine):
        time.sleep(0.05)
    builder.close()


def push_digits(client: Client, version: str = "v1", name: str = "digits") -> dict[str, Any]:
    """Push one of the committed digits models with its data."""
    return client.push_model(
        name,
        version,
        DIGITS / f"digits_{version}.onnx",
        calibration=DIGITS / "calibration.npz",
        evaluation=DIGITS / "evaluation.npz",
        metric="top1",
    )


def push_unserved(engine: Engine, settings: Settings, version: str = "v1", model: bytes | None = None) -> None:
    """Push a digits model as the API would, without one: version 1's bytes under any version, or other bytes."""
    store = BlobStore(settings.dirs.blobs)
    data = (DIGITS / "digits_v1.onnx").read_bytes() if model is None else model
    with session_scope(engine) as session:
        project = ensure_project(session, settings.project)
    new = NewVersion(
        name="digits",
        version=version,
        file_name="digits.onnx",
        model_sha256=store.put(data),
        model_bytes=len(data),
        calibration_sha256=store.put((DIGITS / "calibration.npz").read_bytes()),
        evaluation_sha256=store.put((DIGITS / "evaluation.npz").read_bytes()),
        options={"metric": "top1"},
    )
    assert project.id is not None
    push_version(engine, project.id, new)
