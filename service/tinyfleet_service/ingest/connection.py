"""The ingester's MQTT 3.1.1 connection: a persistent session on a shared subscription, nothing else.

Read whatever the socket holds, cut it into messages, acknowledge a batch in one write. Everything runs in the caller's
thread; while the caller commits, the broker keeps to its in-flight window.
"""

from __future__ import annotations

from typing import NamedTuple

from tinyfleet_service.mqtt import Broker, Connection
from tinyfleet_service.mqtt.connection import CONNECT_S
from tinyfleet_service.mqtt.packets import PINGRESP, PUBLISH, SUBACK, acknowledge_packets, subscribe_packet


class Delivery(NamedTuple):
    """One message; `mid` is 0 for QoS 0."""

    topic: bytes
    payload: bytes
    mid: int


class ShareConnection(Connection):
    """One connection under a fixed client id; after `BrokerUnavailableError` it is closed, `connect` makes another."""

    def __init__(self, broker: Broker, client_id: str, topics: dict[str, int], *, clean_session: bool = False) -> None:
        super().__init__(broker, client_id, clean_session=clean_session)
        self._topics = topics

    def connect(self, timeout_s: float = CONNECT_S) -> None:
        """Connect and subscribe. Raises BrokerUnavailableError."""
        super().connect(timeout_s)
        try:
            if self._topics:
                self._send(subscribe_packet(self._topics))
        except OSError as error:
            raise self._lost(error) from error

    def receive(self, wait_s: float) -> list[Delivery]:
        """What has arrived, waiting at most `wait_s` for a first byte. Raises BrokerUnavailableError."""
        try:
            if not self._readable(wait_s):
                return []
            self._buffer += self._read()
            found, used = _cut(self._buffer)
            self._buffer = self._buffer[used:]
            return found
        except (OSError, ValueError) as error:
            raise self._lost(error) from error

    def acknowledge(self, mids: list[int]) -> None:
        """Tell the broker that these messages are safe with us. Raises BrokerUnavailableError."""
        try:
            self._send(acknowledge_packets(mids))
        except OSError as error:
            raise self._lost(error) from error


def _cut(buffer: bytes) -> tuple[list[Delivery], int]:
    """The whole messages in `buffer` and how many bytes they took. Raises ValueError for what is not MQTT."""
    found: list[Delivery] = []
    at, end = 0, len(buffer)
    while end - at >= 2:
        size, body, shift = buffer[at + 1], at + 2, 7
        if size & 0x80:
            size &= 0x7F
            while body < end:
                digit = buffer[body]
                body += 1
                size |= (digit & 0x7F) << shift
                shift += 7
                if not digit & 0x80:
                    break
                if shift > 21:
                    raise ValueError("a length of more than four bytes")
            else:
                break
        after = body + size
        if after > end:
            break
        head = buffer[at]
        if head >> 4 == PUBLISH:
            topic = body + 2 + (buffer[body] << 8 | buffer[body + 1])
            if head & 6:
                mid = buffer[topic] << 8 | buffer[topic + 1]
                found.append(Delivery(buffer[body + 2 : topic], buffer[topic + 2 : after], mid))
            else:
                found.append(Delivery(buffer[body + 2 : topic], buffer[topic:after], 0))
        elif head >> 4 not in (SUBACK, PINGRESP):
            raise ValueError(f"unexpected packet {head >> 4}")
        at = after
    return found, at
