"""Old events leave the database, portion by portion, and nothing that a webhook still needs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from sqlmodel import select

from integration.fleet_database import PROJECT, make_database
from integration.fleet_support import make_settings
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.history import forget_events
from tinyfleet_service.database.models import Event, Webhook, WebhookDelivery, utc_now


def test_old_events_are_forgotten_oldest_first_and_none_with_a_delivery(tmp_path: Path) -> None:
    engine = make_database(make_settings(tmp_path))
    now = utc_now()
    with session_scope(engine) as session:
        for age in range(20, 0, -1):
            session.add(Event(project_id=PROJECT, kind=f"{age} days old", at=now - timedelta(days=age)))
            session.flush()
        hook = Webhook(project_id=PROJECT, url="https://example.org", secret=b"", events=[])
        session.add(hook)
        session.flush()
        waiting = WebhookDelivery(webhook_id=hook.id, event_id=2, event="x", next_at=now)
        session.add(waiting)
    before = now - timedelta(days=9.5)
    with session_scope(engine) as session:
        assert forget_events(session, before, portion=4) == 3
        assert [row.id for row in session.exec(select(Event).order_by(Event.id))][:2] == [2, 5]
        assert forget_events(session, before) == 7
        assert forget_events(session, before) == 0
        session.delete(session.get_one(WebhookDelivery, waiting.id))
        session.flush()
        assert forget_events(session, before) == 1
        left = [row.kind for row in session.exec(select(Event).order_by(Event.id))]
    assert left == [f"{age} days old" for age in range(9, 0, -1)]
    engine.dispose()
