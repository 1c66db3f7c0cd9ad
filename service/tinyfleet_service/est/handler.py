"""The three EST operations: `cacerts`, `simpleenroll`, `simplereenroll` (RFC 7030 sections 4.1 and 4.2).

Bodies are base64 of DER: PKCS#10 in, a certs-only PKCS#7 out. Refusals are `text/plain`, one line that says what to do.
"""

from __future__ import annotations

import base64
import binascii
import io
import logging
import ssl
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from sqlmodel import Session

from tinyfleet_service.devices import enroll, find_claim, renew
from tinyfleet_service.devices.issuing import Issuer, issue_certificate
from tinyfleet_service.errors import (
    CertificateRequestError,
    ConflictError,
    FleetError,
    ForbiddenError,
    InvalidInputError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
)
from tinyfleet_service.observe.metrics import EST_REQUESTS

if TYPE_CHECKING:
    from tinyfleet_service.est.server import EstServer

PREFIX = "/.well-known/est/"
OPERATIONS = ("cacerts", "simpleenroll", "simplereenroll")
MAX_BODY_BYTES = 8192
PEER_TIMEOUT_S = 15.0
RETRY_AFTER_S = 10
_STATUS: list[tuple[type[FleetError], int]] = [
    (TooLargeError, 413),
    (InvalidInputError, 400),
    (UnauthenticatedError, 401),
    (ForbiddenError, 403),
    (ConflictError, 409),
    (UnavailableError, 503),
]
_PKCS7 = "application/pkcs7-mime"
log = logging.getLogger(__name__)


class EstHandler(BaseHTTPRequestHandler):
    """One connection of one peer; several requests may follow each other within `PEER_TIMEOUT_S`."""

    protocol_version = "HTTP/1.1"
    server_version = "tinyfleet-est"
    sys_version = ""

    def setup(self) -> None:
        """Finish the handshake in this connection's thread."""
        connection = cast(ssl.SSLSocket, self.request)
        connection.do_handshake()
        super().setup()
        self.rfile = io.BufferedReader(_InTime(connection))

    def do_GET(self) -> None:
        """`cacerts`: whom devices trust as servers, each authority up to its root.

        One outside that only signs device certificates is not among them: devices take the answer as their trust.
        """
        self._answer({"cacerts": lambda: _certs_only(*self._fleet.pki.trusted)})

    def do_POST(self) -> None:
        """`simpleenroll` with a claim certificate, `simplereenroll` with the device's own."""
        self._answer({"simpleenroll": self._enroll, "simplereenroll": self._reenroll})

    def log_message(self, format: str, *args: Any) -> None:
        """Requests go to the log, not to standard error."""
        log.info("%s %s", self.address_string(), format % args)

    @property
    def _fleet(self) -> EstServer:
        return cast("EstServer", self.server)

    def _answer(self, operations: dict[str, Callable[[], bytes]]) -> None:
        operation = operations.get(self.path.removeprefix(PREFIX)) if self.path.startswith(PREFIX) else None
        if operation is None:
            self._refuse(404, "no such EST operation; use cacerts, simpleenroll or simplereenroll")
            return
        try:
            body = operation()
        except FleetError as error:
            status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
            self._refuse(status, str(error))
        except TimeoutError:
            raise  # the peer's body did not come in time: the connection ends
        except Exception:
            log.exception("EST request failed")
            self._refuse(500, "the server failed; try again later")
        else:
            self._send(200, _PKCS7 + "; smime-type=certs-only", body, {"Content-Transfer-Encoding": "base64"})

    def _enroll(self) -> bytes:
        csr, peer, pki = self._request(), self._peer(), self._fleet.pki

        def operation(session: Session, issuer: Issuer) -> x509.Certificate:
            anew = self._fleet.telemetry.count_anew
            return enroll(session, issuer, find_claim(session, peer), csr, counts_anew=anew)[1]

        if not pki.claim_ca.issued(peer):
            raise ForbiddenError(
                "enrolment needs a claim certificate",
                next="a device that is enrolled renews with simplereenroll",
            )
        return self._issue(csr, operation)

    def _reenroll(self) -> bytes:
        csr, peer, pki = self._request(), self._peer(), self._fleet.pki
        if not pki.issued_device(peer):
            raise ForbiddenError("renewal needs the device's own certificate", next="enrol first with simpleenroll")
        return self._issue(csr, lambda session, issuer: renew(session, issuer, peer, csr)[1])

    def _issue(self, csr: bytes, operation: Callable[[Session, Issuer], x509.Certificate]) -> bytes:
        certificate = issue_certificate(self._fleet.engine, self._fleet.pki, csr, operation)
        return _certs_only(certificate)  # only after the commit: an answered certificate is never forgotten

    def _peer(self) -> x509.Certificate:
        """The certificate the peer proved in TLS; nothing in the request can replace it."""
        der = cast(ssl.SSLSocket, self.request).getpeercert(binary_form=True)
        if der is None:
            raise UnauthenticatedError("no client certificate", next="connect with the claim or device certificate")
        return x509.load_der_x509_certificate(der)

    def _request(self) -> bytes:
        """The PKCS#10 request of the body, DER."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 10):
            raise InvalidInputError("no Content-Length", next="send the request's length")
        if int(length) > MAX_BODY_BYTES:
            raise TooLargeError(f"more than {MAX_BODY_BYTES} bytes", next="send one PKCS#10 request")
        body = self.rfile.read(int(length))
        try:
            return base64.b64decode(b"".join(body.split()), validate=True)
        except binascii.Error as error:
            raise CertificateRequestError(
                "the body is not base64", next="send the PKCS#10 request as base64 of DER, without PEM lines"
            ) from error

    def _refuse(self, status: int, message: str) -> None:
        headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
        self.close_connection = True  # an unread body must not be taken for the next request
        self._send(status, "text/plain; charset=utf-8", (message + "\n").encode(), {**headers, "Connection": "close"})

    def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str]) -> None:
        operation = self.path.removeprefix(PREFIX)
        EST_REQUESTS.labels(operation if operation in OPERATIONS else "other", str(status)).inc()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class _InTime(io.RawIOBase):
    """What a peer sends for `PEER_TIMEOUT_S`, then TimeoutError: a socket's own limit begins anew with every byte."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection, self._until_s = connection, time.monotonic() + PEER_TIMEOUT_S

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for some bytes, 0 at the end."""
        if (left_s := self._until_s - time.monotonic()) <= 0:
            raise TimeoutError("the request was not here in time")
        self._connection.settimeout(left_s)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(PEER_TIMEOUT_S)


def _certs_only(*certificates: x509.Certificate) -> bytes:
    """Base64 of a degenerate PKCS#7 (RFC 7030 section 4.1.3)."""
    return base64.encodebytes(pkcs7.serialize_certificates(list(certificates), Encoding.DER))
