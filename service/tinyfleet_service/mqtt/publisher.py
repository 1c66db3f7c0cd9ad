"""The connection on which the controller publishes what the outbox holds: QoS 1, many messages to a write.

Messages go out in bursts, at most `WINDOW` of them unacknowledged; acknowledgements are read in between. It never
connects anew within a call, so whoever looks at the broker's contents before knows that the same broker took the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from tinyfleet_service.mqtt.connection import CONNECT_S, Broker, Connection
from tinyfleet_service.mqtt.packets import PINGRESP, PUBACK, publish_packet

WINDOW = 1024
BURST = 64
PUBLISH_S = 10.0
_MIDS = 0xFFFF
Wire = tuple[str, bytes, bool, int]
"""Topic, payload, retain, QoS 0 or 1."""


class Publisher(Connection):
    """One connection under the client id that is its certificate's CN; it subscribes to nothing."""

    def __init__(self, broker: Broker, client_id: str) -> None:
        super().__init__(broker, client_id, clean_session=True)
        self.connections = 0
        self._mid = 0

    def wait_connected(self, timeout_s: float = CONNECT_S) -> None:
        """Connect, unless the connection still stands. Raises BrokerUnavailableError."""
        try:
            if self.connected:
                while self._readable(0):
                    self._acknowledged()
                self.keep_alive()
        except (OSError, ValueError):
            self.close()
        if not self.connected:
            self.connect(timeout_s)
            self.connections += 1

    def publish_all(self, messages: Iterable[Wire], timeout_s: float = PUBLISH_S) -> int:
        """Publish (topic, payload, retain, qos) in order; the number of them, once each of QoS 1 is acknowledged.

        Raises BrokerUnavailableError otherwise, also when no acknowledgement comes for `timeout_s`; then any part of
        them may have arrived, so the caller sends all again.
        """
        count, source, flight = 0, iter(messages), set[int]()
        while burst := list(islice(source, BURST)):
            count += len(burst)
            self._exchange(b"".join([self._packet(message, flight) for message in burst]), flight, timeout_s)
        self._exchange(b"", flight, timeout_s, left=0)
        return count

    def publish_on(self, connection: int, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Publish once, unacknowledged, on the connection with this number and on no later one; False when it is over.

        For what would be a lie to another broker.
        """
        if not self.connected or self.connections != connection:
            return False
        try:
            self._send(publish_packet(topic, payload, retain=retain, mid=0))
            return True
        except OSError:
            self.close()
            return False

    def _packet(self, message: Wire, flight: set[int]) -> bytes:
        topic, payload, retain, qos = message
        if not qos:
            return publish_packet(topic, payload, retain=retain, mid=0)
        self._mid = self._mid % _MIDS + 1
        flight.add(self._mid)
        return publish_packet(topic, payload, retain=retain, mid=self._mid)

    def _exchange(self, data: bytes, flight: set[int], timeout_s: float, left: int = WINDOW - BURST) -> None:
        """Send, then read acknowledgements until at most `left` are missing."""
        try:
            self._send(data)
            while len(flight) > left:
                if not self._readable(timeout_s):
                    raise OSError(f"no acknowledgement for {timeout_s:.0f} s")
                flight.difference_update(self._acknowledged())
        except (OSError, ValueError) as error:
            raise self._lost(error) from error

    def _acknowledged(self) -> list[int]:
        """Packet ids that the broker acknowledged in what is at hand."""
        self._buffer += self._read()
        found, used = cut_acknowledgements(self._buffer)
        self._buffer = self._buffer[used:]
        return found


def cut_acknowledgements(buffer: bytes) -> tuple[list[int], int]:
    """Packet ids of the whole PUBACKs in `buffer`, and how many bytes they took.

    Raises ValueError for anything else but an answer to a ping.
    """
    found: list[int] = []
    at, end = 0, len(buffer)
    while end - at >= 2:
        kind, size = buffer[at] >> 4, buffer[at + 1]
        if (kind, size) == (PUBACK, 2):
            if end - at < 4:
                break
            found.append(buffer[at + 2] << 8 | buffer[at + 3])
        elif (kind, size) != (PINGRESP, 0):
            raise ValueError(f"unexpected packet {kind} of {size} bytes")
        at += 2 + size
    return found, at
