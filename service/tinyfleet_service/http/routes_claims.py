"""Claim certificates, with which devices enrol."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from tinyfleet_service import devices
from tinyfleet_service.broker import Pki
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import ClaimCertificate
from tinyfleet_service.http.context import MAX_ID, Context, Operator, RowId, Viewer

router = APIRouter(tags=["devices"])


class NewClaim(BaseModel):
    """What devices that enrol with the claim certificate will be."""

    name: str = Field(min_length=1, max_length=64, description="what people call this batch")
    device_class: str = Field(max_length=64, description="class of every device that enrols with it")
    tags: dict[str, str] = Field(default_factory=dict, description="tags of these devices, by name")
    quota: int = Field(default=1000, description="how many devices may enrol with it")
    days: float = Field(default=365.0, description="days until it ends")


class ClaimDocument(BaseModel):
    """A claim certificate; `state` is open, used up, expired or revoked."""

    id: int
    name: str
    serial: str
    device_class: str
    tags: dict[str, str]
    quota: int
    used: int
    state: str
    created_at: datetime
    not_after: datetime | None
    revoked_at: datetime | None


class ClaimWithKey(ClaimDocument):
    """The only answer that holds the certificate and its key, which is kept nowhere else."""

    certificate_pem: str
    key_pem: str


class ClaimPage(BaseModel):
    """Claims, and what to give as `after` for more; null at the end."""

    items: list[ClaimDocument]
    next: int | None


@router.get("/claims")
def get_claims(
    context: Context,
    principal: Viewer,
    after: Annotated[int, Query(ge=0, le=MAX_ID, description="`next` of the page before")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="claims of a page")] = 1000,
) -> ClaimPage:
    """A page of claim certificates in the order they were made, with how many devices enrolled."""
    with session_scope(context.engine, read_only=True) as session:
        items = [_document(row) for row in devices.list_claims(session, principal.project_id, after, limit)]
    return ClaimPage(items=items, next=items[-1].id if len(items) == limit else None)


@router.post("/claims", status_code=201)
def post_claim(context: Context, principal: Operator, new: NewClaim) -> ClaimWithKey:
    """A claim certificate: good for enrolment at the EST listener only, within its quota."""
    pki = Pki.load(context.settings)
    with session_scope(context.engine) as session:
        row, certificate, key = devices.create_claim(session, pki, project_id=principal.project_id, **new.model_dump())
        made = _document(row).model_dump()
    return ClaimWithKey(**made, certificate_pem=certificate.decode(), key_pem=key.decode())


@router.post("/claims/{claim_id}/revoke")
def post_revoke_claim(context: Context, principal: Operator, claim_id: RowId) -> ClaimDocument:
    """Let nobody enrol with a claim any more; devices that did stay as they are."""
    with session_scope(context.engine) as session:
        return _document(devices.revoke_claim(session, principal.project_id, claim_id))


def _document(row: ClaimCertificate) -> ClaimDocument:
    values = {key: value for key, value in row.model_dump().items() if key in ClaimDocument.model_fields}
    return ClaimDocument(**values, state=devices.claim_state(row))
