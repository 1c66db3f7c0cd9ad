"""Gauges of one project, read from the database when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
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
from tinyfleet_service.publish.transfers import CLAIMS
from tinyfleet_service.telemetry import TelemetryStore


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
    registry.register(_Ingesters(context.telemetry))
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
    for row in session.exec(select(Lease).where(~col(Lease.name).startswith(CLAIMS))):  # a name for each delta
        lease.labels(row.name).set((row.until - now).total_seconds())


class _Ingesters:
    """What each ingester last said of itself; the counts begin again with its process, as Prometheus expects."""

    def __init__(self, telemetry: TelemetryStore) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterator[Metric]:
        """Families, one sample a member."""
        reports = CounterMetricFamily("tinyfleet_ingest_reports", "Telemetry reports", labels=["member", "result"])
        dropped = CounterMetricFamily("tinyfleet_broker_dropped_messages", "Dropped by the broker", labels=["member"])
        held = GaugeMetricFamily("tinyfleet_broker_held_messages", "Held by the broker", labels=["member"])
        waiting = GaugeMetricFamily("tinyfleet_ingest_waiting_messages", "Not yet committed", labels=["member"])
        commit = GaugeMetricFamily("tinyfleet_ingest_commit_seconds", "Time of the last commit", labels=["member"])
        age = GaugeMetricFamily("tinyfleet_ingest_age_seconds", "Since the ingester said so", labels=["member"])
        for member, said in self._telemetry.ingesters().items():
            for result in ("stored", "known", "refused"):
                reports.add_metric([str(member), result], said[result])
            for family, name in (
                (dropped, "dropped"),
                (held, "held"),
                (waiting, "waiting"),
                (commit, "commit_s"),
                (age, "age_s"),
            ):
                family.add_metric([str(member)], said[name])
        yield from (reports, dropped, held, waiting, commit, age)
