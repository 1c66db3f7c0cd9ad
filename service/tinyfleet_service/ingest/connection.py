"""The ingester's MQTT 3.1.1 connection: a persistent session on a shared subscription, nothing else.

Only what an ingester needs, because here every microsecond counts per report (`make bench-telemetry`: paho takes about
ten times as long): read whatever the socket holds, cut it into messages, acknowledge a batch in one write. Everything
runs in the caller's thread; while the caller commits, the broker keeps to its in-flight window.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import struct
import time
from dataclasses import dataclass
from typing import NamedTuple

from tinyfleet_service.broker.pki import TlsFiles
from tinyfleet_service.errors import BrokerUnavailableError
from tinyfleet_service.mqtt import tls_context

KEEPALIVE_S = 60
CONNECT_S = 10.0
_READ_BYTES = 1 << 18
_CONNACK, _PUBLISH, _SUBACK, _PINGRESP = 2, 3, 9, 13
_PINGREQ, _DISCONNECT = b"\xc0\x00", b"\xe0\x00"
_CLEAN = 2
log = logging.getLogger(__name__)


class Delivery(NamedTuple):
    """One message; `mid` is 0 for QoS 0."""

    topic: bytes
    payload: bytes
    mid: int


@dataclass(frozen=True)
class Broker:
    """Where the broker is; `files` None for a plain connection (benchmarks)."""

    host: str
    port: int
    files: TlsFiles | None


class ShareConnection:
    """One connection under a fixed client id; after `BrokerUnavailableError` it is closed, `connect` makes another."""

    def __init__(self, broker: Broker, client_id: str, topics: dict[str, int], *, clean_session: bool = False) -> None:
        self._broker, self._client_id, self._topics, self._clean = broker, client_id, topics, clean_session
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._sent_at = 0.0

    @property
    def connected(self) -> bool:
        """True while the connection stands, as far as we know."""
        return self._socket is not None

    def connect(self) -> None:
        """Connect and subscribe. Raises BrokerUnavailableError."""
        self.close()
        try:
            self._socket = self._open()
            self._send(_connect_packet(self._client_id, self._clean))
            self._expect(_CONNACK)
            if self._topics:
                self._send(_subscribe_packet(self._topics))
        except (OSError, ValueError) as error:
            raise self._lost(error) from error

    def receive(self, wait_s: float) -> list[Delivery]:
        """What has arrived, waiting at most `wait_s` for a first byte. Raises BrokerUnavailableError."""
        try:
            if not self._pending() and not select.select([self._connection()], [], [], wait_s)[0]:
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
            self._send(b"".join([b"\x40\x02" + mid.to_bytes(2, "big") for mid in mids if mid]))
        except OSError as error:
            raise self._lost(error) from error

    def keep_alive(self) -> None:
        """Say that we are there, when nothing else was said for a while. Raises BrokerUnavailableError."""
        try:
            if time.monotonic() - self._sent_at > KEEPALIVE_S / 2:
                self._send(_PINGREQ)
        except OSError as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """Disconnect; the broker keeps the session unless it was made clean."""
        if self._socket is not None:
            try:
                self._socket.sendall(_DISCONNECT)
                self._socket.close()
            except OSError:
                pass
        self._socket, self._buffer = None, b""

    def _open(self) -> socket.socket:
        plain = socket.create_connection((self._broker.host, self._broker.port), timeout=CONNECT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        files = self._broker.files
        if files is None:
            return plain
        context = tls_context(files.ca, files.certificate, files.key)
        return context.wrap_socket(plain, server_hostname=self._broker.host)

    def _connection(self) -> socket.socket:
        if self._socket is None:
            raise OSError("not connected")
        return self._socket

    def _pending(self) -> bool:
        """TLS may hold bytes that the socket no longer shows."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def _read(self) -> bytes:
        """Everything at hand: under TLS a read gives one record, often a single message."""
        connection = self._connection()
        parts = [connection.recv(_READ_BYTES)]
        size = len(parts[0])
        while parts[-1] and size < _READ_BYTES and (self._pending() or select.select([connection], [], [], 0)[0]):
            parts.append(connection.recv(_READ_BYTES))
            size += len(parts[-1])
        if not size:
            raise OSError("the broker closed the connection")
        return b"".join(parts)

    def _expect(self, kind: int) -> None:
        while len(self._buffer) < 4:
            got = self._connection().recv(4)
            if not got:
                raise OSError("the broker closed the connection")
            self._buffer += got
        head, code = self._buffer[0] >> 4, self._buffer[3]
        if head != kind or code:
            raise OSError(f"the broker refused the connection (packet {head}, code {code})")
        self._buffer = self._buffer[4:]

    def _send(self, data: bytes) -> None:
        self._connection().sendall(data)
        self._sent_at = time.monotonic()

    def _lost(self, error: Exception) -> BrokerUnavailableError:
        self.close()
        return BrokerUnavailableError(
            f"no connection to the broker at {self._broker.host}:{self._broker.port}: {error}",
            next="nothing is lost: what is not acknowledged comes again",
        )


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
        if head >> 4 == _PUBLISH:
            topic = body + 2 + (buffer[body] << 8 | buffer[body + 1])
            if head & 6:
                mid = buffer[topic] << 8 | buffer[topic + 1]
                found.append(Delivery(buffer[body + 2 : topic], buffer[topic + 2 : after], mid))
            else:
                found.append(Delivery(buffer[body + 2 : topic], buffer[topic:after], 0))
        elif head >> 4 not in (_SUBACK, _PINGRESP):
            raise ValueError(f"unexpected packet {head >> 4}")
        at = after
    return found, at


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("!H", len(data)) + data


def _packet(head: int, body: bytes) -> bytes:
    size, digits = len(body), bytearray()
    while True:
        size, digit = size >> 7, size & 0x7F
        digits.append(digit | (0x80 if size else 0))
        if not size:
            return bytes([head]) + bytes(digits) + body


def _connect_packet(client_id: str, clean: bool) -> bytes:
    flags = _CLEAN if clean else 0
    return _packet(0x10, _text("MQTT") + bytes([4, flags]) + struct.pack("!H", KEEPALIVE_S) + _text(client_id))


def _subscribe_packet(topics: dict[str, int]) -> bytes:
    return _packet(0x82, b"\x00\x01" + b"".join(_text(topic) + bytes([qos]) for topic, qos in topics.items()))
