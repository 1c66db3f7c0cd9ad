"""A small EST server (RFC 7030) for the port's tests: mutual TLS, enrolment, renewal, and wrong answers on demand."""

import base64
import http.server
import itertools
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import serialize_certificates
from cryptography.x509.oid import NameOID

from agent.ports.pki import Authority, Files


class EstServer:
    """What it was asked, and how it shall answer."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.port = 0
        self.next_id: str | None = "host-0001"  # None: a new number for each
        self.numbers = itertools.count()
        self.life = (-3600.0, 86400.0)
        self.status = 200
        self.body: bytes | None = None
        self.chunked = False
        self.foreign_key = False
        self.handler: type[http.server.BaseHTTPRequestHandler] = http.server.BaseHTTPRequestHandler
        self.requests: list[tuple[str, str, str]] = []  # path, peer's name, name asked for
        self.trust: list[x509.Certificate] | None = [authority.certificate]  # None: it knows no `cacerts`

    def answer(self, path: str, peer: str, body: bytes) -> tuple[int, bytes]:
        """Status and body for a request."""
        csr = x509.load_der_x509_csr(base64.b64decode(body, validate=True))
        assert csr.is_signature_valid
        asked = str(csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        self.requests.append((path, peer, asked))
        if self.status != 200 or self.body is not None:
            return self.status, self.body if self.body is not None else b"claim quota exhausted\n"
        key = ec.generate_private_key(ec.SECP256R1()).public_key() if self.foreign_key else csr.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        name = peer if path.endswith("simplereenroll") else self.next_id or f"host-{next(self.numbers):04d}"
        certificate = self.authority.sign(key, name, life=self.life)
        der = serialize_certificates([self.authority.certificate, certificate], Encoding.DER)
        return 200, base64.encodebytes(der)


@contextmanager
def serve(authority: Authority, server: Files, trusted: Path) -> Iterator[EstServer]:
    """Runs an EST server on a free port."""
    est = EstServer(authority)
    est.handler = _handler(est)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), est.handler)
    httpd.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.cert, server.key)
    context.load_verify_locations(trusted)
    context.verify_mode = ssl.CERT_REQUIRED
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True, do_handshake_on_connect=False)
    httpd.handle_error = lambda *_: None  # type: ignore[method-assign]
    est.port = httpd.server_address[1]
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield est
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def _handler(est: EstServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known = self.path == "/.well-known/est/cacerts" and est.trust is not None
            answer = base64.encodebytes(serialize_certificates(est.trust, Encoding.DER)) if known and est.trust else b""
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_POST(self) -> None:
            peer = self.connection.getpeercert()  # type: ignore[attr-defined]
            name = dict(entry for rdn in peer["subject"] for entry in rdn)["commonName"]
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/pkcs10"
            status, answer = est.answer(self.path, name, body)
            self.send_response(status)
            self.send_header("Content-Type", "application/pkcs7-mime; smime-type=certs-only")
            if est.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                half = len(answer) // 2
                for part in (answer[:half], answer[half:], b""):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            else:
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
