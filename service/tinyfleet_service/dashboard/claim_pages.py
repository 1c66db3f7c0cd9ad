"""Claim certificates: the list, a new one with its files, and the end of one. Viewers look, operators change."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tinyfleet_service import devices, keys
from tinyfleet_service.auth import Principal, Role
from tinyfleet_service.broker.pki import CLAIM_DAYS, Pki
from tinyfleet_service.dashboard.login import LOGIN_AGAIN, Door, FormToken
from tinyfleet_service.dashboard.parameters import RowId
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import ClaimCertificate, ProjectClass
from tinyfleet_service.errors import InvalidInputError, NotFoundError
from tinyfleet_service.settings import Settings

CLAIMS = "/dashboard/claims"
SHOWN = 200
SCOPE = "devices"
NEW = {"name": "", "device_class": "", "quota": 1000, "days": CLAIM_DAYS, "tags": ""}
Short = Annotated[str, Form(max_length=64)]


def claims_data(session: Session, principal: Principal, new: Mapping[str, Any] = NEW, problem: str = "") -> Any:
    """Template variables of the list, the newest claim first; `new` is what the form holds."""
    mine = select(ClaimCertificate).where(ClaimCertificate.project_id == principal.project_id)
    rows = session.exec(mine.order_by(col(ClaimCertificate.id).desc()).limit(SHOWN + 1)).all()
    classes = select(ProjectClass.name).where(ProjectClass.project_id == principal.project_id)
    return {
        "project": principal.project,
        "page": "claims",
        "claims": [_shown(row) for row in rows[:SHOWN]],
        "more": len(rows) > SHOWN,
        "may": principal.role.includes(Role.OPERATOR),
        "classes": session.exec(classes.order_by(ProjectClass.name)).all(),
        "new": new,
        "problem": problem,
    }


def _shown(row: ClaimCertificate) -> dict[str, Any]:
    tags = [f"{key}={value}" for key, value in sorted(row.tags.items())]
    return row.model_dump() | {"state": devices.claim_state(row), "tags": tags}


def add_claim_routes(
    router: APIRouter, door: Door, settings: Settings, engine: Engine, templates: Jinja2Templates
) -> None:
    """The two forms of the page; the page itself is one like the others."""

    @router.post("/claims", response_class=HTMLResponse)
    def create(
        request: Request,
        name: Short,
        device_class: Short,
        quota: Annotated[int, Form()],
        days: Annotated[float, Form()],
        tags: Annotated[str, Form(max_length=2000)] = "",
        sent: FormToken = "",
    ) -> Response:
        principal = door.may_change(request, sent, Role.OPERATOR, SCOPE)
        if principal is None:
            return RedirectResponse(LOGIN_AGAIN, status_code=303)
        new = {"name": name, "device_class": device_class, "quota": quota, "days": days, "tags": tags}
        try:
            data = _create(settings, engine, principal, new)
        except (InvalidInputError, NotFoundError) as error:
            with session_scope(engine, read_only=True) as session:
                data = claims_data(session, principal, new, f"{error.message}: {error.next}") | door.csrf_field(request)
            return templates.TemplateResponse(request, "claims.html", data, status_code=422)
        data |= door.csrf_field(request)
        kept_nowhere = {"Cache-Control": "no-store"}
        return templates.TemplateResponse(request, "claim.html", data, status_code=201, headers=kept_nowhere)

    @router.post("/claims/{claim_id}/revoke")
    def revoke(request: Request, claim_id: RowId, sent: FormToken = "") -> Response:
        principal = door.may_change(request, sent, Role.OPERATOR, SCOPE)
        if principal is None:
            return RedirectResponse(LOGIN_AGAIN, status_code=303)
        with session_scope(engine) as session:
            devices.revoke_claim(session, principal.project_id, claim_id)
        return RedirectResponse(CLAIMS, status_code=303)


def _create(settings: Settings, engine: Engine, principal: Principal, new: Mapping[str, Any]) -> dict[str, Any]:
    """The claim with the files of its devices: as `fleetctl claim create` writes them."""
    pki, values = Pki.load(settings), {**new, "tags": _tags(new["tags"])}
    if not new["name"].strip():
        raise InvalidInputError("a claim needs a name", next="write what people call this batch")
    with session_scope(engine) as session:
        row, certificate, key = devices.create_claim(session, pki, project_id=principal.project_id, **values)
        claim = _shown(row)
    trust = {"ca.pem": pki.ca_path.read_bytes(), "root1.cbor": keys.root_one(settings)}
    files = {"claim.pem": certificate, "claim.key": key, **trust}
    links = [(name, f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}")
             for name, data in files.items()]  # fmt: skip
    return {"project": principal.project, "page": "claims", "claim": claim, "files": links}


def _tags(text: str) -> dict[str, str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        if "=" not in part:
            raise InvalidInputError(f"{part!r} is no tag", next="write KEY=VALUE, KEY=VALUE")
    return dict(part.split("=", 1) for part in parts)
