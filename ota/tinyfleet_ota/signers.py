"""Private keys: what signs. A file here; hardware modules in `pkcs11`; a KMS is any class with these three members."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from tinyfleet_ota.errors import KeyFileError
from tinyfleet_ota.keys import Algorithm, compress_p256, key_id

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class Signer(Protocol):
    """Something that signs with one key: a file, a hardware module, a key management service."""

    @property
    def public_key(self) -> bytes:
        """32 bytes of Ed25519, or 33 of P-256 (compressed)."""

    @property
    def kid(self) -> bytes:
        """Key id: first 8 bytes of SHA-256 of the public key."""

    def sign(self, message: bytes) -> bytes:
        """Signature over `message`, 64 bytes: Ed25519's R || S, or ECDSA's r || s over SHA-256."""


class FileSigner:
    """Key in an encrypted PKCS#8 PEM file; the passphrase comes from the caller and is not kept."""

    def __init__(self, private_key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
        self._private_key = private_key
        self.public_key: bytes = _public_bytes(private_key)
        self.kid: bytes = key_id(self.public_key)

    @classmethod
    def generate(cls, algorithm: Algorithm = Algorithm.EDDSA) -> FileSigner:
        """A new key."""
        if algorithm == Algorithm.ES256:
            return cls(ec.generate_private_key(ec.SECP256R1()))
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes, algorithm: Algorithm = Algorithm.EDDSA) -> FileSigner:
        """The key of a 32-byte seed (RFC 8032; P-256: scalar 1 + seed mod n - 1): for tests and vectors."""
        if algorithm == Algorithm.ES256:
            scalar = 1 + int.from_bytes(seed, "big") % (_P256_ORDER - 1)
            return cls(ec.derive_private_key(scalar, ec.SECP256R1()))
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: Path, passphrase: bytes) -> FileSigner:
        """Read a key file. Raises KeyFileError: absent, wrong passphrase, unencrypted, neither Ed25519 nor P-256."""
        try:
            private_key = load_pem_private_key(path.read_bytes(), passphrase)
        except OSError as error:
            raise KeyFileError(f"cannot read key file {path.name}: {error.strerror}", path=str(path)) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            message = f"{path.name} is not a key encrypted with this passphrase: check the passphrase and the file"
            raise KeyFileError(message, path=str(path)) from error
        is_p256 = isinstance(private_key, ec.EllipticCurvePrivateKey) and isinstance(private_key.curve, ec.SECP256R1)
        if not isinstance(private_key, Ed25519PrivateKey) and not is_p256:
            raise KeyFileError(f"{path.name} holds no Ed25519 or P-256 key: make one with `save`", path=str(path))
        return cls(private_key)  # type: ignore[arg-type]

    def save(self, path: Path, passphrase: bytes) -> None:
        """Write the key, encrypted, readable by its owner only; whole or not at all, never over an existing file.

        Raises KeyFileError.
        """
        if not passphrase:
            raise KeyFileError("a key file needs a passphrase", path=str(path))
        pem = self._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
        new = path.with_name(path.name + ".new")
        try:
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            new.unlink(missing_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        except OSError as error:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise KeyFileError(f"cannot write key file {path.name}: {error.strerror}", path=str(path)) from error

    def sign(self, message: bytes) -> bytes:
        """Signature over `message`, 64 bytes. ECDSA nonces are derived from key and message (RFC 6979)."""
        if isinstance(self._private_key, Ed25519PrivateKey):
            return self._private_key.sign(message)
        return raw_signature(self._private_key.sign(message, ec.ECDSA(SHA256(), deterministic_signing=True)))


def raw_signature(der: bytes) -> bytes:
    """r || s, big-endian, 64 bytes, of an ECDSA signature in DER."""
    return b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(der))


def _public_bytes(private_key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    if isinstance(private_key, Ed25519PrivateKey):
        return private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return compress_p256(private_key.public_key())
