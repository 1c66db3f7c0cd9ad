"""Every metric that processes count, by name; gauges read from the database stand in `http/fleet_metrics.py`.

Names follow Prometheus: base units as suffix, `_total` on counters. Labels have few values: never a device or a person.
"""

from __future__ import annotations

import logging

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server

from tinyfleet_service.errors import StartError
from tinyfleet_service.settings import Settings

HTTP_REQUESTS = Counter("tinyfleet_http_requests", "Answered requests of the API", ["method", "route", "status"])
HTTP_SECONDS = Histogram(
    "tinyfleet_http_request_seconds", "Time until the answer began", ["method", "route"],
    buckets=(0.005, 0.02, 0.1, 0.5, 2.0, 10.0),
)  # fmt: skip
EST_REQUESTS = Counter("tinyfleet_est_requests", "Answered EST requests", ["operation", "status"])
TICKS = Counter("tinyfleet_controller_ticks", "Controller steps: done, standby (no lease) or failed", ["outcome"])
TICK_SECONDS = Histogram(
    "tinyfleet_controller_tick_seconds", "Time of one controller step", buckets=(0.01, 0.05, 0.2, 1.0, 5.0, 20.0)
)
ASSIGNMENTS = Counter("tinyfleet_controller_assignments", "Assignments signed")
LEASE_HELD = Gauge("tinyfleet_controller_lease_held", "1 while this controller holds the lease")
BUILDS = Counter("tinyfleet_builder_builds", "Builds that ended here", ["state"])
BUILDS_RUNNING = Gauge("tinyfleet_builder_running_builds", "Builds under way in this builder")
WEBHOOK_ATTEMPTS = Counter("tinyfleet_webhook_attempts", "Posts: delivered, failed (sent again) or dead", ["outcome"])
OWNERS = {
    "api": (HTTP_REQUESTS, HTTP_SECONDS),
    "est": (EST_REQUESTS,),
    "controller": (TICKS, TICK_SECONDS, ASSIGNMENTS, LEASE_HELD),
    "builder": (BUILDS, BUILDS_RUNNING),
    "webhooks": (WEBHOOK_ATTEMPTS,),
}
PORT_ORDER = ("est", "controller", "ingest", "builder", "webhooks")
"""A process listens at `metrics_port` plus its place here; the API serves `/metrics` at its own port."""
_log = logging.getLogger(__name__)


def keep_own(process: str) -> None:
    """What other processes count is not shown by this one: its zeros would say that no controller holds the lease."""
    for owner, metrics in OWNERS.items():
        for metric in metrics if owner != process else ():
            REGISTRY.unregister(metric)


def serve_metrics(process: str, settings: Settings) -> None:
    """Answer `/metrics` of this process, when `metrics_port` is set. Raises StartError when the port is taken."""
    if not settings.metrics_port or process not in PORT_ORDER:
        return
    port = settings.metrics_port + PORT_ORDER.index(process)
    try:
        start_http_server(port, settings.metrics_host)
    except OSError as error:
        raise StartError(
            f"cannot listen on {settings.metrics_host}:{port} for metrics: {error.strerror or error}",
            next="choose another TINYFLEET_METRICS_PORT; five ports from there on are used",
            port=port,
        ) from error
    _log.info("metrics at port %s", port)
