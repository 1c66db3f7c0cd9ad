"""How long events, commands and notes of builds are kept: a fleet writes some for each update, without end.

Rules
 1. What is from before `before` goes, the oldest first, but no event that a webhook still has a delivery of.
 2. What says which certificates a device has, and which of them have ended, stays until those certificates end:
    renewal and the revocation list are made from it.
 3. A command goes a while after it was answered or expired, but not the one that says which numbers its device has had:
    with a number given twice, the answer to the first would be taken for that to the second.
 4. A call looks at so many rows and no more, however many there are and however many of them stay.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import and_, case, delete, exists, func, or_, select, true
from sqlalchemy.orm import aliased
from sqlmodel import Session, SQLModel, col

from tinyfleet_service.database.models import BuildNote, DeviceCommand, Event, WebhookDelivery, utc_now

PORTION = 20_000
CERTIFICATE_KINDS = ("enrolled", "renewed", "revoked", "reset")


def forget_events(
    session: Session, before: datetime, certificates_before: datetime, after: int = 0, portion: int = PORTION
) -> tuple[int, int]:
    """Delete old events among the `portion` oldest behind number `after`: how many, and `after` of the next call.

    `certificates_before`: certificates made before then have ended, but for those whose event says otherwise.
    """
    delivered = exists().where(col(WebhookDelivery.event_id) == col(Event.id))
    free = and_(~delivered, ~_of_living_certificates(certificates_before))
    return _forget(session, Event, col(Event.id), col(Event.at), free, before, after, portion)


def forget_commands(session: Session, before: datetime, after: int = 0, portion: int = PORTION) -> tuple[int, int]:
    """Delete commands that ended before `before`, as `forget_events`."""
    this: Any = DeviceCommand
    later: Any = aliased(DeviceCommand)
    above = and_(later.director_epoch == this.director_epoch, later.number > this.number, later.number > this.newest)
    of_a_later_epoch = and_(later.director_epoch > this.director_epoch, later.number > 0)
    outdone = exists().where(later.device_id == this.device_id, or_(above, of_a_later_epoch))
    free = and_(this.finished_at < before, outdone)
    return _forget(session, this, this.id, this.created_at, free, before, after, portion)


def forget_notes(session: Session, before: datetime, portion: int = PORTION) -> int:
    """Delete old lines among the `portion` oldest of the logs of builds; how many."""
    return _forget(session, BuildNote, col(BuildNote.id), col(BuildNote.at), true(), before, 0, portion)[0]


def _forget(
    session: Session, table: type[SQLModel], number: Any, at: Any, free: Any, before: datetime, after: int, portion: int
) -> tuple[int, int]:
    seen = select(number, at).where(number > after).order_by(number).limit(portion).subquery()
    last, newest = session.connection().execute(select(func.max(seen.c[0]), func.max(seen.c[1]))).one()
    old = select(seen.c[0]).where(seen.c[1] < before)
    removed = int(session.connection().execute(delete(table).where(number.in_(old), free)).rowcount)
    return removed, last if newest is not None and newest < before else 0


def _of_living_certificates(before: datetime) -> Any:
    certificate = col(Event.kind).in_(CERTIFICATE_KINDS)
    said = case((certificate, col(Event.detail)["outside_until"].as_string()))  # not of what a device made up
    now = utc_now().isoformat(timespec="seconds")  # texts of one form and zone compare as their times do
    return and_(certificate, or_(col(Event.at) >= before, func.coalesce(said, "") >= now))
