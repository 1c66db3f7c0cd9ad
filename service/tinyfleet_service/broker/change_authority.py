"""Another authority in the place of ours: made here, signed elsewhere, put in place while the service stands still.

    make_request -> (somebody signs it) -> install -> devices renew -> finish

The new key lies in `<data>/pki/next` until it is installed. Each step may be cut off and done again: what is being put
in place stays in `next` until all of it is there, and what it replaces lies in `previous` before that.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.authority_files import read_key
from tinyfleet_service.broker.certificates import Authority
from tinyfleet_service.broker.chain import check_chain, order_chain, prove_chain, read_certificates
from tinyfleet_service.broker.files import PRIVATE, PUBLIC, write_file
from tinyfleet_service.broker.pki import PREVIOUS, TRUSTED
from tinyfleet_service.errors import InvalidInputError, StateConflictError

NEXT = "next"
SINCE = "since"
_FILES = ("ca.key", "ca.crt", "ca-chain.crt")


def make_request(pki: Path, subject: x509.Name) -> bytes:
    """A PKCS#10 request, PEM, for an issuing authority over the key in `next`, which is made when it is not there."""
    path = pki / NEXT / "ca.key"
    if not path.exists():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_file(path, x.key_pem(x.new_key()), PRIVATE)
    key = read_key(path)
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension in x.authority_extensions():
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def check_authority(pki: Path, certificate: bytes, chain: bytes) -> Authority:
    """The authority that `certificate` makes of the key in `next`. Raises InvalidInputError, StateConflictError."""
    path = pki / NEXT / "ca.key"
    if not path.exists():
        raise StateConflictError("no key waits for a certificate", next="make one with `fleetctl pki csr`")
    own, *more = read_certificates(certificate, "the certificate's file")
    others = [*more, *(read_certificates(chain, "the chain's file") if chain else ())]
    key = read_key(path)
    if own.public_key() != key.public_key():
        raise InvalidInputError(
            "the certificate is not for the key that `fleetctl pki csr` made",
            next="give the certificate that was made from the newest request, first in its file",
        )
    authority = Authority(own, key, order_chain(own, others))
    check_chain(authority.chain)
    _check_place(pki, own)
    prove_chain(authority)
    return authority


def install(pki: Path, authority: Authority, *, keep_previous: bool) -> None:
    """Put a checked authority in place; what was there goes on being trusted when `keep_previous`."""
    folder = pki / NEXT
    write_file(folder / "ca-chain.crt", x.certificates_pem(*authority.above), PUBLIC)
    write_file(folder / "ca.crt", x.certificate_pem(authority.certificate), PUBLIC)
    if keep_previous and not (pki / PREVIOUS).exists():
        _keep(pki)
    for name in _FILES:
        write_file(pki / name, (folder / name).read_bytes(), PRIVATE if name.endswith(".key") else PUBLIC)
    shutil.rmtree(folder)


def finish(pki: Path) -> None:
    """Trust the previous authority no longer. Raises StateConflictError when there is none."""
    if not (pki / PREVIOUS).exists():
        raise StateConflictError("no authority is being replaced", next="see `fleetctl pki status`")
    shutil.rmtree(pki / PREVIOUS)
    (pki / TRUSTED).unlink(missing_ok=True)


def replaced_at(pki: Path) -> datetime | None:
    """Since when certificates come from the new authority; None when none is being replaced."""
    path = pki / PREVIOUS / SINCE
    return datetime.fromisoformat(path.read_text()) if path.exists() else None


def _keep(pki: Path) -> None:
    """Copy the authority in place to `previous`, which is there whole or not at all."""
    new = pki / f"{PREVIOUS}.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    for name in _FILES:
        if (pki / name).exists():
            shutil.copy2(pki / name, new / name)
    write_file(new / SINCE, datetime.now(UTC).isoformat().encode())
    new.rename(pki / PREVIOUS)


def _check_place(pki: Path, certificate: x509.Certificate) -> None:
    """One change at a time. And revocation lists are found by the name of who signed them: names must differ."""
    here, before = (_read(path / "ca.crt") for path in (pki, pki / PREVIOUS))
    if before is not None and here not in (before, certificate):
        raise StateConflictError("an authority is being replaced already", next="`fleetctl pki finish` first")
    if any(
        other is not None and other != certificate and other.subject == certificate.subject for other in (here, before)
    ):
        raise InvalidInputError(
            f"the authority in use is called {certificate.subject.rfc4514_string()!r} too",
            next="give the request another name: `fleetctl pki csr --name`",
        )


def _read(path: Path) -> x509.Certificate | None:
    return x509.load_pem_x509_certificate(path.read_bytes()) if path.exists() else None
