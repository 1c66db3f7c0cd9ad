"""Builds as API, CLI and dashboard show them, made once."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session, col, func, select

from tinyfleet_service.database.models import Build, BuildNote, Model, ModelVersion
from tinyfleet_service.errors import NotFoundError


def list_builds(session: Session, project_id: int, limit: int, only: int | None = None) -> list[dict[str, Any]]:
    """The newest builds of a project, newest first, or `only` one, each with the last line of its log as `step`."""
    query = (
        select(Build, ModelVersion, Model)
        .join(ModelVersion, col(ModelVersion.id) == col(Build.version_id))
        .join(Model, col(Model.id) == col(ModelVersion.model_id))
        .where(Model.project_id == project_id)
        .order_by(col(Build.id).desc())
        .limit(limit)
    )
    query = query if only is None else query.where(Build.id == only)
    rows = session.exec(query).all()
    steps = _steps(session, [build.id or 0 for build, _, _ in rows])
    return [_row(build, f"{model.name}:{version.version}", steps) for build, version, model in rows]


def find_build(session: Session, project_id: int, build_id: int) -> Build:
    """The build, if it belongs to the project. Raises NotFoundError."""
    query = select(Build).join(ModelVersion, col(ModelVersion.id) == col(Build.version_id)).join(Model)
    build = session.exec(query.where(Build.id == build_id, Model.project_id == project_id)).first()
    if build is None:
        raise NotFoundError(
            f"no build {build_id}", next="`fleetctl build list` shows them", what="build", name=build_id
        )
    return build


def _row(build: Build, version: str, steps: dict[int, str]) -> dict[str, Any]:
    return {
        "id": build.id,
        "version": version,
        "device_class": build.device_class,
        "state": build.state,
        "attempt": build.attempt,
        "builder": build.lease_owner,
        "step": steps.get(build.id or 0, ""),
        "error": build.error,
        "created_at": build.created_at,
        "finished_at": build.finished_at,
    }


def _steps(session: Session, builds: list[int]) -> dict[int, str]:
    last = (
        select(func.max(col(BuildNote.id))).where(col(BuildNote.build_id).in_(builds)).group_by(col(BuildNote.build_id))
    )
    notes = session.exec(select(BuildNote).where(col(BuildNote.id).in_(last)))
    return {note.build_id: note.text for note in notes}
