"""A push registers a version and queues one build per device class of the project, in one transaction."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, func, select

from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import FIRMWARE, Build, Event, ModelVersion
from tinyfleet_service.errors import StateConflictError
from tinyfleet_service.registry.device_classes import project_classes
from tinyfleet_service.registry.versions import NewVersion, list_models, register_version, versions_of

RACES = 5


def push_version(engine: Engine, project_id: int, new: NewVersion) -> tuple[ModelVersion, bool]:
    """Register and queue; (version, True when new). Two pushes at the same moment are put in order.

    Raises InvalidInputError, VersionConflictError, StateConflictError when the project has no device class.
    """
    return with_retries(engine, lambda session: _push(session, project_id, new))


def with_retries(engine: Engine, push: Callable[[Session], tuple[ModelVersion, bool]]) -> tuple[ModelVersion, bool]:
    """What `push` did in a transaction of its own, again where another push took the version or release counter."""
    for _ in range(RACES):
        try:
            with session_scope(engine) as session:
                return push(session)
        except IntegrityError:
            continue
    raise StateConflictError("too many pushes at the same moment", next="push again")


def _push(session: Session, project_id: int, new: NewVersion) -> tuple[ModelVersion, bool]:
    names = [row.name for row in project_classes(session, project_id)]
    if not names:
        raise StateConflictError(
            "the project has no device class to build for",
            next="add one: POST /api/v1/device-classes with a shipped class's name or your own TOML",
        )
    version, created = register_version(session, project_id, new)
    if created:
        for name in names:
            _queue(session, version, name)
        detail = {"model": new.name, "version": new.version, "sha256": new.model_sha256}
        session.add(Event(project_id=project_id, kind="model.pushed", detail=detail))
        session.flush()
    return version, created


def queue_for_class(session: Session, project_id: int, device_class: str) -> int:
    """Queue the newest version of each model for a class that came later; how many."""
    models = [model for model in list_models(session, project_id) if model.component != FIRMWARE]
    newest = [versions_of(session, model.id)[-1:] for model in models if model.id]
    for versions in newest:
        for version in versions:
            _queue(session, version, device_class)
    session.flush()
    return sum(map(len, newest))


def _queue(session: Session, version: ModelVersion, device_class: str) -> None:
    """The release counter is drawn here, so that releases are ordered as pushed, not as compiled."""
    assert version.id is not None
    session.add(Build(version_id=version.id, device_class=device_class, release_counter=next_counter(session)))
    session.flush()


def next_counter(session: Session) -> int:
    """The release counter of the next build."""
    return (session.exec(select(func.max(col(Build.release_counter)))).one() or 0) + 1
