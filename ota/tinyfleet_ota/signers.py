"""Keys and signatures: the one place that touches private keys, and the strict Ed25519 verifier.

Strict means: S < L (RFC 8032 section 5.1.7) and neither the public key nor R is of small order. The agent's port
follows the same rules; the golden messages hold signatures that break each.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from tinyfleet_ota.errors import KeyFileError, SignatureError

KID_BYTES = 8
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
# y coordinates of the points whose order divides 8: 0, 1, -1 and the two of order 8.
_ORDER_8_Y = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7
_SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _ORDER_8_Y, _P - _ORDER_8_Y})


class Signer(Protocol):
    """Something that signs with one Ed25519 key: a file here, a hardware module or service elsewhere."""

    @property
    def public_key(self) -> bytes:
        """32 bytes."""

    @property
    def kid(self) -> bytes:
        """Key id: first 8 bytes of SHA-256 of the public key."""

    def sign(self, message: bytes) -> bytes:
        """Signature over `message`, 64 bytes."""


def key_id(public_key: bytes) -> bytes:
    """Key id of a public key: first 8 bytes of its SHA-256."""
    return hashlib.sha256(public_key).digest()[:KID_BYTES]


class Ed25519FileSigner:
    """Ed25519 key in an encrypted PKCS#8 PEM file; the passphrase comes from the caller and is not kept."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.public_key: bytes = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.kid: bytes = key_id(self.public_key)

    @classmethod
    def generate(cls) -> Ed25519FileSigner:
        """A new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Ed25519FileSigner:
        """The key of a 32-byte RFC 8032 seed: for tests and golden messages."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: Path, passphrase: bytes) -> Ed25519FileSigner:
        """Read a key file. Raises KeyFileError: absent, wrong passphrase, unencrypted or not Ed25519."""
        try:
            private_key = load_pem_private_key(path.read_bytes(), passphrase)
        except OSError as error:
            raise KeyFileError(f"cannot read key file {path.name}: {error.strerror}", path=str(path)) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            message = f"{path.name} is not a key encrypted with this passphrase: check the passphrase and the file"
            raise KeyFileError(message, path=str(path)) from error
        if not isinstance(private_key, Ed25519PrivateKey):
            raise KeyFileError(f"{path.name} holds no Ed25519 key: make one with `save`", path=str(path))
        return cls(private_key)

    def save(self, path: Path, passphrase: bytes) -> None:
        """Write the key, encrypted, readable by its owner only; never over an existing file. Raises KeyFileError."""
        if not passphrase:
            raise KeyFileError("a key file needs a passphrase", path=str(path))
        pem = self._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise KeyFileError(f"cannot write key file {path.name}: {error.strerror}", path=str(path)) from error

    def seed(self) -> bytes:
        """The 32-byte private seed, for golden messages. Handle with care."""
        return self._private_key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())

    def sign(self, message: bytes) -> bytes:
        """Ed25519 signature over `message`, 64 bytes."""
        return self._private_key.sign(message)


def check_public_key(public_key: bytes) -> None:
    """Raises SignatureError unless `public_key` is a canonical 32-byte Ed25519 key of large order."""
    if len(public_key) != PUBLIC_KEY_BYTES or not _is_large_order(public_key):
        raise SignatureError("not an Ed25519 public key of large order: replace the key", public_key=public_key)


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Strict Ed25519 verification. Raises SignatureError."""
    check_public_key(public_key)
    if len(signature) != SIGNATURE_BYTES or int.from_bytes(signature[32:], "little") >= _L:
        raise SignatureError("signature is not canonical (S >= L): sign again", signature=signature)
    if not _is_large_order(signature[:32]):
        raise SignatureError("signature has a small-order R: sign again", signature=signature)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError("signature does not hold: the message was changed or signed by another key") from error


def key_by_id(public_keys: Iterable[bytes], kid: bytes) -> bytes:
    """The key with this id. Raises SignatureError when none has it."""
    for public_key in public_keys:
        if key_id(public_key) == kid:
            return public_key
    raise SignatureError(f"no trusted key has id {kid.hex()}: is the root up to date?", kid=kid)


def _is_large_order(point: bytes) -> bool:
    y = int.from_bytes(point, "little") & ((1 << 255) - 1)
    return y < _P and y not in _SMALL_ORDER_Y
