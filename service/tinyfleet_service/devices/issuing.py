"""Certificates from an authority outside, which may take its time: it is never asked within a transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Engine
from sqlmodel import Session

from tinyfleet_service.broker.external_ca import ExternalAuthority
from tinyfleet_service.broker.pki import DEVICE_DAYS, Pki, check_device_id
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.devices.requests import parse_request


class Issuer(Protocol):
    """Gives device certificates; `outside`: another authority than ours revokes them."""

    outside: bool

    def issue_device(self, device_id: str, public_key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        """A certificate for the device's key, for `DEVICE_DAYS`. Raises InvalidInputError for a bad id."""


def issue_certificate(
    engine: Engine, pki: Pki, csr: bytes, operation: Callable[[Session, Issuer], x509.Certificate]
) -> x509.Certificate:
    """Run `operation` in a transaction. Raises what it raises, UnavailableError when the authority outside fails.

    With an authority outside it is run twice: the first time ends, rolled back, where a certificate is needed.
    """
    if pki.external is None:
        with session_scope(engine) as session:
            return operation(session, pki)
    issuer = _OutsideIssuer(pki.external, csr)
    try:
        with session_scope(engine) as session:
            return operation(session, issuer)
    except _CertificateNeededError as needed:
        issuer.ask(needed.device_id)
    with session_scope(engine) as session:
        return operation(session, issuer)


class _CertificateNeededError(Exception):
    def __init__(self, device_id: str) -> None:
        super().__init__(device_id)
        self.device_id = device_id


class _OutsideIssuer:
    outside = True

    def __init__(self, authority: ExternalAuthority, csr: bytes) -> None:
        self._authority, self._csr = authority, csr
        self._made: dict[str, x509.Certificate] = {}

    def ask(self, device_id: str) -> None:
        self._made[device_id] = self._authority.sign(parse_request(self._csr), device_id, DEVICE_DAYS)

    def issue_device(self, device_id: str, public_key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        check_device_id(device_id)
        if device_id not in self._made:
            raise _CertificateNeededError(device_id)
        return self._made[device_id]
