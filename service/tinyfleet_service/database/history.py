"""How long events are kept: a fleet writes some for each update of each device, without end."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, exists, select
from sqlmodel import Session, col

from tinyfleet_service.database.models import Event, WebhookDelivery

PORTION = 20_000
"""Events looked at in one call: the oldest ones, so that a call costs the same however many there are."""


def forget_events(session: Session, before: datetime, portion: int = PORTION) -> int:
    """Delete events from before `before`, the oldest first, but none that a webhook still has a delivery of; how many.

    Call it again for more.
    """
    oldest = select(col(Event.id), col(Event.at)).order_by(col(Event.id)).limit(portion).subquery()
    old = select(oldest.c.id).where(oldest.c.at < before)
    delivered = exists().where(col(WebhookDelivery.event_id) == col(Event.id))
    return int(session.connection().execute(delete(Event).where(col(Event.id).in_(old), ~delivered)).rowcount)
