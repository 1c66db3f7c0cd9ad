"""The outbox: publishes are committed with the state they announce, then sent in order by whoever holds the lease.

A message counts as sent only once the broker has acknowledged it. A crash between sending and marking sends it again,
which a retained topic does not notice. Of several unsent retained messages for one topic only the newest travels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Protocol

from sqlalchemy import Engine, delete, insert, update
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from tinyfleet_ota import topics
from tinyfleet_service.database.engine import NO_FENCE, check_fence, session_scope
from tinyfleet_service.database.models import Outbox, utc_now
from tinyfleet_service.publish.sentinel import Sentinel

CONTROLLER_LEASE = "controller"
"""The lease under which rollouts tick and the outbox is drained; `fence` everywhere here is its number."""
BATCH = 500
KEPT = timedelta(days=1)
_CHUNKS = "fleet/v1/b/"


class Publisher(Protocol):
    """The part of an MQTT client that publishing needs."""

    @property
    def connections(self) -> int:
        """Connections made so far: another number means that the broker may have been restarted."""

    def publish_all(self, messages: Iterable[tuple[str, bytes, bool, int]], timeout_s: float = ...) -> int:
        """Publish (topic, payload, retain, qos) in order and wait for every acknowledgement."""

    def publish_on(self, connection: int, topic: str, payload: bytes, *, retain: bool = ...) -> bool:
        """Publish unacknowledged on this connection, on no later one."""


def enqueue(
    session: Session, topic: str, payload: bytes, retain: bool = True, fence: int = NO_FENCE, qos: int = 1
) -> Outbox:
    """Add a message to the transaction of `session`. An empty retained payload removes what the broker retains.

    Raises LeaseLostError when `fence` is old.
    """
    check_fence(session, CONTROLLER_LEASE, fence)
    row = Outbox(topic=topic, payload=payload, retain=retain, qos=qos, fence=fence)
    session.add(row)
    return row


def enqueue_many(session: Session, messages: Iterable[tuple[str, bytes]], fence: int) -> None:
    """Retained messages of QoS 1, in order, in one statement; the fence was checked in this transaction."""
    session.flush()  # what was enqueued before comes first
    common = {"retain": True, "qos": 1, "fence": fence, "created_at": utc_now()}
    rows = [{"topic": topic, "payload": payload} | common for topic, payload in messages]
    if rows:
        session.connection().execute(insert(Outbox), rows)


def drain_outbox(
    engine: Engine,
    client: Publisher,
    fence: int,
    *,
    batch: int = BATCH,
    connection: int | None = None,
    fault: Callable[[str], None] = lambda point: None,
) -> int:
    """Send everything that waits; the number of rows settled. `fault` is called between the steps, for tests.

    The sentinel follows each batch, but only on `connection`, the one on which the broker's contents were checked (the
    present one unless told): on a later one it would hide that the broker has lost what came before.
    Raises LeaseLostError, BrokerUnavailableError, DatabaseUnavailableError; what was not marked is sent again.
    """
    settled = 0
    connection = client.connections if connection is None else connection
    while True:
        with session_scope(engine, read_only=True) as session:
            check_fence(session, CONTROLLER_LEASE, fence)
            rows = list(session.exec(_waiting().limit(batch)))
            sentinel = _sentinel_of(session)
        if not rows:
            return settled
        newest = {row.topic: row for row in rows if row.retain}
        travel = (row for row in rows if not row.retain or newest[row.topic] is row)
        client.publish_all((row.topic, row.payload, row.retain, row.qos) for row in travel)
        fault("published")
        with session_scope(engine) as session:
            check_fence(session, CONTROLLER_LEASE, fence)
            _mark(session, rows)
            session.flush()
            after = _sentinel_of(session)
        fault("marked")
        if after is not None and after != sentinel:
            client.publish_on(connection, topics.sentinel(), after.encode(), retain=True)
        settled += len(rows)


def expected_sentinel(session: Session) -> Sentinel | None:
    """The mark a broker holds that has everything sent so far; None before the first message."""
    return _sentinel_of(session)


def clean_outbox(session: Session, kept: timedelta = KEPT) -> int:
    """Forget messages sent long ago, but never the newest: the sentinel names it. Returns how many."""
    newest = _sentinel_of(session)
    old = delete(Outbox).where(
        col(Outbox.published_at) < utc_now() - kept, col(Outbox.id) != (newest.number if newest else 0)
    )
    return int(session.connection().execute(old).rowcount)


def _waiting() -> SelectOfScalar[Outbox]:
    return select(Outbox).where(col(Outbox.published_at).is_(None)).order_by(col(Outbox.id))


def _mark(session: Session, rows: list[Outbox]) -> None:
    """Chunks are dropped at once, all but the newest: the blob store has their bytes."""
    ids = [row.id for row in rows]
    done = [row.id for row in rows[:-1] if row.topic.startswith(_CHUNKS)]
    session.connection().execute(update(Outbox).where(col(Outbox.id).in_(ids)).values(published_at=utc_now()))
    session.connection().execute(delete(Outbox).where(col(Outbox.id).in_(done)))


def _sentinel_of(session: Session) -> Sentinel | None:
    query = select(Outbox).where(col(Outbox.published_at).is_not(None), col(Outbox.retain).is_(True))
    row = session.exec(query.order_by(col(Outbox.id).desc()).limit(1)).first()
    if row is None or row.id is None:
        return None
    return Sentinel(row.id, hashlib.sha256(row.topic.encode() + b"\0" + row.payload).digest()[:8])
