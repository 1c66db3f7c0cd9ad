"""The api process: HTTP API and dashboard under uvicorn."""

from __future__ import annotations

import threading

import uvicorn
from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from sqlalchemy import Engine

from tinyfleet_service import dashboard
from tinyfleet_service.collector import collect_rarely
from tinyfleet_service.database.engine import make_engine
from tinyfleet_service.http import create_app
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore

CLOSE_S = 2


def make_app(settings: Settings, engine: Engine) -> FastAPI:
    """API and dashboard in one application."""
    telemetry = TelemetryStore(settings)
    app = create_app(settings, engine, telemetry)
    app.mount("/dashboard/static", dashboard.static_files())
    app.include_router(dashboard.make_router(settings, engine, telemetry))
    app.add_api_route("/", lambda: RedirectResponse("/dashboard"), include_in_schema=False)
    return app


def run(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set."""
    collect_rarely()  # plans are made here
    engine = make_engine(settings)
    server = make_server(settings, make_app(settings, engine))
    threading.Thread(target=_end_with, args=(server, stop), daemon=True).start()
    server.run()
    engine.dispose()


def make_server(settings: Settings, app: FastAPI) -> uvicorn.Server:
    """The web server; forwarded addresses and schemes are believed from `trusted_proxies` alone."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.http_port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or None,
        timeout_graceful_shutdown=CLOSE_S,
    )
    return uvicorn.Server(config)


def _end_with(server: uvicorn.Server, stop: threading.Event) -> None:
    stop.wait()
    server.should_exit = True
