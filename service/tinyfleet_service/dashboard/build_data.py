"""What the pages show of builds: the newest ones with the step each is at, and the log of one."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from tinyfleet_service.auth import Principal
from tinyfleet_service.builds import list_builds, read_notes
from tinyfleet_service.errors import NotFoundError

SHOWN = 100
RECENT = 8
UNDER_WAY = ("queued", "running")


def recent_builds(session: Session, project_id: int) -> list[dict[str, Any]]:
    """Builds under way, then the newest others, a few."""
    rows = list_builds(session, project_id, SHOWN)
    return sorted(rows, key=lambda row: row["state"] not in UNDER_WAY)[:RECENT]


def builds_data(session: Session, principal: Principal) -> dict[str, Any]:
    """Template variables of the page of builds."""
    rows = list_builds(session, principal.project_id, SHOWN)
    return {"project": principal.project, "page": "builds", "builds": rows}


def build_data(session: Session, principal: Principal, build_id: int) -> dict[str, Any]:
    """Template variables of one build's log. Raises NotFoundError."""
    rows = list_builds(session, principal.project_id, 1, build_id)
    if not rows:
        raise NotFoundError(f"no build {build_id}", next="see the page of builds", what="build", name=build_id)
    return {"project": principal.project, "page": "builds", "build": rows[0], "lines": read_notes(session, build_id)}
