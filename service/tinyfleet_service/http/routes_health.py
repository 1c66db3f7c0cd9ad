"""For supervisors and Prometheus: the process answers, its parts answer, and how much it does."""

from __future__ import annotations

import socket

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlmodel import select

from tinyfleet_service import broker
from tinyfleet_service.database.engine import database_now, session_scope
from tinyfleet_service.database.models import Lease
from tinyfleet_service.errors import FleetError
from tinyfleet_service.http.context import ANSWERS, AppContext, Context, Viewer
from tinyfleet_service.http.fleet_metrics import fleet_metrics
from tinyfleet_service.publish import CONTROLLER_LEASE

router = APIRouter(tags=["health"])
CONNECT_S = 1.0
AWAY, UNKNOWN = "does not answer", "unknown"
LATE = {"database": AWAY, "broker": UNKNOWN, "controller": UNKNOWN}
"""While the checks take longer than anybody waits: of the three, only the database may."""


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process answers. Needs no token and tells nothing else."""
    return {"status": "ok"}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={503: {"description": "a part does not answer"}})
async def readyz(context: Context, answer: Response) -> dict[str, str]:
    """Database, broker and the controller's lease; 503 while one of them is away. Needs no token."""
    checks = await context.ready.get(lambda: _check_all(context)) or LATE
    if set(checks.values()) != {"ok"}:
        answer.status_code = 503
    return checks


@router.get("/metrics", response_class=Response, responses=ANSWERS)
def metrics(context: Context, principal: Viewer) -> Response:
    """Prometheus text: this process, and counts of the token's project from the database."""
    text = generate_latest() + generate_latest(fleet_metrics(context, principal.project_id))
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _check_all(context: AppContext) -> dict[str, str]:
    database = _database(context)
    controller = _controller(context) if database == "ok" else UNKNOWN
    return {"database": database, "broker": _broker(context), "controller": controller}


def _database(context: AppContext) -> str:
    try:
        with session_scope(context.engine, read_only=True) as session:
            database_now(session)
    except FleetError:
        return AWAY
    return "ok"


def _broker(context: AppContext) -> str:
    address = (broker.address(context.settings), context.settings.broker_port)
    try:
        with socket.create_connection(address, CONNECT_S):
            return "ok"
    except OSError:
        return AWAY


def _controller(context: AppContext) -> str:
    try:
        with session_scope(context.engine, read_only=True) as session:
            row = session.exec(select(Lease).where(Lease.name == CONTROLLER_LEASE)).first()
            alive = row is not None and row.until > database_now(session)
    except FleetError:
        return UNKNOWN
    return "ok" if alive else "nobody holds the lease"
