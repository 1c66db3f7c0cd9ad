"""API tokens: 256 random bits shown once, kept as SHA-256 (no salt or stretching needed for so much entropy)."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import Session, select

from tinyfleet_service.auth.roles import Role
from tinyfleet_service.auth.scopes import check_scopes
from tinyfleet_service.database.models import ApiToken, Project, utc_now
from tinyfleet_service.errors import InvalidInputError, NotFoundError, UnauthenticatedError

PREFIX = "tf_"
MAX_NAME = 64


@dataclass(frozen=True)
class Principal:
    """Who is asking: a token, or a person with a session (`token_id` 0); the role, and the one project."""

    project_id: int
    project: str
    token_id: int
    name: str
    role: Role
    scopes: tuple[str, ...] = ()

    @property
    def actor(self) -> str:
        """How the audit log names it."""
        return f"{self.name} (token {self.token_id})" if self.token_id else f"{self.name} (logged in)"


def create_token(
    session: Session,
    project_id: int,
    name: str,
    role: Role,
    ttl: timedelta | None = None,
    scopes: Sequence[str] = (),
) -> tuple[ApiToken, str]:
    """A new token and its text, which nobody can read again.

    Raises InvalidInputError for a bad name or lifetime, or a scope that does not exist.
    """
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise InvalidInputError("a token needs a printable name", next=f"give 1 to {MAX_NAME} characters")
    if ttl is not None and ttl <= timedelta(0):
        raise InvalidInputError("a token cannot expire in the past", next="give a positive lifetime")
    text = PREFIX + secrets.token_urlsafe(32)
    expires_at = utc_now() + ttl if ttl else None
    row = ApiToken(
        project_id=project_id,
        name=name,
        role=str(role),
        scopes=check_scopes(scopes),
        token_sha256=hash_token(text),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    return row, text


def hash_token(text: str) -> str:
    """What the database keeps of a token."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_token(session: Session, text: str, now: datetime | None = None) -> Principal:
    """The principal of a token. Raises UnauthenticatedError, with one message for unknown and malformed ones."""
    row = session.exec(select(ApiToken).where(ApiToken.token_sha256 == hash_token(text))).first()
    if row is None:
        raise UnauthenticatedError("unknown API token", next="take its text as it was shown, or ask for a new one")
    return _principal(session, row, now or utc_now())


def find_token(session: Session, token_id: int, now: datetime | None = None) -> Principal | None:
    """The principal of a token's row, for sessions that began with it; None when it was revoked or has expired."""
    row = session.get(ApiToken, token_id)
    try:
        return _principal(session, row, now or utc_now()) if row else None
    except UnauthenticatedError:
        return None


def _principal(session: Session, row: ApiToken, now: datetime) -> Principal:
    if row.expires_at is not None and row.expires_at <= now:
        raise UnauthenticatedError("the API token has expired", next="ask an administrator for a new one")
    project = session.get_one(Project, row.project_id)
    assert row.id is not None
    return Principal(row.project_id, project.name, row.id, row.name, Role(row.role), tuple(row.scopes))


def revoke_token(session: Session, project_id: int, token_id: int) -> None:
    """Delete a token of this project. Raises NotFoundError."""
    row = session.get(ApiToken, token_id)
    if row is None or row.project_id != project_id:
        raise NotFoundError(f"no token {token_id}", next="list them: GET /api/v1/tokens", what="token", name=token_id)
    session.delete(row)
