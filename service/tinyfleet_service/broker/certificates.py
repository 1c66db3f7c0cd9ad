"""X.509 building blocks: a P-256 authority that signs leaf certificates and revocation lists (RFC 5280).

No files here; `pki.py` says what lies where.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BACKDATE = timedelta(hours=1)  # a device's clock may run behind ours
AUTHORITY_DAYS = 20 * 365
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True)
class Authority:
    """A certificate authority: its certificate, its private key, and the authorities above it, the root last."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    above: tuple[x509.Certificate, ...] = ()

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """From this authority to its self-signed root."""
        return (self.certificate, *self.above)

    @property
    def sent(self) -> tuple[x509.Certificate, ...]:
        """What goes with a leaf to a peer that knows the root alone."""
        return self.chain[:-1]

    def issued(self, certificate: x509.Certificate) -> bool:
        """True when this authority's key signed `certificate`, not merely when the names agree."""
        return is_signed_by(certificate, self.certificate)


def is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer's name and key are those that signed."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def make_authority(name: str, key: ec.EllipticCurvePrivateKey) -> Authority:
    """A self-signed authority that may sign leaf certificates only (path length 0)."""
    end = datetime.now(UTC) + timedelta(days=AUTHORITY_DAYS)
    builder = _builder(common_name(name), common_name(name), key.public_key(), end).add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    )
    for extension in authority_extensions():
        builder = builder.add_extension(extension, critical=True)
    return Authority(builder.sign(key, hashes.SHA256()), key)


def authority_extensions() -> tuple[x509.ExtensionType, ...]:
    """What makes a certificate that of an authority which signs leaves and revocation lists alone; all critical."""
    return x509.BasicConstraints(ca=True, path_length=0), _key_usage(signs_certificates=True)


def issue(
    authority: Authority,
    name: str,
    public_key: ec.EllipticCurvePublicKey,
    *,
    usage: x509.ObjectIdentifier,
    days: float,
    hosts: Iterable[str] = (),
) -> x509.Certificate:
    """A leaf certificate with CN `name`, for one purpose: `CLIENT` or `SERVER` (with `hosts`).

    It does not outlive the authority.
    """
    end = min(datetime.now(UTC) + timedelta(days=days), authority.certificate.not_valid_after_utc)
    builder = (
        _builder(common_name(name), authority.certificate.subject, public_key, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_authority_key(authority), critical=False)
    )
    names = [_alternative_name(host) for host in dict.fromkeys(hosts)]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def make_crl(authority: Authority, serials: Iterable[int]) -> bytes:
    """PEM revocation list, good since its authority is and never over in practice: any other would lock every device
    out, one from before the clock was set back as well.
    """
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(authority.certificate.not_valid_before_utc)
        .next_update(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(_authority_key(authority), critical=False)
    )
    for serial in sorted(set(serials)):
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(revoked)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 PEM, unencrypted: the file mode protects it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """PEM of a certificate."""
    return certificate.public_bytes(Encoding.PEM)


def certificates_pem(*certificates: x509.Certificate) -> bytes:
    """PEM of certificates one after the other."""
    return b"".join(map(certificate_pem, certificates))


def common_name(name: str) -> x509.Name:
    """A subject of one CN."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def name_of(certificate: x509.Certificate) -> str:
    """CN of a certificate; empty when it has none or several."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def is_for_clients_only(certificate: x509.Certificate) -> bool:
    """A leaf whose one purpose is client authentication: it can pose as no server and sign nothing."""
    try:
        usage = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    return usage == [CLIENT] and not constraints.ca


def serial_text(certificate: x509.Certificate) -> str:
    """Serial number as lower-case hex: the form kept in the database."""
    return f"{certificate.serial_number:x}"


def _authority_key(authority: Authority) -> x509.AuthorityKeyIdentifier:
    """What the authority's certificate calls its key: whoever signed it may count otherwise than we would."""
    try:
        named = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(named.value)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - BACKDATE)
        .not_valid_after(end)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
