"""Routes of the dashboard. Everything needs a session but the login and the static files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from sqlalchemy import Engine
from sqlmodel import Session
from starlette.concurrency import run_in_threadpool

from tinyfleet_service.auth import Principal, Role
from tinyfleet_service.dashboard.audit_data import audit_data
from tinyfleet_service.dashboard.build_data import build_data, builds_data
from tinyfleet_service.dashboard.claim_pages import add_claim_routes, claims_data
from tinyfleet_service.dashboard.device_data import device_data, devices_data
from tinyfleet_service.dashboard.events import what
from tinyfleet_service.dashboard.figures import percent
from tinyfleet_service.dashboard.login import OPERATIONS, Door, login_link
from tinyfleet_service.dashboard.model_data import model_data, models_data
from tinyfleet_service.dashboard.model_pages import add_model_routes
from tinyfleet_service.dashboard.page_data import collect
from tinyfleet_service.dashboard.parameters import RowId
from tinyfleet_service.dashboard.problem import page_route
from tinyfleet_service.dashboard.rollout_data import rollout_data, rollouts_data
from tinyfleet_service.dashboard.rollout_pages import add_rollout_routes
from tinyfleet_service.dashboard.samples import Histories
from tinyfleet_service.dashboard.settings_data import settings_data
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import utc_now
from tinyfleet_service.errors import NotFoundError
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore
from tinyfleet_service.words import quantity

HERE = Path(__file__).parent
REFRESH_S = 1.0
NOT_KEPT = {"Cache-Control": "no-store"}
"""What "back" shows is asked for anew: neither old numbers, nor what was there before a logout."""
PageData = Callable[[Session, Principal], dict[str, Any]]


def static_files() -> StaticFiles:
    """Style sheet, script and the two libraries."""
    return StaticFiles(directory=HERE / "static")


def make_router(settings: Settings, engine: Engine, telemetry: TelemetryStore) -> APIRouter:
    """The dashboard's routes under `/dashboard`, outside the OpenAPI document."""
    histories = Histories(engine, telemetry)
    templates = Jinja2Templates(directory=HERE / "templates")
    templates.env.filters |= {"percent": percent, "quantity": quantity, "happened": what}
    templates.env.globals["utc_now"] = utc_now
    router = APIRouter(
        prefix="/dashboard", include_in_schema=False, lifespan=histories.lifespan, route_class=page_route(templates)
    )
    door = Door(settings, engine, templates)
    door.add_routes(router)
    add_claim_routes(router, door, settings, engine, templates)
    add_model_routes(router, door, settings, engine)
    add_rollout_routes(router, door, engine)

    def operations(session: Session, principal: Principal) -> dict[str, Any]:
        may = {"may_freeze": principal.role.includes(Role.OPERATOR), "may_thaw": principal.role.includes(Role.APPROVER)}
        return collect(session, telemetry, principal.project_id, histories.of(principal.project_id)) | may

    def data_of(principal: Principal, read: PageData) -> dict[str, Any]:
        with session_scope(engine, read_only=True) as session:
            return read(session, principal)

    def show(request: Request, template: str, read: PageData, *scopes: str) -> Response:
        principal = door.may_see(request, *scopes)
        if principal is None:
            return RedirectResponse(login_link(request), status_code=303)
        data = data_of(principal, read) | door.csrf_field(request)
        status = 422 if data.get("problem") else 200
        return templates.TemplateResponse(request, template, data, status_code=status, headers=NOT_KEPT)

    @router.get("", response_class=HTMLResponse)
    def index(request: Request) -> Response:
        return show(request, "index.html", operations, *OPERATIONS)

    @router.get("/devices", response_class=HTMLResponse)
    def devices_page(request: Request, where: str = "", after: str = "") -> Response:
        return show(
            request, "devices.html", partial(devices_data, telemetry=telemetry, where=where, after=after), "devices"
        )

    @router.get("/devices/{device_id}", response_class=HTMLResponse)
    def device_page(request: Request, device_id: str) -> Response:
        return show(request, "device.html", partial(device_data, telemetry=telemetry, device_id=device_id), "devices")

    @router.get("/models", response_class=HTMLResponse)
    def models_page(request: Request) -> Response:
        return show(request, "models.html", models_data, "models")

    @router.get("/models/{name}", response_class=HTMLResponse)
    def model_page(request: Request, name: str) -> Response:
        return show(request, "model.html", partial(model_data, telemetry=telemetry, name=name), "models")

    @router.get("/builds", response_class=HTMLResponse)
    def builds_page(request: Request) -> Response:
        return show(request, "builds.html", builds_data, "builds")

    @router.get("/builds/{build_id}", response_class=HTMLResponse)
    def build_page(request: Request, build_id: RowId) -> Response:
        return show(request, "build.html", partial(build_data, build_id=build_id), "builds")

    @router.get("/rollouts", response_class=HTMLResponse)
    def rollouts_page(request: Request) -> Response:
        return show(request, "rollouts.html", rollouts_data, "rollouts")

    @router.get("/rollouts/{rollout_id}", response_class=HTMLResponse)
    def rollout_page(request: Request, rollout_id: RowId, every: bool = False, recompute: bool = False) -> Response:
        read = partial(rollout_data, telemetry=telemetry, rollout_id=rollout_id, every=every, recompute=recompute)
        return show(request, "rollout.html", read, "rollouts")

    @router.get("/claims", response_class=HTMLResponse)
    def claims_page(request: Request) -> Response:
        return show(request, "claims.html", claims_data, "devices")

    @router.get("/audit", response_class=HTMLResponse)
    def audit_page(request: Request) -> Response:
        return show(request, "audit.html", audit_data, "audit")

    @router.get("/settings", response_class=HTMLResponse)
    def settings_page(request: Request) -> Response:
        return show(request, "settings.html", settings_data, "tokens", "webhooks")

    @router.get("/stream")
    async def stream(request: Request) -> Response:
        if await run_in_threadpool(door.may_see, request, *OPERATIONS) is None:
            return Response(status_code=401)
        template = templates.get_template("live.html")

        async def pages() -> AsyncIterator[str]:
            while not await request.is_disconnected():
                principal = await run_in_threadpool(door.principal_of, request)
                if principal is None:
                    return  # logged out, over, or its token revoked
                data = await run_in_threadpool(data_of, principal, operations)
                html = template.render(**data)
                yield "".join(f"data: {line}\n" for line in html.splitlines()) + "\n"
                await asyncio.sleep(REFRESH_S)

        return StreamingResponse(pages(), media_type="text/event-stream", headers=NOT_KEPT)

    @router.get("/{path:path}")
    def no_page(request: Request, path: str) -> Response:
        """The last route: what no other one took."""
        if path != (found := path.rstrip("/")) or not path:
            return RedirectResponse(f"/dashboard/{found}".rstrip("/"))
        raise NotFoundError(f"no page {request.url.path}", next="see what is linked from Operations", what="page")

    return router
