"""What the page shows, in the words and formats of the page; numbers come from the same functions as the API's."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session, col, select

from tinyfleet_service import rollouts
from tinyfleet_service.dashboard.build_data import recent_builds
from tinyfleet_service.dashboard.samples import Samples
from tinyfleet_service.database.models import Event, Project
from tinyfleet_service.telemetry import TelemetryStore

EVENTS = 40
ROLLOUTS = 8
MEMBER_ORDER = (
    "confirmed", "testing", "shadowing", "downloading", "assigned", "planned", "silent", "rejected", "undoing",
    "undone", "skipped",
)  # fmt: skip
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
        "rollout": _rollout(newest) if newest else None,
        "rollouts": [{**row, "reason": row["reason"] or row["stage"]} for row in listed],
        "versions": [_version(row) for row in overview["versions"]],
        "builds": recent_builds(session, project_id),
        "events": _events(session, project_id),
        "series": samples.series(),
    }


def _fleet(devices: dict[str, Any]) -> dict[str, Any]:
    online = devices["online"]
    return {
        "total": devices["total"],
        "online": "…" if online is None else online,
        "silent": "…" if online is None else devices["total"] - online,
        "updating": devices["updating"],
        "classes": devices["by_class"],
    }


def _rollout(view: dict[str, Any]) -> dict[str, Any]:
    members = [(status, view["members"][status]) for status in MEMBER_ORDER if view["members"].get(status)]
    stages = [_stage(stage, view["state"]) for stage in view["stages"]]
    shown = [stage for stage in view["stages"] if stage["gates"]]
    return {
        **view,
        "members": members,
        "stages": stages,
        "gates": shown[-1]["gates"] if shown else [],
        "earlier_gates": [gate for stage in shown[:-1] for gate in stage["gates"]],
    }


def _stage(stage: dict[str, Any], state: str) -> dict[str, Any]:
    status = stage["status"]
    if status == "current" and state in ("rolled_back", "aborted"):
        status = "failed"
    if status == "current" and state == "promoted":
        status = "done"
    detail = stage["skipped"] or f"{stage['devices']} device{'s' if stage['devices'] != 1 else ''}"
    if stage["holdout"]:
        detail += ", holdout"
    return {"name": stage["name"], "status": status, "detail": detail}


def _version(row: dict[str, Any]) -> dict[str, Any]:
    accuracy = row["accuracy"] if row["accuracy"] is not None else row["accuracy_with_shadow"]
    return {
        "version": row["version"],
        "devices": row["devices"],
        "accuracy": _percent(accuracy),
        "accuracy_server": _percent(row["accuracy_server"]),
        "labelled": f"{row['labelled_with_shadow']:,}",
        "inferences": f"{row['inferences']:,}",
        "latency_p50": _microseconds(row["latency_p50_us"]),
        "latency_p95": _microseconds(row["latency_p95_us"]),
        "states": sorted(row["states"].items()),
    }


def _events(session: Session, project_id: int) -> list[dict[str, str]]:
    query = select(Event).where(Event.project_id == project_id, col(Event.kind).not_in(QUIET_EVENTS))
    rows = session.exec(query.order_by(col(Event.id).desc()).limit(EVENTS)).all()
    return [{"time": row.at.strftime("%H:%M:%S"), "text": _sentence(row)} for row in rows]


def _sentence(event: Event) -> str:
    detail = event.detail or {}
    who = f"{event.device_id}: " if event.device_id else f"rollout {event.rollout_id}: " if event.rollout_id else ""
    if event.kind == "slot":
        reason = "" if detail.get("reason") in (None, "NONE") else f" ({detail['reason'].lower().replace('_', ' ')})"
        return f"{who}{str(detail.get('from', '')).lower()} → {str(detail.get('to', '')).lower()}{reason}"
    rest = ", ".join(f"{key} {value}" for key, value in detail.items() if value not in (None, "", 0, [], {}))
    return f"{who}{event.kind.replace('_', ' ')}{': ' + rest if rest else ''}"


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.1f} %"


def _microseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f} µs"
