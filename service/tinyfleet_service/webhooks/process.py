"""The sender: one leased loop that makes deliveries of new events and posts what is due.

A sender killed between the post and its commit posts again: receivers know a delivery by its number.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine
from sqlmodel import Session, col, func, select

from tinyfleet_service.database.engine import Lease, check_fence, make_engine, session_scope
from tinyfleet_service.database.models import DeliveryState, Event, Project, Webhook, WebhookDelivery, utc_now
from tinyfleet_service.errors import CorruptError, FleetError
from tinyfleet_service.observe.metrics import WEBHOOK_ATTEMPTS
from tinyfleet_service.settings import Settings
from tinyfleet_service.webhooks.fan_out import fan_out, forget_old
from tinyfleet_service.webhooks.hooks import secret_of
from tinyfleet_service.webhooks.send import Outcome, Parcel, attempt, make_body, settle

LEASE = "webhooks"
AT_ONCE = 16
FORGET_EVERY_S = 3600.0
_log = logging.getLogger(__name__)


def run(settings: Settings, stop: threading.Event) -> None:
    """Send until `stop` is set."""
    sender = Sender(settings, make_engine(settings))
    try:
        while not stop.is_set():
            busy = sender.guarded_step()
            stop.wait(0.05 if busy else settings.poll_s)
    finally:
        sender.close()


class Sender:
    """State of one sender; any number may run, the holder of the lease works."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self.engine = settings, engine
        self.owner = f"webhooks-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook")
        self._forgot_at = time.monotonic()
        # Every post of a batch ends within its time limit, so the lease outlives the batch.
        self._lease_s = settings.lease_s + 2 * settings.webhook_timeout_s

    def guarded_step(self) -> bool:
        """`step`, surviving a database that is away."""
        try:
            return self.step() > 0
        except FleetError as error:
            _log.error("webhooks wait: %s", error)
            return False

    def step(self) -> int:
        """Fan out, post one batch; how many posts. Raises UnavailableError, LeaseLostError."""
        fence = Lease.acquire(self.engine, LEASE, self.owner, self._lease_s)
        if fence is None:
            return 0
        with session_scope(self.engine) as session:
            check_fence(session, LEASE, fence)
            fan_out(session)
            if time.monotonic() - self._forgot_at > FORGET_EVERY_S:
                forget_old(session)
                self._forgot_at = time.monotonic()
        with session_scope(self.engine, read_only=True) as session:
            parcels = self._due(session)
        outcomes = list(self._pool.map(lambda parcel: attempt(parcel, self.settings), parcels))
        if parcels:
            self._settle(parcels, outcomes, fence)
        return len(parcels)

    def close(self) -> None:
        """Give the lease up."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        try:
            Lease.release(self.engine, LEASE, self.owner)
        except FleetError as error:
            _log.error("cannot give the lease up: %s", error)
        self.engine.dispose()

    def _due(self, session: Session) -> list[Parcel]:
        """What to post now, of every webhook in turn: a receiver that takes long holds up its own deliveries alone."""
        turn = func.row_number().over(
            partition_by=col(WebhookDelivery.webhook_id), order_by=col(WebhookDelivery.next_at)
        )
        waits = (WebhookDelivery.state == DeliveryState.WAITING, col(WebhookDelivery.next_at) <= utc_now())
        due = select(WebhookDelivery.id, turn.label("turn")).where(*waits).subquery()
        query = (
            select(WebhookDelivery, Webhook, Event, Project)
            .join(due, due.c.id == WebhookDelivery.id)
            .join(Webhook, col(Webhook.id) == col(WebhookDelivery.webhook_id))
            .join(Event, col(Event.id) == col(WebhookDelivery.event_id))
            .join(Project, col(Project.id) == col(Webhook.project_id))
            .order_by(due.c.turn, col(WebhookDelivery.next_at))
            .limit(AT_ONCE)
        )
        found = []
        for row, hook, event, project in session.exec(query):
            assert row.id is not None
            body = make_body(event, row.event, row.id, project.name)
            found.append(Parcel(row.id, hook.url, self._secret(hook), row.event, body))
        return found

    def _secret(self, hook: Webhook) -> str:
        """Empty when it cannot be read: the receiver refuses, the dead delivery and the log tell why."""
        try:
            return secret_of(self.settings, hook)
        except CorruptError as error:
            _log.error("%s", error, extra={"webhook": hook.id})
            return ""

    def _settle(self, parcels: list[Parcel], outcomes: list[Outcome], fence: int) -> None:
        with session_scope(self.engine) as session:
            check_fence(session, LEASE, fence)
            for parcel, outcome in zip(parcels, outcomes, strict=True):
                row = session.get(WebhookDelivery, parcel.delivery_id)
                if row is None:
                    continue  # its webhook was removed meanwhile
                settle(row, outcome, self.settings)
                session.add(row)
                WEBHOOK_ATTEMPTS.labels(row.state if row.state != DeliveryState.WAITING else "failed").inc()
                if row.state == DeliveryState.DEAD:
                    facts = {"webhook": row.webhook_id, "delivery": row.id, "error": outcome.error}
                    _log.warning("a webhook delivery is given up", extra=facts)
