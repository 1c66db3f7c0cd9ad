"""An authority below somebody else's root: what is checked before anything trusts it.

Rules (RFC 5280 sections 4.2.1.3, 4.2.1.9 and 6.1)
 1. Each certificate is signed by the next, the last by itself.
 2. Each may sign certificates (basic constraints, key usage); ours may sign revocation lists too.
 3. No path length above is shorter than the authorities below it.
 4. All are valid now.
 5. OpenSSL, which knows every other extension, shakes hands with itself below this authority, in both directions.
"""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509

from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.certificates import Authority, is_signed_by
from tinyfleet_service.errors import InvalidInputError

MAX_CERTIFICATES = 8
_HOST = "localhost"
_ROUNDS = 10
_Kind = TypeVar("_Kind", bound=x509.ExtensionType)


def read_certificates(data: bytes, what: str) -> list[x509.Certificate]:
    """Certificates of a PEM file, in its order. Raises InvalidInputError."""
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise InvalidInputError(f"{what} holds no readable PEM certificates: {error}", next="give PEM files") from error
    if len(found) > MAX_CERTIFICATES:
        raise InvalidInputError(
            f"{what} holds {len(found)} certificates", next="give the chain alone, from our certificate to its root"
        )
    return found


def order_chain(certificate: x509.Certificate, others: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """Those above `certificate`, its issuer first and the self-signed root last. Raises InvalidInputError."""
    above: list[x509.Certificate] = []
    at = certificate
    while not is_signed_by(at, at):
        following = next((one for one in others if one not in (certificate, *above) and is_signed_by(at, one)), None)
        if following is None:
            raise InvalidInputError(
                f"the issuer of {at.subject.rfc4514_string()!r} is missing: {at.issuer.rfc4514_string()!r}",
                next="give every certificate up to the self-signed root",
            )
        above.append(following)
        at = following
    return tuple(above)


def check_chain(chain: Sequence[x509.Certificate], *, signs_lists: bool = True) -> None:
    """Rules 2 to 4, for the issuing authority first and its root last. Raises InvalidInputError."""
    for below, certificate in enumerate(chain):
        name = certificate.subject.rfc4514_string()
        _check_dates(certificate, name)
        try:
            _check_may_sign(certificate, name, below)
            if signs_lists and below == 0:
                _check_signs_lists(certificate, name)
        except ValueError as error:  # malformed or doubled extensions
            raise _refused(name, f"has unreadable extensions: {error}") from error


def prove_chain(authority: Authority) -> None:
    """Rule 5. Raises InvalidInputError with OpenSSL's reason."""
    with tempfile.TemporaryDirectory(prefix="tinyfleet-") as name:
        server = _context(authority, Path(name), ssl.PROTOCOL_TLS_SERVER, x.SERVER)
        client = _context(authority, Path(name), ssl.PROTOCOL_TLS_CLIENT, x.CLIENT)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=_HOST),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    try:
        for _ in range(_ROUNDS):
            for end in ends:
                _go_on(end)
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason
        raise InvalidInputError(
            f"OpenSSL does not trust certificates below this authority: {reason}",
            next="ask for a certificate of an issuing authority without restrictions on names or purposes",
        ) from error


def _check_dates(certificate: x509.Certificate, name: str) -> None:
    now = datetime.now(UTC)
    if certificate.not_valid_before_utc > now:
        raise _refused(name, f"is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on only")
    if certificate.not_valid_after_utc <= now:
        raise _refused(name, f"ended {certificate.not_valid_after_utc:%Y-%m-%d}")


def _check_may_sign(certificate: x509.Certificate, name: str, below: int) -> None:
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise _refused(name, "is no authority: basic constraints do not say CA:TRUE")
    if constraints.path_length is not None and constraints.path_length < below:
        raise _refused(name, f"allows {constraints.path_length} authorities below it, here are {below}")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise _refused(name, "may not sign certificates: key usage lacks keyCertSign")


def _check_signs_lists(certificate: x509.Certificate, name: str) -> None:
    usage = _extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.crl_sign:
        raise _refused(name, "may not sign revocation lists: key usage lacks cRLSign")


def _extension(certificate: x509.Certificate, kind: type[_Kind]) -> _Kind | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _refused(name: str, why: str) -> InvalidInputError:
    return InvalidInputError(f"{name!r} {why}", next="ask whoever signed it for another certificate")


def _context(authority: Authority, folder: Path, protocol: int, usage: x509.ObjectIdentifier) -> ssl.SSLContext:
    key = x.new_key()
    leaf = x.issue(authority, "tinyfleet check", key.public_key(), usage=usage, days=1, hosts=[_HOST])
    own, trusted = folder / "own.pem", folder / "trusted.pem"
    own.write_bytes(x.key_pem(key) + x.certificates_pem(leaf, *authority.sent))
    trusted.write_bytes(x.certificate_pem(authority.chain[-1]))
    context = ssl.SSLContext(protocol)
    context.load_cert_chain(own)
    context.load_verify_locations(trusted)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _go_on(end: ssl.SSLObject) -> None:
    with suppress(ssl.SSLWantReadError):
        end.do_handshake()
