"""COSE_Sign1 and COSE_Sign as SPEC sections 4 and 5 write them: Ed25519, a key id, no other headers (RFC 9052)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cbor2

from tinyfleet_ota import cbor
from tinyfleet_ota.errors import ProtocolError
from tinyfleet_ota.signers import KID_BYTES, SIGNATURE_BYTES, Signer, key_by_id, verify

SIGN1_TAG = 18
SIGN_TAG = 98
_ALGORITHM, _KID, _EDDSA = 1, 4, -8
_SIGN_PROTECTED = cbor.encode({_ALGORITHM: _EDDSA})


def sign1(payload: bytes, signer: Signer) -> bytes:
    """COSE_Sign1 with the payload inside."""
    protected = cbor.encode({_ALGORITHM: _EDDSA, _KID: signer.kid})
    signature = signer.sign(_sign1_bytes(protected, payload))
    return cbor.encode(cbor2.CBORTag(SIGN1_TAG, [protected, {}, payload, signature]))


def open_sign1(data: bytes, public_keys: Sequence[bytes], *, size_max: int) -> bytes:
    """The payload, after its signature was verified with the key it names. Raises ProtocolError, SignatureError."""
    parts = _tagged(data, SIGN1_TAG, size_max)
    protected, _, payload, signature = _shape(parts, (bytes, dict, bytes, bytes), "COSE_Sign1")
    if len(signature) != SIGNATURE_BYTES:
        raise ProtocolError(f"COSE_Sign1: a signature has {SIGNATURE_BYTES} bytes", got=len(signature))
    kid = protected_kid(protected)
    verify(key_by_id(public_keys, kid), _sign1_bytes(protected, payload), signature)
    return bytes(payload)


def read_sign1(data: bytes, *, size_max: int) -> tuple[bytes, bytes]:
    """Payload and key id of a COSE_Sign1, **not verified**. Raises ProtocolError."""
    protected, _, payload, _ = _shape(_tagged(data, SIGN1_TAG, size_max), (bytes, dict, bytes, bytes), "COSE_Sign1")
    return payload, protected_kid(protected)


def sign(payload: bytes, signers: Sequence[Signer]) -> bytes:
    """COSE_Sign with one signature per signer, ascending by key id."""
    signatures = []
    for signer in sorted(signers, key=lambda one: one.kid):
        protected = cbor.encode({_KID: signer.kid})
        signatures.append([protected, {}, signer.sign(_sign_bytes(protected, payload))])
    return cbor.encode(cbor2.CBORTag(SIGN_TAG, [_SIGN_PROTECTED, {}, payload, signatures]))


def read_sign(data: bytes, *, size_max: int) -> tuple[bytes, dict[bytes, bytes]]:
    """Payload and {key id: signature} of a COSE_Sign, **not yet verified**. Raises ProtocolError."""
    parts = _shape(_tagged(data, SIGN_TAG, size_max), (bytes, dict, bytes, list), "COSE_Sign")
    if parts[0] != _SIGN_PROTECTED:
        raise ProtocolError("COSE_Sign: the protected header must say EdDSA and nothing else", got=parts[0])
    signatures: dict[bytes, bytes] = {}
    for entry in parts[3]:
        protected, _, signature = _shape(entry, (bytes, dict, bytes), "COSE_Signature")
        kid = _kid_of(protected, {})
        if len(signature) != SIGNATURE_BYTES or (signatures and kid <= max(signatures)):
            raise ProtocolError("COSE_Sign: signatures have 64 bytes and ascend by key id", kid=kid)
        signatures[kid] = signature
    return bytes(parts[2]), signatures


def verify_sign(payload: bytes, signature: bytes, public_key: bytes, kid: bytes) -> None:
    """Check one signature of a COSE_Sign. Raises SignatureError."""
    verify(public_key, _sign_bytes(cbor.encode({_KID: kid}), payload), signature)


def protected_kid(protected: bytes) -> bytes:
    """Key id in a COSE_Sign1 protected header, which must hold EdDSA and a key id only. Raises ProtocolError."""
    return _kid_of(protected, {_ALGORITHM: _EDDSA})


def _sign1_bytes(protected: bytes, payload: bytes) -> bytes:
    return cbor.encode(["Signature1", protected, b"", payload])


def _sign_bytes(protected: bytes, payload: bytes) -> bytes:
    return cbor.encode(["Signature", _SIGN_PROTECTED, protected, b"", payload])


def _tagged(data: bytes, tag: int, size_max: int) -> Any:
    item = cbor.decode(data, size_max=size_max, tags=(tag,))
    if not isinstance(item, cbor2.CBORTag) or item.tag != tag:
        raise ProtocolError(f"expected a COSE message with tag {tag}")
    return cbor.plain(item.value)


def _shape(parts: Any, kinds: tuple[type, ...], what: str) -> list[Any]:
    if not isinstance(parts, list) or len(parts) != len(kinds):
        raise ProtocolError(f"{what} has {len(kinds)} parts")
    if not all(isinstance(part, kind) for part, kind in zip(parts, kinds, strict=True)) or parts[1]:
        raise ProtocolError(f"{what}: a part has the wrong type, or the unprotected header is not empty")
    return list(parts)


def _kid_of(protected: bytes, others: dict[int, int]) -> bytes:
    header = cbor.decode(protected, size_max=64)
    kid = header.get(_KID) if isinstance(header, dict) else None
    if not isinstance(kid, bytes) or len(kid) != KID_BYTES or header != {**others, _KID: kid}:
        raise ProtocolError(
            "COSE: the protected header must hold the algorithm and an 8-byte key id only", got=protected
        )
    return kid
