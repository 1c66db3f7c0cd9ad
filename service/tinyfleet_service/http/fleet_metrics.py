"""Gauges of one project, read from the database when Prometheus asks."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import func
from sqlmodel import Session, col, select

from tinyfleet_service.database.engine import database_now, session_scope
from tinyfleet_service.database.models import (
    Build,
    BuildState,
    Device,
    DeviceState,
    Lease,
    Model,
    ModelVersion,
    Outbox,
    Rollout,
    RolloutState,
)
from tinyfleet_service.http.context import AppContext


def fleet_metrics(context: AppContext, project_id: int) -> CollectorRegistry:
    """A registry that holds the project's counts; every state has its line, also at zero."""
    registry = CollectorRegistry()
    with session_scope(context.engine, read_only=True) as session:
        builds = (
            select(Build.state, func.count())
            .join(ModelVersion, col(ModelVersion.id) == Build.version_id)
            .join(Model, col(Model.id) == ModelVersion.model_id)
            .where(Model.project_id == project_id)
        )
        _by_state(session, registry, "tinyfleet_builds", "Builds", builds.group_by(Build.state), BuildState)
        for table, states, name in ((Device, DeviceState, "devices"), (Rollout, RolloutState, "rollouts")):
            query: Any = select(table.state, func.count()).where(table.project_id == project_id).group_by(table.state)
            _by_state(session, registry, f"tinyfleet_{name}", name.capitalize(), query, states)
        _queues(session, registry)
    return registry


def _by_state(session: Session, registry: CollectorRegistry, name: str, what: str, query: Any, states: Any) -> None:
    counts = dict(session.exec(query).all())
    gauge = Gauge(name, f"{what} of the project by state", ["state"], registry=registry)
    for state in states:
        gauge.labels(state.value).set(counts.get(state.value, 0))


def _queues(session: Session, registry: CollectorRegistry) -> None:
    waiting = session.exec(select(func.count()).select_from(Outbox).where(col(Outbox.published_at).is_(None))).one()
    Gauge("tinyfleet_outbox_messages", "Messages not yet at the broker", registry=registry).set(waiting)
    now = database_now(session)
    lease = Gauge("tinyfleet_lease_remaining_seconds", "Until a lease ends", ["name"], registry=registry)
    for row in session.exec(select(Lease)):
        lease.labels(row.name).set((row.until - now).total_seconds())
