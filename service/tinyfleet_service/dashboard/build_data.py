"""What the pages show of builds: the newest ones with the step each is at, and the log of one."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from tinyfleet_service.auth import Principal
from tinyfleet_service.builds import find_build, list_builds, read_notes
from tinyfleet_service.database.models import Build

SHOWN = 100
RECENT = 8
FINISHED = 2
UNDER_WAY = ("queued", "running", "awaiting-signature")


def recent_builds(session: Session, project_id: int) -> list[dict[str, Any]]:
    """Builds under way, a few, then the newest others, fewer."""
    rows = list_builds(session, project_id, SHOWN)
    under_way = [row for row in rows if row["state"] in UNDER_WAY]
    return under_way[:RECENT] + [row for row in rows if row["state"] not in UNDER_WAY][:FINISHED]


def builds_data(session: Session, principal: Principal) -> dict[str, Any]:
    """Template variables of the page of builds."""
    rows = list_builds(session, principal.project_id, SHOWN)
    return {"project": principal.project, "page": "builds", "builds": rows}


def build_data(session: Session, principal: Principal, build_id: int) -> dict[str, Any]:
    """Template variables of one build: what came out, and its log. Raises NotFoundError."""
    build = find_build(session, principal.project_id, build_id)
    return {
        "project": principal.project,
        "page": "builds",
        "build": list_builds(session, principal.project_id, 1, build_id)[0],
        "facts": build_facts(build),
        "reasons": (build.report.get("fits") or {}).get("reasons") or [],
        "lines": read_notes(session, build_id),
    }


def build_facts(build: Build) -> dict[str, Any]:
    """What a build's report says, in short; accuracies as fractions, sizes in bytes, latency in ms, estimated."""
    accuracy, estimate = build.report.get("accuracy") or {}, build.report.get("estimate") or {}
    return {
        "id": build.id,
        "device_class": build.device_class,
        "state": build.state,
        "metric": accuracy.get("metric"),
        "accuracy": accuracy.get("quantized"),
        "float": accuracy.get("float"),
        "image_bytes": build.image_bytes,
        "arena_bytes": build.report.get("arena_bytes"),
        "latency_ms": estimate.get("latency_ms"),
        "report": build.report_html_sha256 is not None,
    }
