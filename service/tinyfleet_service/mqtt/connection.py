"""One MQTT 3.1.1 connection in the caller's thread: what the ingesters' and the controller's bulk connection share.

For the two paths on which every microsecond counts per message (`make bench-telemetry`, `make bench-assignment`: paho
takes about ten times as long). No thread, no reconnecting by itself: after `BrokerUnavailableError` the connection is
closed, and whoever owns it connects again when it suits.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tinyfleet_service.errors import BrokerUnavailableError
from tinyfleet_service.mqtt.client import tls_context
from tinyfleet_service.mqtt.packets import CONNACK, DISCONNECT, PINGREQ, connect_packet

KEEPALIVE_S = 60
CONNECT_S = 10.0
_READ_BYTES = 1 << 18


class TlsPaths(Protocol):
    """PEM files of one side of a mutual TLS connection."""

    @property
    def ca(self) -> Path:
        """Trusted authority."""

    @property
    def certificate(self) -> Path:
        """Own certificate; its CN is the client id."""

    @property
    def key(self) -> Path:
        """Own key."""


@dataclass(frozen=True)
class Broker:
    """Where the broker is; `files` None for a plain connection (benchmarks)."""

    host: str
    port: int
    files: TlsPaths | None


class Connection:
    """A connection under a fixed client id; subclasses say what travels on it."""

    def __init__(self, broker: Broker, client_id: str, *, clean_session: bool) -> None:
        self._broker, self._client_id, self._clean = broker, client_id, clean_session
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._sent_at = 0.0

    @property
    def connected(self) -> bool:
        """True while the connection stands, as far as we know."""
        return self._socket is not None

    def connect(self, timeout_s: float = CONNECT_S) -> None:
        """Connect; `timeout_s` holds for each further step on this connection, too. Raises BrokerUnavailableError."""
        self.close()
        try:
            self._socket = self._open(timeout_s)
            self._send(connect_packet(self._client_id, keepalive_s=KEEPALIVE_S, clean=self._clean))
            self._expect(CONNACK)
        except (OSError, ValueError) as error:
            raise self._lost(error) from error

    def keep_alive(self) -> None:
        """Say that we are there, when nothing else was said for a while. Raises BrokerUnavailableError."""
        try:
            if time.monotonic() - self._sent_at > KEEPALIVE_S / 2:
                self._send(PINGREQ)
        except OSError as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """Disconnect; the broker keeps the session unless it was made clean."""
        if self._socket is not None:
            with self._socket, suppress(OSError):
                self._socket.sendall(DISCONNECT)
        self._socket, self._buffer = None, b""

    def _open(self, timeout_s: float) -> socket.socket:
        files = self._broker.files
        context = tls_context(files.ca, files.certificate, files.key) if files else None
        plain = socket.create_connection((self._broker.host, self._broker.port), timeout=timeout_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(plain, server_hostname=self._broker.host) if context else plain

    def _connection(self) -> socket.socket:
        if self._socket is None:
            raise OSError("not connected")
        return self._socket

    def _readable(self, wait_s: float) -> bool:
        """Whether bytes are there within `wait_s`; TLS may hold some that the socket no longer shows."""
        connection = self._connection()
        held = isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
        return held or bool(select.select([connection], [], [], wait_s)[0])

    def _read(self) -> bytes:
        """Everything at hand: under TLS a read gives one record, often a single message."""
        connection = self._connection()
        parts = [connection.recv(_READ_BYTES)]
        size = len(parts[0])
        while parts[-1] and size < _READ_BYTES and self._readable(0):
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
