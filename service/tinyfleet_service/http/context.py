"""What routes depend on: the application's parts, and who is asking."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Path, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from sqlalchemy import Engine

from tinyfleet_service.audit import name_actor
from tinyfleet_service.auth import Principal, Role, check_token, require_role, require_scope
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.errors import UnauthenticatedError
from tinyfleet_service.http.kept import Kept
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore


@dataclass(frozen=True)
class AppContext:
    """Parts that live as long as the application."""

    settings: Settings
    engine: Engine
    store: BlobStore
    telemetry: TelemetryStore
    ready: Kept = field(default_factory=Kept)


async def get_context(request: Request) -> AppContext:
    """The application's parts."""
    context: AppContext = request.app.state.context
    return context


Context = Annotated[AppContext, Depends(get_context)]
MAX_ID = 2**31 - 1  # what the databases' integer keys hold
RowId = Annotated[int, Path(ge=1, le=MAX_ID)]
_bearer = HTTPBearer(auto_error=False, description="API token")


def get_principal(
    context: Context, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Principal:
    """Who is asking. Raises UnauthenticatedError."""
    principal = recognise(context.engine, credentials.credentials if credentials else None)
    name_actor(principal.actor, principal.project_id)
    return principal


def recognise(engine: Engine, token: str | None) -> Principal:
    """Whose token it is. Raises UnauthenticatedError."""
    if token is None:
        raise UnauthenticatedError("this needs an API token", next="send `Authorization: Bearer <token>`")
    with session_scope(engine, read_only=True) as session:
        return check_token(session, token)


def _needs(role: Role) -> Callable[..., Awaitable[Principal]]:
    async def check(request: Request, principal: Annotated[Principal, Depends(get_principal)]) -> Principal:
        require_role(principal.role, role)
        tags = getattr(request.scope.get("route"), "tags", None)
        if principal.scopes and tags:
            require_scope(principal.scopes, str(tags[0]), request.method in ("GET", "HEAD"))
        return principal

    return check


# The scope is what the OpenAPI document shows as the role that a route needs.
Viewer = Annotated[Principal, Security(_needs(Role.VIEWER), scopes=[Role.VIEWER.value])]
Operator = Annotated[Principal, Security(_needs(Role.OPERATOR), scopes=[Role.OPERATOR.value])]
Approver = Annotated[Principal, Security(_needs(Role.APPROVER), scopes=[Role.APPROVER.value])]
Admin = Annotated[Principal, Security(_needs(Role.ADMIN), scopes=[Role.ADMIN.value])]


class ErrorFacts(BaseModel):
    """What went wrong, what to do next, and facts that depend on the code."""

    model_config = {"extra": "allow"}
    code: str
    message: str
    next: str


class ErrorDocument(BaseModel):
    """Body of every answer that is not a success."""

    error: ErrorFacts


ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorDocument, "description": text}
    for status, text in (
        (401, "no valid token"),
        (403, "the role does not allow it"),
        (404, "no such thing"),
        (409, "contradicts what is there"),
        (413, "too large"),
        (422, "makes no sense"),
        (429, "too many requests; `Retry-After` says when"),
        (503, "a part does not answer; try again"),
        (507, "the disk is full"),
    )
}
