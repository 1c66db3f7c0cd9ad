"""One ingester of the shared subscription.

paho's thread only queues. The loop takes a batch, commits it, then acknowledges it: a crash in between brings the batch
again, which the store recognises. While the database does not answer nothing is acknowledged: the broker sends no more
than its in-flight window and keeps the rest in its bounded queue.
"""

from __future__ import annotations

import logging
import queue
import threading
import time

from tinyfleet_ota import topics
from tinyfleet_service import broker
from tinyfleet_service.broker.pki import INGESTERS, Pki
from tinyfleet_service.errors import UnavailableError
from tinyfleet_service.mqtt import Message, MqttClient
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore

TOPIC = "$share/ingest/fleet/v1/d/+/telemetry"
DROPPED = "$SYS/broker/publish/messages/dropped"
BATCH = 500  # below the broker's in-flight window, or a batch would wait for itself
LINGER_S = 0.1
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 10.0
FOLD_EVERY_S = 600.0
log = logging.getLogger(__name__)


class Ingester:
    """Moves telemetry from `client` into `store`; call `step` in a loop."""

    def __init__(self, client: MqttClient, store: TelemetryStore) -> None:
        self._client, self._store = client, store
        self._queue: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._batch: list[Message] = []
        self.stored = self.refused = self.dropped = 0
        client.subscribe(TOPIC, self._queue.put, qos=1)
        client.subscribe(DROPPED, self._on_dropped, qos=0)

    def step(self, wait_s: float = 0.5) -> int:
        """Store and acknowledge one batch; the number of messages.

        Raises UnavailableError: the batch stays with us, un-acknowledged, and the next call tries it again.
        """
        if not self._batch:
            self._fill(wait_s)
        if not self._batch:
            return 0
        named = [(topics.device_of(message.topic), message.payload) for message in self._batch]
        result = self._store.ingest([(device, payload) for device, payload in named if device])
        for reason in result.refused:
            log.warning("refused: %s", reason)
        for message in self._batch:
            self._client.acknowledge(message)
        count, self._batch = len(self._batch), []
        self.stored += result.stored
        self.refused += len(result.refused)
        return count

    @property
    def waiting(self) -> int:
        """Messages taken from the broker and not yet acknowledged."""
        return len(self._batch) + self._queue.qsize()

    def _fill(self, wait_s: float) -> None:
        """Wait for a first message, then a moment for others: a commit costs the same for one as for hundreds."""
        try:
            self._batch.append(self._queue.get(timeout=wait_s))
            until = time.monotonic() + LINGER_S
            while len(self._batch) < BATCH:
                self._batch.append(self._queue.get(timeout=max(0.0, until - time.monotonic())))
        except queue.Empty:
            return

    def _on_dropped(self, message: Message) -> None:
        count = int(message.payload) if message.payload.isdigit() else self.dropped
        if count > self.dropped:
            log.warning("the broker dropped %d messages so far: its queue for a slow consumer is full", count)
        self.dropped = count


def run(settings: Settings, stop: threading.Event, member: int = 0) -> None:
    """Ingest as member `member` of the share until `stop` is set; outages of broker and database are waited out."""
    pki = Pki.load(settings)
    client = _client(settings, pki, INGESTERS[member], clean_session=False)
    store = TelemetryStore(settings)
    ingester = Ingester(client, store)
    client.start()
    try:
        _loop(ingester, store, stop)
    finally:
        client.close()
        store.close()


def retire_member(settings: Settings, member: int) -> None:
    """Drop the broker's session of a member that will not come back: its share of the messages would pile up there.

    Raises BrokerUnavailableError.
    """
    _client(settings, Pki.load(settings), INGESTERS[member], clean_session=True).connect().close()


def _loop(ingester: Ingester, store: TelemetryStore, stop: threading.Event) -> None:
    retry_s, fold_at = FIRST_RETRY_S, time.monotonic() + FOLD_EVERY_S
    while not stop.is_set():
        try:
            ingester.step()
            if time.monotonic() >= fold_at:
                store.fold_old_boots()
                fold_at = time.monotonic() + FOLD_EVERY_S
            retry_s = FIRST_RETRY_S
        except UnavailableError as error:
            log.error("%s; %d messages wait un-acknowledged, next try in %.1f s", error, ingester.waiting, retry_s)
            stop.wait(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)


def _client(settings: Settings, pki: Pki, name: str, *, clean_session: bool) -> MqttClient:
    files = pki.service(name)
    return MqttClient(
        broker.address(settings),
        settings.broker_port,
        ca=files.ca,
        certificate=files.certificate,
        key=files.key,
        client_id=name,
        clean_session=clean_session,
        manual_ack=True,
    )
