"""What a first start makes: the project and an administrator's token in a file only its owner can read."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import Engine
from sqlmodel import Session, select

from tinyfleet_service.auth.roles import Role
from tinyfleet_service.auth.tokens import create_token, hash_token
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import ApiToken, Project
from tinyfleet_service.errors import StorageError
from tinyfleet_service.settings import Settings


def ensure_project(session: Session, name: str) -> Project:
    """The project of this name, made when missing."""
    project = session.exec(select(Project).where(Project.name == name)).first()
    if project is None:
        project = Project(name=name)
        session.add(project)
        session.flush()
    return project


def ensure_admin(engine: Engine, settings: Settings) -> Path:
    """Make sure that `admin.token` holds a valid token of the first project; the file. Raises StorageError."""
    path = settings.dirs.admin_token
    with session_scope(engine) as session:
        project = ensure_project(session, settings.project)
        if not _is_valid(session, path):
            assert project.id is not None
            _, text = create_token(session, project.id, "admin", Role.ADMIN)
            _write_private(path, text)
    return path


def _is_valid(session: Session, path: Path) -> bool:
    try:
        digest = hash_token(path.read_text().strip())
    except (OSError, UnicodeDecodeError):
        return False
    return session.exec(select(ApiToken).where(ApiToken.token_sha256 == digest)).first() is not None


def _write_private(path: Path, text: str) -> None:
    try:
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}", next="check the data directory") from error
