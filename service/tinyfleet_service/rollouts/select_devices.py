"""The devices a rollout may touch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Text, cast
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select

from tinyfleet_service.database.models import Device, DeviceState
from tinyfleet_service.database.reported import REPORTED_TEXT
from tinyfleet_service.devices import compile_selector, read_selector


class FleetDevice(NamedTuple):
    """What a plan needs of a device: a hundred thousand twins would take many seconds."""

    id: str
    device_class: str
    tags: dict[str, str]
    active_image: str | None
    reported: str  # JSON
    last_seen_at: datetime | None
    report_interval_s: int
    sleep_max_s: int


_TAGS = FleetDevice._fields.index("tags")


def devices_for(session: Session, project_id: int, where: str | None) -> list[FleetDevice]:
    """Enrolled devices of the project that match the selector, by id. Raises SelectorError."""
    read_selector(session, project_id, where or "")  # a plan on a group that is not there is a mistake
    columns: list[Any] = [getattr(Device, name) for name in FleetDevice._fields]
    columns[_TAGS] = cast(col(Device.tags), Text)  # few differ: each text is parsed once
    columns[FleetDevice._fields.index("reported")] = REPORTED_TEXT
    query = select_columns(*columns).where(_taking_part(project_id, where)).order_by(col(Device.id))
    rows = session.connection().execute(query).all()
    tags = {text: json.loads(text) for text in {row[_TAGS] for row in rows}}
    return [FleetDevice._make((*row[:_TAGS], tags[row[_TAGS]], *row[_TAGS + 1 :])) for row in rows]


def selected_among(session: Session, project_id: int, devices: Sequence[str], where: str | None) -> list[str]:
    """Those of some thousand devices that `devices_for` would have; nobody is in a group that is gone."""
    query = select(Device.id).where(_taking_part(project_id, where), col(Device.id).in_(devices))
    return list(session.exec(query)) if devices else []


def _taking_part(project_id: int, where: str | None) -> ColumnElement[bool]:
    enrolled = (col(Device.project_id) == project_id) & (col(Device.state) == DeviceState.ENROLLED)
    return enrolled & compile_selector(where or "")
