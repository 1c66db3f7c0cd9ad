"""The outbox: publishes are committed with the state they announce, then sent in order by whoever holds the lease.

A message counts as sent only once the broker has acknowledged it. A crash between sending and marking sends it again,
which a retained topic does not notice. Of several unsent retained messages for one topic only the newest travels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Engine, delete, insert, literal, update
from sqlalchemy import select as select_columns
from sqlmodel import Session, col

from tinyfleet_ota import topics
from tinyfleet_service.database.engine import NO_FENCE, check_fence, session_scope
from tinyfleet_service.database.keep_lease import Keep, keep_nothing
from tinyfleet_service.database.models import Desired, Outbox, utc_now
from tinyfleet_service.database.runs import runs_of
from tinyfleet_service.publish.sentinel import DIGEST_BYTES, Sentinel

CONTROLLER_LEASE = "controller"
"""The lease under which rollouts tick and the outbox is drained; `fence` everywhere here is its number."""
BATCH = 2000
KEPT = timedelta(days=1)
_CHUNKS = "fleet/v1/b/"


class Publisher(Protocol):
    """The part of an MQTT client that publishing needs."""

    @property
    def connections(self) -> int:
        """Connections made so far: another number means that the broker may have been restarted."""

    def wait_connected(self, timeout_s: float = ...) -> None:
        """Return once connected. Raises BrokerUnavailableError."""

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


def enqueue_desired(session: Session, devices: Sequence[str], fence: int) -> None:
    """The stored assignments of some thousand devices, in one statement; the fence was checked in this transaction."""
    session.flush()  # what was enqueued before comes first
    before, after = topics.TOPICS["desired"].split("{device}")
    common = {"retain": True, "qos": 1, "fence": fence, "created_at": utc_now()}
    constants = [literal(value, getattr(Outbox, name).type) for name, value in common.items()]
    topic = literal(before).concat(col(Desired.device_id)).concat(after)
    stored = select_columns(topic, col(Desired.payload), *constants).where(col(Desired.device_id).in_(devices))
    if devices:
        session.connection().execute(insert(Outbox).from_select(["topic", "payload", *common], stored))


def drain_outbox(
    engine: Engine,
    client: Publisher,
    fence: int,
    *,
    batch: int = BATCH,
    connection: int | None = None,
    keep: Keep = keep_nothing,
    fault: Callable[[str], None] = lambda point: None,
) -> int:
    """Send everything that waits; the number of rows settled. `keep` keeps the lease between batches; `fault` is called
    between the steps, for tests.

    The sentinel follows each batch, but only on `connection`, the one on which the broker's contents were checked (the
    present one unless told): on a later one it would hide that the broker has lost what came before.
    Raises LeaseLostError, BrokerUnavailableError, DatabaseUnavailableError; what was not marked is sent again.
    """
    settled, sentinel = 0, None
    connection = client.connections if connection is None else connection
    while True:
        keep()
        with session_scope(engine, read_only=True) as session:
            check_fence(session, CONTROLLER_LEASE, fence)
            rows = [_Row(*row) for row in session.connection().execute(_WAITING.limit(batch))]
            sentinel = sentinel or expected_sentinel(session)
        if not rows:
            return settled
        client.publish_all(_travelling(rows))
        fault("published")
        with session_scope(engine) as session:
            check_fence(session, CONTROLLER_LEASE, fence)
            after = _mark(session, rows, sentinel)
        fault("marked")
        if after is not None and after != sentinel:
            client.publish_on(connection, topics.sentinel(), after.encode(), retain=True)
        settled, sentinel = settled + len(rows), after


def clean_outbox(session: Session, kept: timedelta = KEPT) -> int:
    """Forget messages sent long ago, but never the newest: the sentinel names it. Returns how many."""
    newest = expected_sentinel(session)
    old = delete(Outbox).where(
        col(Outbox.published_at) < utc_now() - kept, col(Outbox.id) != (newest.number if newest else 0)
    )
    return int(session.connection().execute(old).rowcount)


class _Row(NamedTuple):
    """A message as it is sent."""

    id: int
    topic: str
    payload: bytes
    retain: bool
    qos: int


_COLUMNS: Any = [getattr(Outbox, name) for name in _Row._fields]
_WAITING = select_columns(*_COLUMNS).where(col(Outbox.published_at).is_(None)).order_by(col(Outbox.id))


def _travelling(rows: Sequence[_Row]) -> Iterator[tuple[str, bytes, bool, int]]:
    """Of several retained messages for one topic the newest."""
    newest = {row.topic: row.id for row in rows if row.retain}
    return (row[1:] for row in rows if not row.retain or newest[row.topic] == row.id)


def _mark(session: Session, rows: Sequence[_Row], before: Sentinel | None) -> Sentinel | None:
    """Note that these were acknowledged; the sentinel from now on.

    Chunks are dropped at once, since the blob store has their bytes, but one that is the newest retained message of all
    these: the sentinel names it.
    """
    newest = next((row for row in reversed(rows) if row.retain), None)
    done = [row.id for row in rows if row.topic.startswith(_CHUNKS) and row is not newest]
    dropped = set(done)
    for first, last in runs_of([row.id for row in rows if row.id not in dropped]):
        of_run = update(Outbox).where(col(Outbox.id).between(first, last))
        session.connection().execute(of_run.values(published_at=utc_now()))
    for first, last in runs_of(done):
        session.connection().execute(delete(Outbox).where(col(Outbox.id).between(first, last)))
    marks = [before, _sentinel(newest) if newest else None]
    return max(filter(None, marks), key=lambda mark: mark.number, default=None)


def expected_sentinel(session: Session) -> Sentinel | None:
    """The mark a broker holds that has everything sent so far; None before the first message."""
    sent = select_columns(*_COLUMNS).where(col(Outbox.published_at).is_not(None), col(Outbox.retain).is_(True))
    row = session.connection().execute(sent.order_by(col(Outbox.id).desc()).limit(1)).first()
    return None if row is None else _sentinel(_Row(*row))


def _sentinel(row: _Row) -> Sentinel:
    return Sentinel(row.id, hashlib.sha256(row.topic.encode() + b"\0" + row.payload).digest()[:DIGEST_BYTES])
