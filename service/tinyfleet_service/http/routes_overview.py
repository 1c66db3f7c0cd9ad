"""The fleet at a glance: devices by version and state, accuracy and latency by version."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fastapi import APIRouter
from sqlmodel import Session, func, select

from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Device
from tinyfleet_service.http.context import Context, Viewer
from tinyfleet_service.http.documents import version_names

router = APIRouter(tags=["overview"])


@router.get("/overview")
def get_overview(context: Context, principal: Viewer) -> dict[str, Any]:
    """Counts of devices, and what they measured per version."""
    with session_scope(context.engine, read_only=True) as session:
        names = version_names(session, principal.project_id)
        devices = _devices(session, principal.project_id, names)
    by_image = context.telemetry.overview()
    measured = [
        {"version": names[image], "image": image, **_plain(row)} for image, row in by_image.items() if image in names
    ]
    return {"devices": devices, "images": measured}


def _devices(session: Session, project_id: int, names: dict[str, str]) -> dict[str, Any]:
    query = select(Device.device_class, Device.state, Device.active_image, func.count()).where(
        Device.project_id == project_id
    )
    rows = session.exec(query.group_by(Device.device_class, Device.state, Device.active_image)).all()
    by_class, by_state, by_version = Counter[str](), Counter[str](), Counter[str]()
    for device_class, state, image, count in rows:
        by_class[device_class] += count
        by_state[state] += count
        by_version[names.get(image or "", "unknown" if image else "none")] += count
    total = sum(by_class.values())
    return {"total": total, "by_class": dict(by_class), "by_state": dict(by_state), "by_version": dict(by_version)}


def _plain(row: Any) -> dict[str, Any]:
    return dict(row) if isinstance(row, dict) else dict(vars(row))
