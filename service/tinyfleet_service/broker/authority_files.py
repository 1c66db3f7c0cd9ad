"""Authorities in files: a certificate, its key, and those above it. One that is damaged is never replaced."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.certificates import Authority
from tinyfleet_service.broker.files import PRIVATE, PUBLIC, write_file
from tinyfleet_service.errors import SettingsError


def ensure_authority(path: Path, name: str, subject: str) -> Authority:
    """The authority of that name in the folder, made when it is not there. Raises SettingsError, StorageError."""
    if (path / f"{name}.crt").exists():
        return read_authority(path, name)
    key_path = path / f"{name}.key"
    if not key_path.exists():
        write_file(key_path, x.key_pem(x.new_key()), PRIVATE)
    authority = x.make_authority(subject, read_key(key_path))  # a start cut between the two files goes on here
    write_file(path / f"{name}.crt", x.certificate_pem(authority.certificate), PUBLIC)
    return authority


def read_authority(path: Path, name: str) -> Authority:
    """`name`.crt, its key, and `name`-chain.crt where it stands below others. Raises SettingsError."""
    certificate = read_certificate(path / f"{name}.crt")
    key = read_key(path / f"{name}.key")
    chain = path / f"{name}-chain.crt"
    if key.public_key() != certificate.public_key():
        raise _unusable(path / f"{name}.key", ValueError("it does not belong to the certificate beside it"))
    return Authority(certificate, key, tuple(_read_all(chain)) if chain.exists() else ())


def _read_all(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from error


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """An elliptic-curve key, PEM. Raises SettingsError."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(path, error) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _unusable(path, ValueError("not an elliptic-curve key"))
    return key


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file. Raises SettingsError."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> SettingsError:
    return SettingsError(
        f"cannot use {path}: {getattr(error, 'strerror', None) or error}",
        next="restore the pki folder from a backup; a new authority would lock every enrolled device out",
        path=str(path),
    )
