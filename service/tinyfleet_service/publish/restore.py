"""Roots, and bringing a broker back to what database and blob store say. The broker is a cache, never the truth."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tinyfleet_ota import read_root, topics
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import check_fence, session_scope
from tinyfleet_service.database.keep_lease import Keep, keep_nothing
from tinyfleet_service.database.models import Build, Desired, DesiredEntry, Outbox, TransferBlob
from tinyfleet_service.errors import CorruptError, NotFoundError, SettingsError
from tinyfleet_service.keys import key_folder
from tinyfleet_service.mqtt import Message, MqttClient
from tinyfleet_service.publish.assignments import DirectorKeys
from tinyfleet_service.publish.outbox import CONTROLLER_LEASE, Publisher, drain_outbox, enqueue, expected_sentinel
from tinyfleet_service.publish.sentinel import Sentinel
from tinyfleet_service.publish.transfers import blob_messages, release_message
from tinyfleet_service.settings import Settings

RETAINED_S = 2.0
"""A broker sends a retained message right after the subscription; silence for so long means there is none."""
CONNECTED_S = 3.0
"""A tick waits no longer for the broker, or the lease would run out meanwhile."""
log = logging.getLogger(__name__)
_Wire = tuple[str, bytes, bool, int]


def load_director(settings: Settings) -> DirectorKeys:
    """The director key, the roots and the key of encrypted blobs of this installation. Raises SettingsError."""
    folder = key_folder(settings)
    roots, director = folder.roots(), folder.load("director")
    read = [read_root(data)[0] for data in roots]
    if director.public_key not in read[-1].director_keys:
        raise SettingsError(
            f"root {read[-1].number} does not know this director key",
            next="import the root that names it, or restore the key",
        )
    former = dict.fromkeys(key for root in read for key in root.director_keys if key != director.public_key)
    return DirectorKeys(director, read[-1].director_epoch, folder.content_key(), tuple(roots), tuple(former))


def publish_roots(session: Session, keys: DirectorKeys, fence: int) -> None:
    """Publish every root, once: what the outbox ever sent is not sent again."""
    for number, root in enumerate(keys.roots, start=1):
        sent = select(Outbox.id).where(Outbox.topic == topics.root(number), Outbox.payload == root)
        if session.exec(sent).first() is None:
            enqueue(session, topics.root(number), root, fence=fence)


def read_retained(client: MqttClient, topic: str, timeout_s: float = RETAINED_S) -> bytes | None:
    """The retained payload of `topic`, or None."""
    arrived = threading.Event()
    payloads: list[bytes] = []

    def receive(message: Message) -> None:
        payloads.append(message.payload)
        client.acknowledge(message)
        arrived.set()

    client.wait_connected()
    client.subscribe(topic, receive)
    arrived.wait(timeout_s)
    client.unsubscribe(topic)
    return payloads[0] if payloads else None


def restore_broker(
    session: Session,
    store: BlobStore,
    reader: MqttClient,
    publisher: Publisher,
    keys: DirectorKeys,
    *,
    timeout_s: float = RETAINED_S,
    keep: Keep = keep_nothing,
) -> int:
    """Publish roots, manifests, live chunks and every `desired` again when the sentinel is missing or old.

    The number of messages published; 0 when the broker holds what it should. Call it under the lease, on start and
    after every reconnect, before the outbox is drained: `BrokerSync` does both in order. `keep` keeps the lease between
    messages; `session` must not hold its row. Raises BrokerUnavailableError, LeaseLostError.
    """
    connection, expected = publisher.connections, expected_sentinel(session)
    if expected is None:
        return 0
    held = read_retained(reader, topics.sentinel(), timeout_s)
    if held is not None and Sentinel.decode(held) == expected:
        return 0
    log.warning("the broker lost retained messages (its mark: %s): publishing all again", held and held.hex())
    count = publisher.publish_all(_keeping(_everything(session, store, keys), keep))
    publisher.publish_on(connection, topics.sentinel(), expected.encode(), retain=True)
    return count


def _keeping(messages: Iterator[_Wire], keep: Keep) -> Iterator[_Wire]:
    for message in messages:
        keep()
        yield message


class BrokerSync:
    """Keeps the broker equal to database and blob store: call `run` once per tick, under the lease.

    `reader` looks at what the broker holds, `publisher` brings it the rest. The contents count as checked for one
    connection of the publisher: while that stands, it is the broker that was looked at.
    """

    def __init__(
        self, engine: Engine, store: BlobStore, reader: MqttClient, publisher: Publisher, keys: DirectorKeys
    ) -> None:
        self._engine, self._store, self._reader, self._publisher, self.keys = engine, store, reader, publisher, keys
        self._checked = 0, 0

    def run(self, fence: int, keep: Keep = keep_nothing) -> int:
        """Check the broker's contents after a reconnect, then drain the outbox; the number of messages settled.

        Both may take longer than the lease, which `keep` keeps. Who takes it over nevertheless ends our connection: its
        own has the same name.

        Raises BrokerUnavailableError, LeaseLostError, DatabaseUnavailableError; call it again at the next tick.
        """
        self._publisher.wait_connected(CONNECTED_S)  # before the look: only what it sees then does it vouch for
        self._reader.wait_connected(CONNECTED_S)
        now, count = (self._publisher.connections, self._reader.connections), 0
        if now != self._checked:
            with session_scope(self._engine, read_only=True) as session:
                check_fence(session, CONTROLLER_LEASE, fence)
            with session_scope(self._engine, read_only=True) as session:
                count = restore_broker(session, self._store, self._reader, self._publisher, self.keys, keep=keep)
            self._checked = now
        return count + drain_outbox(self._engine, self._publisher, fence, connection=now[0], keep=keep)


def _everything(session: Session, store: BlobStore, keys: DirectorKeys) -> Iterator[_Wire]:
    """Roots first, `desired` last: a device must find what an assignment names."""
    for number, root in enumerate(keys.roots, start=1):
        yield topics.root(number), root, True, 1
    for build in session.exec(select(Build).where(col(Build.id).in_(select(DesiredEntry.build_id)))):
        yield (*release_message(build), True, 1)
    for blob in session.exec(select(TransferBlob).where(col(TransferBlob.id).in_(select(DesiredEntry.blob_id)))):
        for topic, payload in _chunks(store, blob):
            yield topic, payload, True, 1
    for desired in session.exec(select(Desired).execution_options(yield_per=500)):
        yield topics.desired(desired.device_id), desired.payload, True, 1


def _chunks(store: BlobStore, blob: TransferBlob) -> Iterator[tuple[str, bytes]]:
    """One lost blob keeps no other device from its own: who waits for it is helped by `handle_waiting`."""
    try:
        data = store.get(blob.sha256)
    except (NotFoundError, CorruptError) as error:
        log.error("cannot publish a blob again: %s", error)
        return
    yield from blob_messages(blob, data)
