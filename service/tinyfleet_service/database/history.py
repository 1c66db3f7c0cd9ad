"""How long events are kept: a fleet writes some for each update of each device, without end.

Rules
 1. Events from before `before` go, the oldest first, but none that a webhook still has a delivery of.
 2. What says which certificates a device has, and which of them have ended, stays until those certificates end:
    renewal and the revocation list are made from it.
 3. A call looks at so many events and no more, however many there are and however many of them stay.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import and_, case, delete, exists, func, or_, select
from sqlmodel import Session, col

from tinyfleet_service.database.models import Event, WebhookDelivery, utc_now

PORTION = 20_000
CERTIFICATE_KINDS = ("enrolled", "renewed", "revoked", "reset")


def forget_events(
    session: Session, before: datetime, certificates_before: datetime, after: int = 0, portion: int = PORTION
) -> tuple[int, int]:
    """Delete old events among the `portion` oldest behind number `after`: how many, and `after` of the next call.

    `certificates_before`: certificates made before then have ended, but for those whose event says otherwise.
    """
    window = select(col(Event.id), col(Event.at)).where(col(Event.id) > after).order_by(col(Event.id)).limit(portion)
    seen = window.subquery()
    last, newest = session.connection().execute(select(func.max(seen.c.id), func.max(seen.c.at))).one()
    old = select(seen.c.id).where(seen.c.at < before)
    delivered = exists().where(col(WebhookDelivery.event_id) == col(Event.id))
    forgotten = delete(Event).where(col(Event.id).in_(old), ~delivered, ~_of_living_certificates(certificates_before))
    removed = int(session.connection().execute(forgotten).rowcount)
    return removed, last if newest is not None and newest < before else 0


def _of_living_certificates(before: datetime) -> Any:
    certificate = col(Event.kind).in_(CERTIFICATE_KINDS)
    said = case((certificate, col(Event.detail)["outside_until"].as_string()))  # not of what a device made up
    now = utc_now().isoformat(timespec="seconds")  # texts of one form and zone compare as their times do
    return and_(certificate, or_(col(Event.at) >= before, func.coalesce(said, "") >= now))
