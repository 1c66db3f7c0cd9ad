"""Tokens, roles and the first start."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import SQLModel, select

from tinyfleet_service.auth import (
    Role,
    check_token,
    create_token,
    ensure_admin,
    ensure_project,
    find_token,
    require_role,
    revoke_token,
)
from tinyfleet_service.database.engine import make_engine, session_scope
from tinyfleet_service.database.models import ApiToken, utc_now
from tinyfleet_service.errors import ForbiddenError, InvalidInputError, NotFoundError, UnauthenticatedError
from tinyfleet_service.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = load_settings(tmp_path)
    settings.dirs.create()
    return settings


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings)
    SQLModel.metadata.create_all(engine)
    yield engine
    engine.dispose()


def test_a_token_is_stored_as_a_digest_only(engine: Engine, settings: Settings) -> None:
    with session_scope(engine) as session:
        project = ensure_project(session, "p")
        row, text = create_token(session, project.id, "ci", Role.OPERATOR)
        principal = check_token(session, text)
        assert (principal.project, principal.name, principal.role) == ("p", "ci", Role.OPERATOR)
        assert find_token(session, row.id) == principal
    stored = b"".join(path.read_bytes() for path in settings.data.glob("tinyfleet.db*"))
    assert text.encode() not in stored
    assert row.token_sha256.encode() in stored


@pytest.mark.parametrize(
    "text", ["", "tf_", "tf_" + "A" * 43, "x" * 10_000, "é\udcff".encode("utf-8", "replace").decode()]
)
def test_unknown_tokens_are_refused_alike(engine: Engine, text: str) -> None:
    with session_scope(engine) as session, pytest.raises(UnauthenticatedError, match="unknown API token"):
        check_token(session, text)


def test_expiry(engine: Engine) -> None:
    with session_scope(engine) as session:
        project = ensure_project(session, "p")
        row, text = create_token(session, project.id, "short", Role.VIEWER, timedelta(hours=1))
        check_token(session, text)
        later = utc_now() + timedelta(hours=2)
        with pytest.raises(UnauthenticatedError, match="expired"):
            check_token(session, text, later)
        assert find_token(session, row.id, later) is None


@pytest.mark.parametrize(("name", "ttl"), [("", None), ("x" * 65, None), ("a\nb", None), ("a", timedelta(0))])
def test_bad_tokens_are_not_made(engine: Engine, name: str, ttl: timedelta | None) -> None:
    with session_scope(engine) as session:
        project = ensure_project(session, "p")
        with pytest.raises(InvalidInputError):
            create_token(session, project.id, name, Role.VIEWER, ttl)
        assert session.exec(select(ApiToken)).all() == []


def test_a_project_cannot_revoke_another_projects_token(engine: Engine) -> None:
    with session_scope(engine) as session:
        ours, theirs = ensure_project(session, "a"), ensure_project(session, "b")
        row, text = create_token(session, theirs.id, "t", Role.ADMIN)
        with pytest.raises(NotFoundError):
            revoke_token(session, ours.id, row.id)
        revoke_token(session, theirs.id, row.id)
        session.flush()
        with pytest.raises(UnauthenticatedError):
            check_token(session, text)
        assert find_token(session, row.id) is None


def test_roles_include_the_ones_before() -> None:
    allowed = {(have, need) for have in Role for need in Role if have.includes(need)}
    assert len(allowed) == 10
    require_role(Role.ADMIN, Role.VIEWER)
    with pytest.raises(ForbiddenError):
        require_role(Role.OPERATOR, Role.APPROVER)
    with pytest.raises(InvalidInputError):
        Role.parse("root")


def test_first_start_writes_a_private_token_once(engine: Engine, settings: Settings) -> None:
    path = ensure_admin(engine, settings)
    text = path.read_text().strip()
    assert path.stat().st_mode & 0o77 == 0
    ensure_admin(engine, settings)
    assert path.read_text().strip() == text
    with session_scope(engine) as session:
        assert check_token(session, text).role is Role.ADMIN


@pytest.mark.parametrize("damage", [b"", b"tf_stale\n", b"\xff\xfe"])
def test_a_lost_or_stale_token_file_is_made_again(engine: Engine, settings: Settings, damage: bytes) -> None:
    path = ensure_admin(engine, settings)
    path.write_bytes(damage)
    ensure_admin(engine, settings)
    with session_scope(engine) as session:
        assert check_token(session, path.read_text().strip()).role is Role.ADMIN
    assert path.stat().st_mode & 0o77 == 0
