"""Routes of the dashboard. Everything needs the session cookie but the login and the static files."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from tinyfleet_service import auth
from tinyfleet_service.audit import name_actor
from tinyfleet_service.auth import Principal
from tinyfleet_service.dashboard.audit_data import audit_data
from tinyfleet_service.dashboard.csrf import FIELD, Csrf
from tinyfleet_service.dashboard.page_data import collect
from tinyfleet_service.dashboard.samples import Histories
from tinyfleet_service.dashboard.session import COOKIE, LIFETIME_S, Sessions
from tinyfleet_service.dashboard.settings_data import settings_data
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.errors import ForbiddenError, UnauthenticatedError
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore

HERE = Path(__file__).parent
REFRESH_S = 1.0
LOGIN = "/dashboard/login"
LOGIN_COOKIE = "tinyfleet_login"
FormToken = Annotated[str, Form(alias=FIELD, max_length=128)]


def static_files() -> StaticFiles:
    """Style sheet, script and the two libraries."""
    return StaticFiles(directory=HERE / "static")


def make_router(settings: Settings, engine: Engine, telemetry: TelemetryStore) -> APIRouter:
    """The dashboard's routes under `/dashboard`, outside the OpenAPI document."""
    histories = Histories(engine, telemetry)
    router = APIRouter(prefix="/dashboard", include_in_schema=False, lifespan=histories.lifespan)
    templates = Jinja2Templates(directory=HERE / "templates")
    sessions = Sessions(settings.dirs.keys / "session.key")
    csrf = Csrf(sessions.key)

    def principal_of(request: Request) -> Principal | None:
        token_id = sessions.read(request.cookies.get(COOKIE))
        if token_id is None:
            return None
        with session_scope(engine, read_only=True) as session:
            return auth.find_token(session, token_id)

    def project_of(request: Request) -> int | None:
        principal = principal_of(request)
        return principal.project_id if principal else None

    def page_data(project_id: int) -> dict[str, Any]:
        with session_scope(engine) as session:
            return collect(session, telemetry, project_id, histories.of(project_id))

    @router.get("/login", response_class=HTMLResponse)
    async def login_form(request: Request) -> Response:
        return show_login(request)

    def show_login(request: Request, problem: str = "", status: int = 200) -> Response:
        cookie = secrets.token_urlsafe(16)
        shown = {"problem": problem, FIELD: csrf.token(cookie)}
        answer = templates.TemplateResponse(request, "login.html", shown, status_code=status)
        answer.set_cookie(LOGIN_COOKIE, cookie, httponly=True, samesite="strict", secure=request.url.scheme == "https")
        return answer

    @router.post("/login", response_class=HTMLResponse)
    def login(request: Request, token: str = Form(max_length=256), sent: FormToken = "") -> Response:
        try:
            csrf.check(request, request.cookies.get(LOGIN_COOKIE), sent)
            with session_scope(engine) as session:
                found = auth.check_token(session, token.strip())
        except (UnauthenticatedError, ForbiddenError) as error:
            return show_login(request, error.message, 401 if isinstance(error, UnauthenticatedError) else 403)
        name_actor(found.actor, found.project_id)
        answer = RedirectResponse("/dashboard", status_code=303)
        answer.set_cookie(
            COOKIE, sessions.issue(found.token_id), max_age=LIFETIME_S, httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return answer

    @router.post("/logout")
    def logout(request: Request, sent: FormToken = "") -> Response:
        csrf.check(request, request.cookies.get(COOKIE), sent)
        if principal := principal_of(request):
            name_actor(principal.actor, principal.project_id)
        answer = RedirectResponse(LOGIN, status_code=303)
        answer.delete_cookie(COOKIE)
        return answer

    @router.get("", response_class=HTMLResponse)
    def index(request: Request) -> Response:
        project_id = project_of(request)
        if project_id is None:
            return RedirectResponse(LOGIN, status_code=303)
        shown = page_data(project_id) | {FIELD: csrf.token(request.cookies[COOKIE])}
        return templates.TemplateResponse(request, "index.html", shown)

    @router.get("/audit", response_class=HTMLResponse)
    def audit_page(request: Request) -> Response:
        project_id = project_of(request)
        if project_id is None:
            return RedirectResponse(LOGIN, status_code=303)
        with session_scope(engine, read_only=True) as session:
            shown = audit_data(session, project_id) | {FIELD: csrf.token(request.cookies[COOKIE])}
        return templates.TemplateResponse(request, "audit.html", shown)

    @router.get("/settings", response_class=HTMLResponse)
    def settings_page(request: Request) -> Response:
        principal = principal_of(request)
        if principal is None:
            return RedirectResponse(LOGIN, status_code=303)
        with session_scope(engine, read_only=True) as session:
            shown = settings_data(session, principal) | {FIELD: csrf.token(request.cookies[COOKIE])}
            return templates.TemplateResponse(request, "settings.html", shown)

    @router.get("/stream")
    async def stream(request: Request) -> Response:
        project_id = await run_in_threadpool(project_of, request)
        if project_id is None:
            return Response(status_code=401)
        template = templates.get_template("live.html")

        async def pages() -> AsyncIterator[str]:
            while not await request.is_disconnected():
                data = await run_in_threadpool(page_data, project_id)
                html = template.render(**data)
                yield "".join(f"data: {line}\n" for line in html.splitlines()) + "\n"
                await asyncio.sleep(REFRESH_S)

        return StreamingResponse(pages(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return router
