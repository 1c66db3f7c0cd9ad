"""Telemetry: counters of devices, kept idempotently, summed per device and per image."""

from tinyfleet_service.telemetry.counters import Counters, histogram_quantile
from tinyfleet_service.telemetry.store import Ingested, TelemetryStore

__all__ = ["Counters", "Ingested", "TelemetryStore", "histogram_quantile"]
