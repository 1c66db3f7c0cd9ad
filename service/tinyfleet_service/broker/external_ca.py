"""An authority whose key we never hold: a program of the operator's signs device certificates.

The program (`TINYFLEET_DEVICE_CA`) is called with more arguments than configured, and gets nothing else:

    chain              prints every authority that signs device certificates and those above it up to the root, PEM
    sign DEVICE DAYS   reads a PKCS#10 request, PEM, prints the certificate, PEM: subject CN=DEVICE, for clients only
    revoke SERIAL      revokes a certificate by its serial number, hexadecimal; once more is no error
    crl                prints the revocation list of each authority that signs device certificates, PEM

Exit status 0 means success; otherwise the last line it wrote to standard error is the reason. It has half a minute.
Nothing it answers is believed unchecked: a certificate must be for the request's key, the name we gave, and from an
authority of the chain with a revocation list, because the broker refuses an issuer without one.
"""

from __future__ import annotations

import logging
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.chain import check_chain, order_chain, read_certificates
from tinyfleet_service.broker.files import PUBLIC, write_file
from tinyfleet_service.errors import InvalidInputError, SettingsError, UnavailableError

_log = logging.getLogger(__name__)
TIMEOUT_S = 30.0
ANSWER_BYTES_MAX = 4 << 20
CHAIN, LISTS = "device-ca.crt", "device-ca.crl"


class ExternalAuthority:
    """The program, and what it last said about itself, in `<data>/pki`."""

    def __init__(self, command: str, pki: Path) -> None:
        self._command = shlex.split(command)
        self._pki = pki
        if not self._command:
            raise SettingsError("TINYFLEET_DEVICE_CA names no program", next="name it with its arguments")

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """Its authorities and those above them. Raises SettingsError before the first `refresh`."""
        try:
            return tuple(x509.load_pem_x509_certificates((self._pki / CHAIN).read_bytes()))
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"the chain of TINYFLEET_DEVICE_CA is not here: {error}",
                next="start `fleetctl serve`, which asks for it",
            ) from error

    @property
    def lists(self) -> bytes:
        """Its revocation lists, PEM."""
        path = self._pki / LISTS
        return path.read_bytes() if path.exists() else b""

    def refresh(self) -> None:
        """Ask for chain and revocation lists, and keep them once they are checked. Raises UnavailableError."""
        chain, lists = self.ask()
        write_file(self._pki / CHAIN, x.certificates_pem(*chain), PUBLIC)
        write_file(self._pki / LISTS, lists, PUBLIC)

    def ask(self) -> tuple[list[x509.Certificate], bytes]:
        """Chain and revocation lists as the program has them now, checked. Raises UnavailableError."""
        answer = self._call("chain")
        try:
            chain = read_certificates(answer, "its answer")
            for certificate in chain:
                check_chain((certificate, *order_chain(certificate, chain)), signs_lists=False)
        except InvalidInputError as error:
            raise _useless("chain", error.message) from error
        lists = self._call("crl")
        _check_lists(lists, chain)
        _check_not_older(lists, self.lists)
        return chain, lists

    def refresh_or_keep(self) -> None:
        """`refresh`; what was kept before will do where the program does not answer. Raises UnavailableError."""
        try:
            self.refresh()
        except UnavailableError as error:
            if not (self._pki / CHAIN).exists():
                raise
            _log.error("%s; going on with what it said before", error)

    def issued(self, certificate: x509.Certificate) -> bool:
        """Whether one of its authorities that have a revocation list signed it."""
        named = {one.issuer for one in read_lists(self.lists)}
        return any(one.subject in named and x.is_signed_by(certificate, one) for one in self.chain)

    def sign(self, request: x509.CertificateSigningRequest, device_id: str, days: float) -> x509.Certificate:
        """A certificate for the request's key and this device. Raises UnavailableError."""
        pem = self._call("sign", device_id, f"{days:.0f}", stdin=request.public_bytes(Encoding.PEM))
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            self._check(certificate, request, device_id)
        except (ValueError, InvalidInputError) as error:
            raise _useless("sign", str(error)) from error
        return certificate

    def revoke(self, serial: str) -> None:
        """Have a certificate revoked; `refresh` then fetches the list that names it. Raises UnavailableError."""
        self._call("revoke", serial)

    def revoked(self) -> set[str]:
        """Serials on its lists, lower-case hex."""
        return {f"{entry.serial_number:x}" for one in read_lists(self.lists) for entry in one}

    def _check(self, certificate: x509.Certificate, request: x509.CertificateSigningRequest, device_id: str) -> None:
        if certificate.public_key() != request.public_key():
            raise InvalidInputError("the certificate is for another key")
        if certificate.subject != x.common_name(device_id):
            raise InvalidInputError(f"its subject is {certificate.subject.rfc4514_string()!r}, not CN={device_id}")
        if not self.issued(certificate):
            raise InvalidInputError("its issuer is none that `chain` and `crl` name")
        if certificate.not_valid_after_utc <= datetime.now(UTC):
            raise InvalidInputError("the certificate has ended")
        if not x.is_for_clients_only(certificate):
            raise InvalidInputError("it must be for client authentication alone, and no authority's")

    def _call(self, *words: str, stdin: bytes = b"") -> bytes:
        try:
            done = subprocess.run([*self._command, *words], input=stdin, capture_output=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise _useless(words[0], f"no answer within {TIMEOUT_S:.0f} s") from error
        except OSError as error:
            raise _useless(words[0], f"cannot start it: {error.strerror}") from error
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it gave no reason"]
            raise _useless(words[0], f"exit status {done.returncode}: {lines[-1][:500]}")
        if len(done.stdout) > ANSWER_BYTES_MAX:
            raise _useless(words[0], "the answer is too long")
        return done.stdout


def read_lists(pem: bytes) -> list[x509.CertificateRevocationList]:
    """Revocation lists one after the other. Raises ValueError."""
    end = b"-----END X509 CRL-----"
    return [x509.load_pem_x509_crl(part + end) for part in pem.split(end)[:-1]]


def _check_lists(pem: bytes, chain: list[x509.Certificate]) -> None:
    try:
        lists = read_lists(pem)
    except ValueError as error:
        raise _useless("crl", f"no revocation lists: {error}") from error
    if not lists:
        raise _useless("crl", "it names no revocation list: the broker would refuse every device")
    for one in lists:
        name = one.issuer.rfc4514_string()
        if not any(issuer.subject == one.issuer and _signed(one, issuer) for issuer in chain):
            raise _useless("crl", f"the list of {name!r} is signed by none of the chain")
        if one.next_update_utc is None or one.next_update_utc <= datetime.now(UTC):
            raise _useless("crl", f"the list of {name!r} is over: the broker would refuse every device")


def _check_not_older(pem: bytes, kept: bytes) -> None:
    """A mirror that lags would let in again what was revoked meanwhile."""
    known = {one.issuer: one.last_update_utc for one in read_lists(kept)}
    for one in read_lists(pem):
        if one.last_update_utc < known.get(one.issuer, one.last_update_utc):
            name = one.issuer.rfc4514_string()
            raise _useless("crl", f"the list of {name!r} is older than the one that is here")


def _signed(one: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return one.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except TypeError:  # a key that cannot sign
        return False


def _useless(verb: str, why: str) -> UnavailableError:
    return UnavailableError(f"TINYFLEET_DEVICE_CA {verb}: {why}", next="see the program's own log; it is asked again")
