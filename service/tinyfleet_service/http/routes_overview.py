"""The fleet at a glance: devices by version and state, accuracy and latency by version."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from tinyfleet_service import rollouts
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.http.context import Context, Viewer

router = APIRouter(tags=["overview"])


@router.get("/overview")
def get_overview(context: Context, principal: Viewer) -> dict[str, Any]:
    """Counts of devices, and what they measured per version."""
    with session_scope(context.engine, read_only=True) as session:
        return rollouts.fleet_overview(session, context.telemetry, principal.project_id)
