"""What happens to a build, in the event stream and in its own log."""

from __future__ import annotations

from sqlmodel import Session

from tinyfleet_service.builds.notes import add_note
from tinyfleet_service.database.models import Build, Event, Model, ModelVersion


def add_build_event(session: Session, build: Build) -> None:
    """Tell the event stream and the build's log where it stands."""
    add_note(
        session, build, f"{build.state}: {build.error}" if build.error not in (None, build.state) else str(build.state)
    )
    version = session.get_one(ModelVersion, build.version_id)
    model = session.get_one(Model, version.model_id)
    detail = {
        "build": build.id,
        "model": model.name,
        "version": version.version,
        "device_class": build.device_class,
        "state": str(build.state),
    }
    session.add(Event(project_id=model.project_id, kind=f"build.{build.state}", detail=detail))
