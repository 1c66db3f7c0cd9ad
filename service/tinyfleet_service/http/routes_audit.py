"""The audit log of the project."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from tinyfleet_service.audit import read_entries
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.http.context import MAX_ID, Context, Viewer

router = APIRouter(tags=["audit"])
PAGE = 1000


class AuditDocument(BaseModel):
    """One entry; `entry_sha256` is the SHA-256 of the others as JSON with sorted keys and no spaces."""

    project: int
    number: int
    at: str
    actor: str
    action: str
    detail: dict[str, Any]
    before_sha256: str | None
    after_sha256: str | None
    previous_sha256: str
    entry_sha256: str


@router.get("/audit")
def get_audit(
    context: Context,
    principal: Viewer,
    after: Annotated[int, Query(ge=0, le=MAX_ID, description="number of the last entry seen")] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = 100,
) -> dict[str, list[AuditDocument]]:
    """Who changed what, oldest first; `fleetctl audit verify` checks the chain."""
    with session_scope(context.engine, read_only=True) as session:
        entries = read_entries(session, principal.project_id, after, limit)
    return {"items": [AuditDocument(**entry) for entry in entries]}
