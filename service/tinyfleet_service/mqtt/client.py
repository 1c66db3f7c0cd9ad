"""A small wrapper around paho: mutual TLS, fixed client id, reconnects by itself, acknowledges when told.

paho runs its own thread; callbacks given to `subscribe` are called there and must return soon. After each reconnect
the subscriptions are made again, then the `on_connect` callbacks run (with the count of connections so far).
"""

from __future__ import annotations

import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tinyfleet_service.errors import BrokerUnavailableError

KEEPALIVE_S = 30
CONNECT_S = 15.0
PUBLISH_S = 10.0
SUBSCRIBE_S = 5.0
WINDOW = 200
"""Unacknowledged publishes of one client; more wait in paho's queue."""


@dataclass(frozen=True)
class Message:
    """One received message. `acknowledge` it when the client was made with `manual_ack`."""

    topic: str
    payload: bytes
    retain: bool
    duplicate: bool
    mid: int
    qos: int
    connection: int


class MqttClient:
    """One MQTT 3.1.1 connection of a service process; the certificate's CN is its client id."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        ca: Path,
        certificate: Path,
        key: Path,
        client_id: str,
        clean_session: bool = True,
        manual_ack: bool = False,
    ) -> None:
        self.host, self.port, self.client_id = host, port, client_id
        self._subscriptions: dict[str, tuple[int, Callable[[Message], None]]] = {}
        self._on_connect: list[Callable[[int], None]] = []
        self._connected = threading.Event()
        self._changes = threading.RLock()
        self.connections = 0
        self._refusal = ""
        self._answered = threading.Condition()
        self._granted: deque[int | None] = deque(maxlen=100)
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=clean_session,
            protocol=paho.MQTTv311,
            manual_ack=manual_ack,
        )
        self._client.tls_set_context(tls_context(ca, certificate, key))
        self._client.max_inflight_messages_set(WINDOW)
        self._client.reconnect_delay_set(1, 10)
        self._client.on_connect = self._connected_callback
        self._client.on_disconnect = self._disconnected_callback
        self._client.on_message = self._message_callback
        self._client.on_subscribe = self._subscribed_callback

    def start(self) -> MqttClient:
        """Connect in the background and keep connected; returns at once."""
        self._client.connect_async(self.host, self.port, KEEPALIVE_S)
        self._client.loop_start()
        return self

    def connect(self, timeout_s: float = CONNECT_S) -> MqttClient:
        """`start`, then wait for the connection. Raises BrokerUnavailableError."""
        self.start()
        try:
            self.wait_connected(timeout_s)
        except BrokerUnavailableError:
            self.close()
            raise
        return self

    def wait_connected(self, timeout_s: float = CONNECT_S) -> None:
        """Wait until connected. Raises BrokerUnavailableError."""
        if not self._connected.wait(timeout_s):
            raise BrokerUnavailableError(
                f"no connection to the broker at {self.host}:{self.port}{self._refusal}",
                next="check that the broker runs; see log/broker.log in the data directory",
                host=self.host,
                port=self.port,
            )

    @property
    def connected(self) -> bool:
        """True while the connection stands."""
        return self._connected.is_set()

    def on_connect(self, callback: Callable[[int], None]) -> None:
        """Call `callback(count)` after each successful connection, in paho's thread."""
        self._on_connect.append(callback)

    def subscribe(self, topic: str, callback: Callable[[Message], None], qos: int = 1) -> None:
        """Deliver messages of `topic` (a filter, `$share/...` too) to `callback`, now and after every reconnect.

        When connected, returns once the broker has answered; not for use inside a callback.
        """
        self._subscriptions[topic] = (qos, callback)
        if self.connected:
            _, mid = self._client.subscribe(topic, qos)
            with self._answered:
                self._answered.wait_for(lambda: mid in self._granted, SUBSCRIBE_S)

    def unsubscribe(self, topic: str) -> None:
        """Stop delivery of `topic`."""
        self._subscriptions.pop(topic, None)
        if self.connected:
            self._client.unsubscribe(topic)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Publish one message and wait for the broker's acknowledgement. Raises BrokerUnavailableError."""
        self.publish_all([(topic, payload, retain, qos)])

    def publish_all(self, messages: Iterable[tuple[str, bytes, bool, int]], timeout_s: float = PUBLISH_S) -> int:
        """Publish (topic, payload, retain, qos) in order, at most a window unacknowledged; the number acknowledged.

        Returns only when the broker has acknowledged every one. Raises BrokerUnavailableError otherwise; then any
        part of them may have arrived, so the caller sends all again.
        """
        pending: list[paho.MQTTMessageInfo] = []
        count = 0
        for topic, payload, retain, qos in messages:
            if not self.connected:
                raise self._lost()
            pending.append(self._client.publish(topic, payload, qos, retain))
            count += 1
            if len(pending) >= WINDOW:
                self._settle(pending.pop(0), timeout_s)
        for info in pending:
            self._settle(info, timeout_s)
        return count

    def publish_on(self, connection: int, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Publish once, unacknowledged, on the connection with this number and on no later one; False when it is over.

        For what would be a lie to another broker: QoS 1 would be sent again after a reconnect.
        """
        with self._changes:
            if not self.connected or self.connections != connection:
                return False
            return self._client.publish(topic, payload, 0, retain).rc == paho.MQTT_ERR_SUCCESS

    def acknowledge(self, message: Message) -> None:
        """Tell the broker that `message` is safe with us; one of an earlier connection will come again anyway."""
        if message.qos and message.connection == self.connections:
            self._client.ack(message.mid, message.qos)

    def close(self) -> None:
        """Disconnect in order and stop the thread."""
        self._client.disconnect()
        self._client.loop_stop()
        self._connected.clear()

    def _settle(self, info: paho.MQTTMessageInfo, timeout_s: float) -> None:
        try:
            info.wait_for_publish(timeout_s)
        except (RuntimeError, ValueError) as error:
            raise self._lost() from error
        if not info.is_published():
            raise self._lost()

    def _lost(self) -> BrokerUnavailableError:
        return BrokerUnavailableError(
            f"the broker at {self.host}:{self.port} does not acknowledge",
            next="nothing is lost: it is sent again when the broker is back",
        )

    def _connected_callback(self, _client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._refusal = f": {code}"
            return
        with self._changes:
            self.connections += 1
            for topic, (qos, _) in list(self._subscriptions.items()):
                self._client.subscribe(topic, qos)
            self._connected.set()
        for callback in self._on_connect:
            callback(self.connections)

    def _subscribed_callback(self, _client: Any, _data: Any, mid: int, _codes: Any, _properties: Any) -> None:
        with self._answered:
            self._granted.append(mid)
            self._answered.notify_all()

    def _disconnected_callback(self, _client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        with self._changes:
            self._connected.clear()
        if code.is_failure:
            self._refusal = f": {code}"

    def _message_callback(self, _client: Any, _data: Any, raw: paho.MQTTMessage) -> None:
        message = Message(raw.topic, bytes(raw.payload), raw.retain, raw.dup, raw.mid, raw.qos, self.connections)
        for topic, (_, callback) in list(self._subscriptions.items()):
            if paho.topic_matches_sub(_unshared(topic), raw.topic):
                callback(message)
                return


def _unshared(topic: str) -> str:
    return topic.split("/", 2)[2] if topic.startswith("$share/") else topic


def tls_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer with certificates on both sides. Raises BrokerUnavailableError for unusable files."""
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(ca))
        context.load_cert_chain(str(certificate), str(key))
    except (OSError, ssl.SSLError) as error:
        raise BrokerUnavailableError(
            f"cannot use the certificate {certificate}: {error}",
            next="start `fleetctl serve` once: it makes the certificates",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
