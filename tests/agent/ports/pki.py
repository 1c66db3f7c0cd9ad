"""Certificates for tests: authorities, a server, clients, short-lived and foreign ones."""

import datetime
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

UTC = datetime.UTC


class Files(NamedTuple):
    """Where a certificate and its key were written."""

    cert: Path
    key: Path


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


class Authority:
    """A CA in a folder: `ca.pem`, and whatever it issues."""

    def __init__(self, folder: Path, name: str = "test CA") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.key, self.name = folder, ec.generate_private_key(ec.SECP256R1()), _name(name)
        now = datetime.datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.path = folder / "ca.pem"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def sign(
        self,
        public_key: ec.EllipticCurvePublicKey,
        name: str,
        *,
        server_names: tuple[str, ...] = (),
        life: tuple[float, float] = (-3600.0, 86400.0),
    ) -> x509.Certificate:
        """A certificate; `life` is its begin and end in seconds from now."""
        now = datetime.datetime.now(UTC)
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server_names else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(seconds=life[0]))
            .not_valid_after(now + datetime.timedelta(seconds=life[1]))
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if server_names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(n) for n in server_names]), critical=False
            )
        return builder.sign(self.key, hashes.SHA256())

    def issue(
        self,
        name: str,
        *,
        server_names: tuple[str, ...] = (),
        life: tuple[float, float] = (-3600.0, 86400.0),
    ) -> Files:
        """A new key and its certificate, as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.sign(key.public_key(), name, server_names=server_names, life=life)
        files = Files(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        files.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(_pem(key))
        return files


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
