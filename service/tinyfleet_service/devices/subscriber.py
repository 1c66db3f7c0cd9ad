"""Reads `state` and `event` of every device: one plain subscriber, inside the controller, under its lease.

paho's thread only queues; `apply` works the queue off in the caller's thread. States are coalesced, the newest of a
device wins. After every connect the broker sends all retained states again: that is the resync after a pause. Messages
are acknowledged after the commit, so make `client` with `clean_session=False, manual_ack=True`: then events of a pause
or crash come again. A client that acknowledges by itself works too, and may lose events. Of a device that floods us
only so many events wait: the others' must not, and no more memory is taken than there are devices; nor are more than so
many kept of one hour, as the database would grow by a million a day.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlmodel import Session

from tinyfleet_ota import topics
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.devices.twin import apply_event, apply_state
from tinyfleet_service.errors import InvalidInputError, NotFoundError, UnavailableError
from tinyfleet_service.mqtt import Message, MqttClient
from tinyfleet_service.settings import Settings

STATES = "fleet/v1/d/+/state"
EVENTS = "fleet/v1/d/+/event"
BATCH = 500
MOST_WAITING = 100
"""Events of one device; an agent keeps the 8 newest that it could not send."""
MOST_AN_HOUR = 1000
"""Events of one device. An update is some ten; faults are counted by telemetry, whatever becomes of their events."""
HOUR_S = 3600.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Applied:
    """What one `apply` did: devices whose twin changed, events stored, messages that made no sense."""

    devices: tuple[str, ...] = ()
    events: int = 0
    refused: int = 0


class StateReader:
    """Keeps the twins up to date from `client`; call `apply` once per tick."""

    def __init__(self, settings: Settings, engine: Engine, client: MqttClient) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._states: dict[str, Message] = {}
        self._events: deque[Message] = deque()
        self._held: Counter[str] = Counter()
        self._this_hour: Counter[str] = Counter()
        self._hour = self._now_hour()
        self.refusals: deque[str] = deque(maxlen=100)
        self._client = client
        client.subscribe(STATES, self._on_state)
        client.subscribe(EVENTS, self._on_event)

    def apply(self, limit: int = BATCH) -> Applied:
        """Write at most `limit` states and events that have arrived; what a dead database refuses is kept.

        Raises UnavailableError.
        """
        with self._lock:
            states = {key: self._states.pop(key) for key in list(self._states)[:limit]}
            events = [self._events.popleft() for _ in range(min(limit, len(self._events)))]
            self._held -= Counter(message.topic for message in events)
        if not states and not events:
            return Applied()
        try:
            with session_scope(self._engine) as session:
                applied = self._write(session, states, events)
        except UnavailableError:
            self._put_back(states, events)
            raise
        for message in (*states.values(), *events):
            self._client.acknowledge(message)
        return applied

    @property
    def waiting(self) -> int:
        """Messages not yet applied."""
        with self._lock:
            return len(self._states) + len(self._events)

    def close(self) -> None:
        """Stop listening."""
        self._client.unsubscribe(STATES)
        self._client.unsubscribe(EVENTS)

    def _write(self, session: Session, states: dict[str, Message], events: list[Message]) -> Applied:
        devices, stored, refused = [], 0, 0
        for device_id, message in states.items():
            try:
                devices.append(apply_state(session, device_id, message.payload, retained=message.retain).id)
            except (InvalidInputError, NotFoundError) as error:
                refused += 1
                self.refusals.append(str(error))
        for message in events:
            try:
                stored += apply_event(session, topics.device_of(message.topic) or "", message.payload) is not None
            except (InvalidInputError, NotFoundError) as error:
                refused += 1
                self.refusals.append(str(error))
        return Applied(tuple(devices), stored, refused)

    def _put_back(self, states: dict[str, Message], events: list[Message]) -> None:
        with self._lock:
            older = [states[device_id] for device_id in states.keys() & self._states.keys()]
            self._states = {**states, **self._states}  # what came meanwhile is newer
            self._events.extendleft(reversed(events))
            self._held.update(message.topic for message in events)
        for message in older:  # the broker sends so many un-acknowledged ones and no more
            self._client.acknowledge(message)

    def _on_state(self, message: Message) -> None:
        device_id = topics.device_of(message.topic)
        if device_id is None or not message.payload:
            self._client.acknowledge(message)
            return
        with self._lock:
            replaced = self._states.get(device_id)
            self._states[device_id] = message
        if replaced is not None:
            self._client.acknowledge(replaced)

    def _on_event(self, message: Message) -> None:
        with self._lock:
            if taken := self._may_come(message.topic):
                self._held[message.topic] += 1
                self._events.append(message)
        if not taken:
            self._client.acknowledge(message)

    def _may_come(self, topic: str) -> bool:
        if (hour := self._now_hour()) != self._hour:
            self._hour = hour
            self._this_hour.clear()
        if self._held[topic] >= MOST_WAITING:
            return False
        self._this_hour[topic] += 1
        if self._this_hour[topic] == MOST_AN_HOUR + 1:
            device_id = topics.device_of(topic)
            _log.warning(
                "more than %d events this hour: the rest is dropped", MOST_AN_HOUR, extra={"device": device_id}
            )
        return self._this_hour[topic] <= MOST_AN_HOUR

    @staticmethod
    def _now_hour() -> int:
        return int(time.monotonic() // HOUR_S)
