"""Sessions of the dashboard: a random cookie, kept as SHA-256, that ends by logout, by time, or with its token."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from sqlmodel import Session, col, delete, select

from tinyfleet_service.auth.roles import Role
from tinyfleet_service.auth.tokens import Principal, find_token, hash_token
from tinyfleet_service.database.models import Project, WebSession, utc_now


def begin_session(session: Session, principal: Principal, lifetime: timedelta) -> str:
    """A new session of this principal; the cookie's value. Sessions that are over are forgotten meanwhile."""
    now = utc_now()
    session.exec(delete(WebSession).where(col(WebSession.expires_at) <= now))
    cookie = secrets.token_urlsafe(32)
    row = WebSession(
        cookie_sha256=hash_token(cookie),
        project_id=principal.project_id,
        token_id=principal.token_id or None,
        name=principal.name,
        role=principal.role.value,
        expires_at=now + lifetime,
    )
    session.add(row)
    return cookie


def find_session(session: Session, cookie: str | None, now: datetime | None = None) -> Principal | None:
    """Who the cookie belongs to; None when it is unknown or over, or its token was revoked or has expired."""
    row = _row(session, cookie)
    if row is None or row.expires_at <= (now or utc_now()):
        return None
    if row.token_id is not None:
        return find_token(session, row.token_id, now)
    project = session.get_one(Project, row.project_id)
    return Principal(row.project_id, project.name, 0, row.name, Role(row.role))


def end_session(session: Session, cookie: str | None) -> None:
    """Log out, for a copy of the cookie too."""
    if (row := _row(session, cookie)) is not None:
        session.delete(row)


def _row(session: Session, cookie: str | None) -> WebSession | None:
    if not cookie:
        return None
    return session.exec(select(WebSession).where(WebSession.cookie_sha256 == hash_token(cookie))).first()
