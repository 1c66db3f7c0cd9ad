"""Telemetry of a whole fleet, read in parts between which the controller's lease is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tinyfleet_service.database.keep_lease import Keep
from tinyfleet_service.telemetry.columns import Columns, put_columns
from tinyfleet_service.telemetry.tables import in_parts

PART = 5000


@dataclass(frozen=True)
class PacedTelemetry:
    """As a `TelemetryReader`; what is of one device is in one part."""

    source: Any
    keep: Keep

    def read_columns(self, device_ids: Sequence[str], image_id: str) -> Columns:
        """Counters of one image as columns in the order of these devices. Raises LeaseLostError."""
        columns: Columns = {}
        for at, part in enumerate(in_parts(device_ids, PART)):
            self.keep()
            put_columns(columns, self.source.read_columns(part, image_id), at * PART, len(device_ids))
        return columns

    def last_heard(self, device_ids: Sequence[str]) -> Mapping[str, datetime]:
        """When each device's newest report arrived. Raises LeaseLostError."""
        found: dict[str, datetime] = {}
        for part in in_parts(device_ids, PART):
            self.keep()
            found |= self.source.last_heard(part)
        return found

    def set_cohorts(self, cohorts: Mapping[str, str]) -> None:
        """Under which cohort each of some thousand devices is counted."""
        self.source.set_cohorts(cohorts)
