"""From events to deliveries: each webhook gets each event of its project once, whoever wrote it and when it committed.

Events commit in another order than they are numbered. So the reader goes back `LOOK_BACK` numbers behind the newest it
has seen; what it has already is left out by the unique pair (webhook, event). Deliveries are forgotten after a while:
of events older than that it goes back to none.
"""

from __future__ import annotations

from datetime import timedelta

from sqlmodel import Session, and_, col, delete, or_, select

from tinyfleet_service.database.models import DeliveryState, Event, Webhook, WebhookDelivery, utc_now
from tinyfleet_service.webhooks.hooks import KINDS

LOOK_BACK = 10_000
PAGE = 500
KEEP = timedelta(days=7)


def fan_out(session: Session) -> int:
    """Make the deliveries that are missing; how many."""
    return sum(_fan_out_to(session, hook) for hook in session.exec(select(Webhook)).all())


def _fan_out_to(session: Session, hook: Webhook) -> int:
    has = select(WebhookDelivery.event_id).where(WebhookDelivery.webhook_id == hook.id)
    kinds = [kind for kind, event in KINDS.items() if not hook.events or event in hook.events]
    late = and_(col(Event.id) > hook.after_event - LOOK_BACK, col(Event.at) > utc_now() - KEEP)
    query = (
        select(Event)
        .where(col(Event.id) > hook.created_after, or_(col(Event.id) > hook.after_event, late))
        .where(Event.project_id == hook.project_id, col(Event.kind).in_(kinds), col(Event.id).not_in(has))
    )
    events = session.exec(query.order_by(col(Event.id)).limit(PAGE)).all()
    assert hook.id is not None
    for event in events:
        assert event.id is not None
        session.add(WebhookDelivery(webhook_id=hook.id, event_id=event.id, event=KINDS[event.kind], next_at=utc_now()))
        hook.after_event = max(hook.after_event, event.id)
    session.add(hook)
    return len(events)


def forget_old(session: Session) -> None:
    """Drop delivered ones after a week; dead ones stay until somebody looks."""
    old = utc_now() - KEEP
    done = col(WebhookDelivery.state) == DeliveryState.DELIVERED
    session.exec(delete(WebhookDelivery).where(done, col(WebhookDelivery.finished_at) < old))
