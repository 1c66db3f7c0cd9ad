"""The EST listener: TLS ends here, because only here the peer's certificate can be seen.

A client certificate is asked for but not demanded: `cacerts` needs none (RFC 7030 section 4.1.2). Each connection has a
thread; handshakes happen there too, so that a silent peer keeps nobody waiting, and one that drips not for long.
"""

from __future__ import annotations

import logging
import socket
import ssl
import tempfile
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

from sqlalchemy import Engine

from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.pki import Pki
from tinyfleet_service.database.engine import make_engine
from tinyfleet_service.devices.revocation import follow_outside
from tinyfleet_service.errors import FleetError, StartError
from tinyfleet_service.est.handler import PEER_TIMEOUT_S, EstHandler
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore

MAX_CONNECTIONS = 64
FOLLOW_S = 60.0
log = logging.getLogger(__name__)


class EstServer(ThreadingHTTPServer):
    """Serves EST on `settings.est_port`; `port` is the real one when that is 0."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, settings: Settings, engine: Engine, pki: Pki) -> None:
        self.engine, self.pki, self.telemetry = engine, pki, TelemetryStore(settings)
        self._context = _server_context(pki)
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        try:
            super().__init__((settings.host, settings.est_port), EstHandler)
        except OSError as error:
            raise StartError(
                f"EST cannot listen on {settings.host}:{settings.est_port}: {error.strerror or error}",
                next="stop what uses the port or choose another with TINYFLEET_EST_PORT",
                port=settings.est_port,
            ) from error

    @property
    def port(self) -> int:
        """Port the listener really has."""
        return int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept; the handshake waits for the connection's own thread."""
        plain, address = self.socket.accept()
        plain.settimeout(PEER_TIMEOUT_S)
        return self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), address

    def process_request(self, request: object, client_address: object) -> None:
        """A thread per connection, at most `MAX_CONNECTIONS`: further ones wait in the listen queue."""
        self._slots.acquire()
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def process_request_thread(self, request: object, client_address: object) -> None:
        """Serve one connection and give its slot back."""
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._slots.release()

    def server_close(self) -> None:
        """Stop listening."""
        super().server_close()
        self.telemetry.close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A peer that breaks off or fails its handshake is no event worth a stack trace."""
        log.info("EST connection from %s ended early", client_address, exc_info=log.isEnabledFor(logging.DEBUG))


def run(settings: Settings, stop: threading.Event) -> None:
    """Serve EST until `stop` is set. Raises StartError, SettingsError."""
    engine = make_engine(settings)
    server = EstServer(settings, engine, Pki.load(settings))
    thread = threading.Thread(target=server.serve_forever, name="est", daemon=True)
    thread.start()
    log.info("EST listens on %s:%d", settings.host, server.port)
    try:
        while not stop.wait(FOLLOW_S):
            try:
                follow_outside(engine, settings)
            except FleetError as error:
                log.error("%s", error)
    finally:
        server.shutdown()
        server.server_close()
        engine.dispose()


def _server_context(pki: Pki) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(str(pki.server.certificate), str(pki.server.key))
    context.verify_mode = ssl.CERT_OPTIONAL
    with tempfile.TemporaryDirectory(prefix="tinyfleet-") as folder:
        trusted = Path(folder) / "trusted.pem"
        trusted.write_bytes(x.certificates_pem(*pki.clients, pki.claim_ca.certificate))
        context.load_verify_locations(cafile=str(trusted))
    return context
