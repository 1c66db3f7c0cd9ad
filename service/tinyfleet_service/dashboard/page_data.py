"""What the page shows, in the words and formats of the page; numbers come from the same functions as the API's."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session, col, select

from tinyfleet_service import rollouts
from tinyfleet_service.dashboard.build_data import recent_builds
from tinyfleet_service.dashboard.events import sentence
from tinyfleet_service.dashboard.figures import microseconds, percent
from tinyfleet_service.dashboard.rollout_data import show_rollout
from tinyfleet_service.dashboard.samples import Samples
from tinyfleet_service.database.models import Event, Project
from tinyfleet_service.telemetry import TelemetryStore

EVENTS = 40
ROLLOUTS = 8
QUIET_EVENTS = (
    "member_assigned",
    "member_downloading",
    "member_shadowing",
    "member_testing",
    "member_confirmed",
    "boot",
    "download",
)


def collect(session: Session, telemetry: TelemetryStore, project_id: int, samples: Samples) -> dict[str, Any]:
    """Template variables of the live part."""
    project = session.get_one(Project, project_id)
    overview = rollouts.fleet_overview(session, telemetry, project_id)
    listed = rollouts.list_rollouts(session, project_id, ROLLOUTS)
    newest = rollouts.rollout_view(session, listed[0]["id"], telemetry) if listed else None
    return {
        "project": project.name,
        "frozen": project.frozen_by if project.frozen_at else None,
        "page": "operations",
        "fleet": _fleet(overview["devices"]),
        "rollout": show_rollout(newest) if newest else None,
        "rollouts": [{**row, "reason": row["reason"] or row["stage"]} for row in listed],
        "versions": [_version(row) for row in overview["versions"]],
        "builds": recent_builds(session, project_id),
        "events": _events(session, project_id),
        "series": samples.series(),
    }


def _fleet(devices: dict[str, Any]) -> dict[str, Any]:
    online = devices["online"]
    silent = 0 if online is None else devices["total"] - online
    return {
        "total": devices["total"],
        "online": "…" if online is None else f"{online:,}",
        "silent": "…" if online is None else f"{silent:,}",
        "alarming": bool(silent),
        "updating": devices["updating"],
        "classes": devices["by_class"],
    }


def _version(row: dict[str, Any]) -> dict[str, Any]:
    beside = row["accuracy"] is None  # no label yet as the model in use: what shadow says stands in
    with_shadow = "_with_shadow" if beside else ""
    return {
        "version": row["version"],
        "devices": row["devices"],
        "accuracy": percent(row[f"accuracy{with_shadow}"]),
        "accuracy_server": percent(row["accuracy_server"]),
        "labelled": f"{row[f'labelled{with_shadow}']:,}",
        "in_shadow": beside and row["accuracy_with_shadow"] is not None,
        "inferences": f"{row['inferences']:,}",
        "latency_p50": microseconds(row["latency_p50_us"]),
        "latency_p95": microseconds(row["latency_p95_us"]),
        "states": sorted(row["states"].items()),
    }


def _events(session: Session, project_id: int) -> list[dict[str, str]]:
    query = select(Event).where(Event.project_id == project_id, col(Event.kind).not_in(QUIET_EVENTS))
    rows = session.exec(query.order_by(col(Event.id).desc()).limit(EVENTS)).all()
    return [{"time": row.at.strftime("%m-%d %H:%M:%S"), "text": _sentence(row)} for row in rows]


def _sentence(row: Event) -> str:
    return sentence({"kind": row.kind, "detail": row.detail, "device": row.device_id, "rollout": row.rollout_id})
