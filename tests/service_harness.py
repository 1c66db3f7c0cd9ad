"""A real API on a free port over a prepared data directory, for integration tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from postgres import free_port
from tinyfleet_service.builder.process import Builder
from tinyfleet_service.builds import waiting_builds
from tinyfleet_service.client import Client
from tinyfleet_service.database.engine import make_engine
from tinyfleet_service.http import create_app
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


def build_all(api: Api) -> None:
    """Compile and sign whatever is queued."""
    builder = Builder(api.settings, api.engine)
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
