"""Telemetry: counters of devices, kept idempotently, summed per device and per image."""

from tinyfleet_service.telemetry.counters import Counters, histogram_quantile
from tinyfleet_service.telemetry.store import Ingested, Rollup, TelemetryStore

__all__ = ["Counters", "Ingested", "Rollup", "TelemetryStore", "histogram_quantile"]
