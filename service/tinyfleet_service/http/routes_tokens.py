"""API tokens; administrators only."""

from __future__ import annotations

from datetime import datetime, timedelta

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from sqlmodel import select

from tinyfleet_service.auth import Role, create_token, require_subset, revoke_token
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import ApiToken
from tinyfleet_service.http.context import Admin, Context, RowId
from tinyfleet_service.http.documents import Document

router = APIRouter(tags=["tokens"])
MAX_HOURS = 24.0 * 3650


class NewToken(BaseModel):
    """A token to make; it never expires without `hours`."""

    name: str = Field(max_length=64, description="whose it is; stands in the history")
    role: Role = Field(default=Role.VIEWER, description="viewer, operator, approver or admin")
    scopes: list[str] = Field(
        default_factory=list, max_length=40, description="models:write, builds:read ...: nothing else; none means all"
    )
    hours: float | None = Field(default=None, gt=0, le=MAX_HOURS, description="hours until it expires; never without")


class TokenDocument(Document):
    """A token without its text."""

    id: int
    name: str
    role: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None


class TokenWithText(TokenDocument):
    """The only answer that ever holds the text."""

    token: str


@router.get("/tokens")
def get_tokens(context: Context, principal: Admin) -> dict[str, list[TokenDocument]]:
    """Tokens of the project."""
    with session_scope(context.engine, read_only=True) as session:
        rows = session.exec(select(ApiToken).where(ApiToken.project_id == principal.project_id)).all()
        return {"items": [TokenDocument.model_validate(row) for row in rows]}


@router.post("/tokens", status_code=201)
def post_token(context: Context, principal: Admin, new: NewToken) -> TokenWithText:
    """Make a token; its text is shown once."""
    ttl = None if new.hours is None else timedelta(hours=new.hours)
    require_subset(principal.scopes, new.scopes)
    with session_scope(context.engine) as session:
        row, text = create_token(session, principal.project_id, new.name, new.role, ttl, new.scopes)
    return TokenWithText(**TokenDocument.model_validate(row).model_dump(), token=text)


@router.delete("/tokens/{token_id}", status_code=204, response_class=Response)
def delete_token(context: Context, principal: Admin, token_id: RowId) -> Response:
    """Revoke a token, also one's own."""
    with session_scope(context.engine) as session:
        revoke_token(session, principal.project_id, token_id)
    return Response(status_code=204)
