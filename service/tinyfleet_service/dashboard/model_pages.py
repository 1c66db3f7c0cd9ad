"""What is asked of models and builds by the pages: approval of a version, and the report of a build."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import Engine

from tinyfleet_service.auth import Role
from tinyfleet_service.builds import REPORT_POLICY, find_build, read_report
from tinyfleet_service.dashboard.login import LOGIN_AGAIN, Door, FormToken, login_link
from tinyfleet_service.dashboard.parameters import RowId
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Approval
from tinyfleet_service.database.object_blobs import open_blobs
from tinyfleet_service.registry import get_model, get_version
from tinyfleet_service.registry.aliases import set_approval
from tinyfleet_service.settings import Settings

SCOPE = "models"


def add_model_routes(router: APIRouter, door: Door, settings: Settings, engine: Engine) -> None:
    """The report opens by itself, outside the dashboard's frame; the form comes back to the model's page."""
    store = open_blobs(settings)

    @router.get("/builds/{build_id}/report")
    def report(request: Request, build_id: RowId) -> Response:
        principal = door.may_see(request, "builds")
        if principal is None:
            return RedirectResponse(login_link(request), status_code=303)
        with session_scope(engine, read_only=True) as session:
            page = read_report(store, find_build(session, principal.project_id, build_id))
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    @router.post("/models/{name}/{version}/approval")
    def approve(
        request: Request,
        name: str,
        version: str,
        approval: Annotated[Literal["approved", "rejected", "none"], Form()],
        sent: FormToken = "",
    ) -> Response:
        principal = door.may_change(request, sent, Role.APPROVER, SCOPE)
        if principal is None:
            return RedirectResponse(LOGIN_AGAIN, status_code=303)
        with session_scope(engine) as session:
            model = get_model(session, principal.project_id, name)
            row = get_version(session, principal.project_id, model.name, version)
            set_approval(session, row, Approval(approval), principal.name)
        return RedirectResponse(f"/dashboard/models/{model.name}", status_code=303)
