"""Encrypted blobs and content keys wrapped for one device. SPEC section 8.

sealed = encrypt_blob(patch, chunk_bytes=1024)       a fresh key, so no two blobs share key and nonce
entry = replace(entry, blob=..., content_key=wrap_key(sealed.key, device_key, blob_id, device))
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tinyfleet_ota.errors import EncryptionError

KEY_BYTES, TAG_BYTES, POINT_BYTES = 16, 16, 64
_LABEL = b"fleet content key 1"
_NONCE_BYTES = 12


@dataclass(frozen=True)
class SealedBlob:
    """What travels, and the key that opens it; the key leaves the service only wrapped."""

    data: bytes
    key: bytes


def encrypt_blob(plain: bytes, chunk_bytes: int) -> SealedBlob:
    """`plain` under a fresh key, chunk by chunk: each stored chunk is at most `chunk_bytes`, 16 of them its tag."""
    if chunk_bytes <= TAG_BYTES or not plain:
        raise EncryptionError(f"encrypted chunks have more than {TAG_BYTES} bytes, and a blob at least one byte")
    key = os.urandom(KEY_BYTES)
    chunks = _pieces(plain, chunk_bytes - TAG_BYTES)
    return SealedBlob(b"".join(AESGCM(key).encrypt(_nonce(n), chunk, None) for n, chunk in enumerate(chunks)), key)


def decrypt_blob(sealed: SealedBlob, chunk_bytes: int) -> bytes:
    """The plain blob. Raises EncryptionError for a wrong key and for any byte or chunk out of its place."""
    try:
        chunks = enumerate(_pieces(sealed.data, chunk_bytes))
        return b"".join(AESGCM(sealed.key).decrypt(_nonce(n), chunk, None) for n, chunk in chunks)
    except InvalidTag:
        raise EncryptionError("a chunk was made with another key or for another place") from None


def wrap_key(key: bytes, device_key: ec.EllipticCurvePublicKey, blob_id: bytes, device: str) -> bytes:
    """The content key for the holder of `device_key` alone: an ephemeral point X || Y, the key encrypted, a tag."""
    if not isinstance(device_key.curve, ec.SECP256R1) or len(key) != KEY_BYTES:
        raise EncryptionError("content keys have 16 bytes and are wrapped for keys of P-256")
    ephemeral = ec.generate_private_key(ec.SECP256R1())
    point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    wrapping = _wrapping_key(ephemeral.exchange(ec.ECDH(), device_key), point, blob_id, device)
    return point + AESGCM(wrapping).encrypt(_nonce(0), key, None)


def unwrap_key(wrapped: bytes, device_key: ec.EllipticCurvePrivateKey, blob_id: bytes, device: str) -> bytes:
    """What the agent does. Raises EncryptionError when it was wrapped for another key, blob or device."""
    try:
        point, body = wrapped[:POINT_BYTES], wrapped[POINT_BYTES:]
        peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
        wrapping = _wrapping_key(device_key.exchange(ec.ECDH(), peer), point, blob_id, device)
        return AESGCM(wrapping).decrypt(_nonce(0), body, None)
    except (InvalidTag, ValueError):
        raise EncryptionError("the content key was wrapped for another device, blob or key") from None


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE_BYTES, "big")


def _wrapping_key(secret: bytes, point: bytes, blob_id: bytes, device: str) -> bytes:
    """One-step key derivation with SHA-256 (NIST SP 800-56C rev. 2 section 4)."""
    info = _LABEL + point + blob_id + device.encode()
    return hashlib.sha256(b"\x00\x00\x00\x01" + secret + info).digest()[:KEY_BYTES]
