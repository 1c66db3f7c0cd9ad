"""Public keys and strict verification: Ed25519 (EdDSA) and P-256 (ES256), told apart by their length.

Strict Ed25519 means: S < L (RFC 8032 section 5.1.7) and neither the public key nor R is of small order. Strict ES256
means: a compressed point on the curve (SEC 1 section 2.3.3), r and s from 1 to n - 1. The agent's ports follow the same
rules; the golden messages hold keys and signatures that break each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import IntEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from tinyfleet_ota.errors import SignatureError

KID_BYTES = 8
SIGNATURE_BYTES = 64
ED25519_BYTES = 32
P256_BYTES = 33
_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
# y coordinates of the points whose order divides 8: 0, 1, -1 and the two of order 8.
_ORDER_8_Y = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7
_SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _ORDER_8_Y, _P - _ORDER_8_Y})


class Algorithm(IntEnum):
    """COSE algorithm of a signature (RFC 9053 section 2)."""

    EDDSA = -8
    ES256 = -7


def algorithm_of(public_key: bytes) -> Algorithm:
    """The algorithm a public key is for. Raises SignatureError for a length that is neither."""
    algorithms = {ED25519_BYTES: Algorithm.EDDSA, P256_BYTES: Algorithm.ES256}
    if len(public_key) not in algorithms:
        raise SignatureError(
            f"a public key has {ED25519_BYTES} bytes (Ed25519) or {P256_BYTES} (P-256, compressed)", got=len(public_key)
        )
    return algorithms[len(public_key)]


def key_id(public_key: bytes) -> bytes:
    """Key id of a public key: first 8 bytes of its SHA-256."""
    return hashlib.sha256(public_key).digest()[:KID_BYTES]


def key_by_id(public_keys: Iterable[bytes], kid: bytes) -> bytes:
    """The key with this id. Raises SignatureError when none has it."""
    for public_key in public_keys:
        if key_id(public_key) == kid:
            return public_key
    raise SignatureError(f"no trusted key has id {kid.hex()}: is the root up to date?", kid=kid)


def check_public_key(public_key: bytes) -> None:
    """Raises SignatureError unless this is a canonical Ed25519 key of large order or a compressed point of P-256."""
    if algorithm_of(public_key) == Algorithm.ES256:
        _p256_key(public_key)
    elif not _is_large_order(public_key):
        raise SignatureError("not an Ed25519 public key of large order: replace the key", public_key=public_key)


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Strict verification by the key's own algorithm; a signature has 64 bytes. Raises SignatureError."""
    check_public_key(public_key)
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError(f"a signature has {SIGNATURE_BYTES} bytes: sign again", got=len(signature))
    if algorithm_of(public_key) == Algorithm.ES256:
        _verify_p256(public_key, message, signature)
    else:
        _verify_ed25519(public_key, message, signature)


def compress_p256(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """33 bytes of a P-256 public key (SEC 1 section 2.3.3). Raises SignatureError for another curve."""
    if not isinstance(public_key.curve, ec.SECP256R1):
        raise SignatureError(f"{public_key.curve.name} is not P-256: make a P-256 or Ed25519 key")
    numbers = public_key.public_numbers()
    return bytes([2 + numbers.y % 2]) + numbers.x.to_bytes(P256_BYTES - 1, "big")


def _verify_ed25519(public_key: bytes, message: bytes, signature: bytes) -> None:
    if int.from_bytes(signature[32:], "little") >= _L:
        raise SignatureError("signature is not canonical (S >= L): sign again", signature=signature)
    if not _is_large_order(signature[:32]):
        raise SignatureError("signature has a small-order R: sign again", signature=signature)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError("signature does not hold: the message was changed or signed by another key") from error


def _verify_p256(public_key: bytes, message: bytes, signature: bytes) -> None:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:  # the library refuses r and s outside 1 to n - 1
        _p256_key(public_key).verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError) as error:
        raise SignatureError("signature does not hold: the message was changed or signed by another key") from error


def _p256_key(public_key: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_key)
    except ValueError as error:
        raise SignatureError("not a compressed point of P-256: replace the key", public_key=public_key) from error


def _is_large_order(point: bytes) -> bool:
    y = int.from_bytes(point, "little") & ((1 << 255) - 1)
    return y < _P and y not in _SMALL_ORDER_Y
