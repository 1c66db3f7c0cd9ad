"""The ingester: telemetry from the broker into the database, acknowledged after the commit."""

from tinyfleet_service.ingest.process import Ingester, retire_member, run

__all__ = ["Ingester", "retire_member", "run"]
