"""All members of a rollout as rows: a hundred thousand objects of the session would take half a minute and much memory.

They are read page by page, each member beside its device and its assignment; the twin's text is read only where
`next_member` asks for it, and dropped with its page. `write_members` stores what changed, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Row, and_, bindparam, case, null, update
from sqlalchemy import select as select_columns
from sqlmodel import Session, col

from tinyfleet_service.database.models import DesiredEntry, Device, Rollout, RolloutMember
from tinyfleet_service.database.reported import REPORTED_TEXT
from tinyfleet_service.rollouts.state_machine import UNTOUCHED

PAGE = 5000
MEMBER_FIELDS = (
    "status", "reason", "assigned_at", "heard_at", "shadowed_at", "activated_at", "confirmed_at", "silent_at",
    "finished_at",
)  # fmt: skip
"""What the rules may change of a member, in the order of `MemberView`."""


@dataclass(slots=True)
class MemberRow:
    """A member with the columns that a tick reads or writes; `stored` are those it may write, as they were read."""

    stored: tuple[Any, ...]
    id: int
    device_id: str
    device_class: str
    stratum: str
    rank: int
    wave: int
    joiner: bool
    build_id: int
    previous_build_id: int | None
    status: str
    reason: int
    assigned_at: datetime | None
    heard_at: datetime | None
    shadowed_at: datetime | None
    activated_at: datetime | None
    confirmed_at: datetime | None
    silent_at: datetime | None
    finished_at: datetime | None
    due_at: datetime | None
    bytes_sent: int
    bytes_full: int


@dataclass(slots=True)
class DeviceRow:
    """What is read of a device; `twin` is the text of its last report while its page is looked at."""

    state: str
    active_image: str | None
    last_seen_at: datetime | None
    report_interval_s: int
    sleep_max_s: int
    twin: str | None

    @property
    def reported(self) -> dict[str, Any]:
        """The last report, parsed at each call."""
        return json.loads(self.twin) if self.twin else {}


@dataclass(frozen=True, slots=True)
class AssignedRow:
    """What is read of the component's entry in a device's assignment."""

    rollout_id: int | None
    director_epoch: int
    sequence: int


AnyMember = RolloutMember | MemberRow
AnyDevice = Device | DeviceRow
AnyAssigned = DesiredEntry | AssignedRow
_COLUMNS = tuple(field.name for field in fields(MemberRow) if field.name != "stored")
_DEVICE_COLUMNS = ("state", "active_image", "last_seen_at", "report_interval_s", "sleep_max_s")
_WRITTEN = (*MEMBER_FIELDS, "due_at", "bytes_sent", "bytes_full")
_written = attrgetter(*_WRITTEN)


@dataclass(frozen=True)
class Page:
    """Some members, by device id, with their devices and assignments."""

    members: dict[str, MemberRow]
    devices: dict[str, DeviceRow]
    desired: dict[str, AssignedRow]


def read_pages(session: Session, rollout: Rollout, size: int) -> Iterator[Page]:
    """All members in order of their devices' ids, as they are now."""
    query, last = _query(rollout).limit(size), ""
    while True:
        rows = session.connection().execute(query, {"last": last}).all()
        yield _page(rows)
        if len(rows) < size:
            return
        last = rows[-1].device_id


def read_members(session: Session, rollout: Rollout) -> dict[str, MemberRow]:
    """All members as they are now, by device id, to read only."""
    query = select_columns(*(getattr(RolloutMember, name) for name in _COLUMNS))
    query = query.where(col(RolloutMember.rollout_id) == rollout.id).order_by(col(RolloutMember.device_id))
    return {row.device_id: MemberRow((), *row) for row in session.connection().execute(query)}


def _query(rollout: Rollout) -> Any:
    this = and_(
        col(DesiredEntry.device_id) == col(RolloutMember.device_id), col(DesiredEntry.component) == rollout.component
    )
    unread = col(RolloutMember.status).in_(UNTOUCHED)
    columns: list[Any] = [getattr(RolloutMember, name) for name in _COLUMNS]
    columns += [getattr(Device, name) for name in _DEVICE_COLUMNS]
    columns.append(case((unread, null()), else_=REPORTED_TEXT).label("twin"))
    columns += [col(getattr(DesiredEntry, name)) for name in ("rollout_id", "director_epoch", "sequence")]
    query = select_columns(*columns).join(Device, col(Device.id) == col(RolloutMember.device_id))
    query = query.outerjoin(DesiredEntry, this).where(col(RolloutMember.rollout_id) == rollout.id)
    device_id = col(RolloutMember.device_id)
    return query.where(device_id > bindparam("last")).order_by(device_id)


def _page(rows: Iterable[Row[Any]]) -> Page:
    written_at, device_at, desired_at = (
        len(_COLUMNS) - len(_WRITTEN),
        len(_COLUMNS),
        len(_COLUMNS) + len(_DEVICE_COLUMNS) + 1,
    )
    page = Page({}, {}, {})
    for row in rows:
        device_id = row.device_id
        page.members[device_id] = MemberRow(tuple(row[written_at:device_at]), *row[:device_at])
        page.devices[device_id] = DeviceRow(*row[device_at:desired_at])
        if row[-1] is not None:
            page.desired[device_id] = AssignedRow(*row[desired_at:])
    return page


def write_members(session: Session, members: Iterable[MemberRow]) -> None:
    """Store those that differ from what was read; most differ in the same one or two columns."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for member in members:
        if (values := _written(member)) != member.stored:
            new = {f"new_{n}": v for n, v, old in zip(_WRITTEN, values, member.stored, strict=True) if v != old}
            alike.setdefault(tuple(new), []).append(new | {"member_id": member.id})
    table: Any = RolloutMember.__table__  # type: ignore[attr-defined]
    for names, rows in alike.items():
        columns: dict[str, Any] = {name.removeprefix("new_"): bindparam(name) for name in names}
        query = update(table).where(table.c.id == bindparam("member_id")).values(columns)
        session.connection().execute(query, rows)
