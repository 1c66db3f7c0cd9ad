"""One ingester of the shared subscription.

It takes a batch, commits it, then acknowledges it: a crash in between brings the batch again, which the store
recognises. While the database does not answer nothing is acknowledged: the broker sends no more than its in-flight
window and keeps the rest in its bounded queue.
"""

from __future__ import annotations

import logging
import threading
import time

from tinyfleet_ota import topics
from tinyfleet_service import broker
from tinyfleet_service.broker.pki import INGESTERS, MAX_INGESTERS, Pki
from tinyfleet_service.collector import collect_rarely
from tinyfleet_service.errors import BrokerUnavailableError, UnavailableError
from tinyfleet_service.ingest.connection import Delivery, ShareConnection
from tinyfleet_service.mqtt import Broker
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore

TELEMETRY = "fleet/v1/d/+/telemetry"
DROPPED = "$SYS/broker/publish/messages/dropped"
HELD = "$SYS/broker/store/messages/count"
LINGER_S = 0.1
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 10.0
EXPIRE_EVERY_S = 600.0
NOTE_EVERY_S = 5.0
_COUNTS = {DROPPED.encode(): "dropped", HELD.encode(): "held"}
log = logging.getLogger(__name__)


class Ingester:
    """Moves telemetry from `connection` into `store`; call `step` in a loop."""

    def __init__(self, connection: ShareConnection, store: TelemetryStore, batch: int, *, member: int = 0) -> None:
        self._connection, self._store, self._size, self._member = connection, store, batch, member
        self._batch: list[Delivery] = []
        self._noted_at = 0.0
        self.stored = self.known = self.refused = 0
        self.dropped = self.held = 0
        self.commit_s = 0.0

    def step(self, wait_s: float = 0.5) -> int:
        """Store and acknowledge one batch; the number of messages.

        Raises UnavailableError. Without the database the batch stays with us, un-acknowledged, and the next call tries
        again; without the broker the batch is dropped: it comes again on the next connection.
        """
        try:
            if not self._connection.connected:
                self._connection.connect()
            if not self._batch:
                self._fill(wait_s)
            self._connection.keep_alive()
            if not self._batch:
                return 0
            self._commit()
            self._connection.acknowledge([message.mid for message in self._batch])
        except BrokerUnavailableError:
            self._batch = []
            raise
        count, self._batch = len(self._batch), []
        return count

    @property
    def waiting(self) -> int:
        """Messages taken from the broker and not yet acknowledged."""
        return len(self._batch)

    def note(self) -> None:
        """Tell the store every few seconds how we are doing. Raises DatabaseUnavailableError."""
        if time.monotonic() - self._noted_at < NOTE_EVERY_S:
            return
        names = ("stored", "known", "refused", "dropped", "held", "waiting", "commit_s")
        self._store.note_ingester(self._member, {name: getattr(self, name) for name in names})
        self._noted_at = time.monotonic()

    def _fill(self, wait_s: float) -> None:
        """Wait for a first message, then a moment for others: a commit costs the same for one as for hundreds."""
        until = time.monotonic() + wait_s
        while len(self._batch) < self._size and (left := until - time.monotonic()) > 0:
            first = not self._batch
            for delivery in self._connection.receive(left):
                if delivery.topic in _COUNTS:
                    self._count(_COUNTS[delivery.topic], delivery.payload)
                else:
                    self._batch.append(delivery)
            if first and self._batch:
                until = time.monotonic() + LINGER_S

    def _commit(self) -> None:
        named = [(topics.device_of(topic.decode()), payload) for topic, payload, _ in self._batch]
        started = time.monotonic()
        result = self._store.ingest([(device, payload) for device, payload in named if device])
        self.commit_s = time.monotonic() - started
        for reason in result.refused:
            log.warning("refused: %s", reason)
        self.stored += result.stored
        self.known += result.known
        self.refused += len(result.refused)

    def _count(self, name: str, payload: bytes) -> None:
        count = int(payload) if payload.isdigit() else 0
        if name == "dropped" and count > self.dropped:
            log.warning("the broker dropped %d messages so far: its queue for a slow consumer is full", count)
        setattr(self, name, count)


def run(settings: Settings, stop: threading.Event, member: int = 0) -> None:
    """Ingest as member `member` of the share until `stop` is set; outages of broker and database are waited out."""
    pki = Pki.load(settings)
    connection = _connection(settings, pki, member)
    store = TelemetryStore(settings)
    if member == 0:
        _retire_others(settings, store)
    try:
        loop(Ingester(connection, store, settings.ingest_batch, member=member), store, stop)
    finally:
        connection.close()
        store.close()


def shared(pki: Pki) -> str:
    """The filter of the subscription that the members share."""
    return f"$share/{pki.share}/{TELEMETRY}"


def retire_member(settings: Settings, member: int) -> None:
    """Drop the broker's session of a member that will not come back: its share of the messages would pile up there.

    Raises BrokerUnavailableError.
    """
    connection = _connection(settings, Pki.load(settings), member, clean_session=True)
    connection.connect()
    connection.close()


def _retire_others(settings: Settings, store: TelemetryStore) -> None:
    """Members beyond the setting may have run before it was lowered."""
    try:
        for member in range(settings.ingesters, MAX_INGESTERS):
            retire_member(settings, member)
        store.forget_ingesters(settings.ingesters)
    except UnavailableError as error:
        log.warning("sessions of former ingesters may still hold messages back: %s", error)


def loop(ingester: Ingester, store: TelemetryStore, stop: threading.Event) -> None:
    """Ingest until `stop` is set; outages are waited out, un-acknowledged."""
    collect_rarely()
    retry_s, expire_at = FIRST_RETRY_S, time.monotonic() + EXPIRE_EVERY_S
    while not stop.is_set():
        try:
            ingester.step()
            ingester.note()
            if time.monotonic() >= expire_at:
                store.expire()
                expire_at = time.monotonic() + EXPIRE_EVERY_S
            retry_s = FIRST_RETRY_S
        except UnavailableError as error:
            log.error("%s; %d messages wait un-acknowledged, next try in %.1f s", error, ingester.waiting, retry_s)
            stop.wait(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)


def _connection(settings: Settings, pki: Pki, member: int, *, clean_session: bool = False) -> ShareConnection:
    name = INGESTERS[member]
    place = Broker(broker.address(settings), settings.broker_port, pki.service(name))
    filters = {} if clean_session else {shared(pki): 1, DROPPED: 0, HELD: 0}
    return ShareConnection(place, name, filters, clean_session=clean_session)
