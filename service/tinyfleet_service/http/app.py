"""The FastAPI application. `serve` adds the dashboard, which this edge does not know."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from sqlalchemy import Engine

from tinyfleet_service.database.object_blobs import open_blobs
from tinyfleet_service.http import (
    routes_audit,
    routes_builds,
    routes_claims,
    routes_classes,
    routes_devices,
    routes_events,
    routes_firmware,
    routes_groups,
    routes_health,
    routes_models,
    routes_overview,
    routes_rollouts,
    routes_tokens,
    routes_versions,
    routes_webhooks,
)
from tinyfleet_service.http.audit import AuditRequests
from tinyfleet_service.http.context import ANSWERS, AppContext, Viewer
from tinyfleet_service.http.errors import add_error_handlers
from tinyfleet_service.http.limits import LimitBody, SecurityHeaders
from tinyfleet_service.http.observe import Observe
from tinyfleet_service.http.rate import LimitRate
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore

API = "/api/v1"
ROUTERS = (
    routes_models.router,
    routes_firmware.router,
    routes_versions.router,
    routes_builds.router,
    routes_classes.router,
    routes_devices.router,
    routes_claims.router,
    routes_groups.router,
    routes_rollouts.router,
    routes_overview.router,
    routes_events.router,
    routes_tokens.router,
    routes_audit.router,
    routes_webhooks.router,
)


def create_app(settings: Settings, engine: Engine, telemetry: TelemetryStore) -> FastAPI:
    """The API on a migrated database. Interactive documentation is left out: it would load scripts from elsewhere."""
    app = FastAPI(
        title="tinyfleet",
        version=version("tinyfleet"),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.context = AppContext(settings, engine, open_blobs(settings), telemetry)
    add_error_handlers(app)
    app.add_middleware(AuditRequests, engine=engine)
    app.add_middleware(LimitBody, settings=settings, engine=engine)
    app.add_middleware(Observe)
    app.add_middleware(LimitRate, settings=settings)
    app.add_middleware(SecurityHeaders)
    api = APIRouter(prefix=API, responses=ANSWERS)
    for router in ROUTERS:
        api.include_router(router)
    app.include_router(api)
    app.include_router(routes_health.router)
    _add_document(app)
    return app


def openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document."""
    return get_openapi(title=app.title, version=app.version, routes=app.routes)


def _add_document(app: FastAPI) -> None:
    @app.get(f"{API}/openapi.json", include_in_schema=False)
    def openapi_document(_: Viewer) -> dict[str, Any]:
        return openapi(app)
