"""The api process: HTTP API and dashboard under uvicorn."""

from __future__ import annotations

import threading

import uvicorn
from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from sqlalchemy import Engine

from tinyfleet_service import dashboard
from tinyfleet_service.database.engine import make_engine
from tinyfleet_service.http import create_app
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore

CLOSE_S = 2


def make_app(settings: Settings, engine: Engine) -> FastAPI:
    """API and dashboard in one application."""
    telemetry = TelemetryStore(settings)
    app = create_app(settings, engine, telemetry)
    app.include_router(dashboard.make_router(settings, engine, telemetry))
    app.mount("/dashboard/static", dashboard.static_files())
    app.add_api_route("/", lambda: RedirectResponse("/dashboard"), include_in_schema=False)
    return app


def run(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set."""
    engine = make_engine(settings)
    config = uvicorn.Config(
        make_app(settings, engine),
        host=settings.host,
        port=settings.http_port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSE_S,
    )
    server = uvicorn.Server(config)
    threading.Thread(target=_end_with, args=(server, stop), daemon=True).start()
    server.run()
    engine.dispose()


def _end_with(server: uvicorn.Server, stop: threading.Event) -> None:
    stop.wait()
    server.should_exit = True
