"""COSE_Sign1 and COSE_Sign as SPEC sections 4 and 5 write them: algorithm and key id, no other headers (RFC 9052)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cbor2

from tinyfleet_ota import cbor
from tinyfleet_ota.errors import ProtocolError, SignatureError
from tinyfleet_ota.keys import KID_BYTES, SIGNATURE_BYTES, Algorithm, algorithm_of, key_by_id, verify
from tinyfleet_ota.signers import Signer

SIGN1_TAG = 18
SIGN_TAG = 98
_ALGORITHM, _KID = 1, 4
_SIGN1_HEAD = cbor.head(cbor.TAG, SIGN1_TAG) + cbor.head(cbor.ARRAY, 4)
_SIGN1_CONTEXT = cbor.head(cbor.ARRAY, 4) + cbor.encode("Signature1")
_NO_HEADERS = cbor.head(cbor.MAP, 0)


def sign1(payload: bytes, signer: Signer) -> bytes:
    """COSE_Sign1 with the payload inside."""
    protected = protected_header(signer.public_key, signer.kid)
    signature = signer.sign(_sign1_bytes(protected, payload))
    parts = (cbor.byte_string(protected), _NO_HEADERS, cbor.byte_string(payload), cbor.byte_string(signature))
    return _SIGN1_HEAD + b"".join(parts)


def open_sign1(data: bytes, public_keys: Sequence[bytes], *, size_max: int) -> bytes:
    """The payload, after its signature was verified with the key it names. Raises ProtocolError, SignatureError."""
    parts = _tagged(data, SIGN1_TAG, size_max)
    protected, _, payload, signature = _shape(parts, (bytes, dict, bytes, bytes), "COSE_Sign1")
    if len(signature) != SIGNATURE_BYTES:
        raise ProtocolError(f"COSE_Sign1: a signature has {SIGNATURE_BYTES} bytes", got=len(signature))
    algorithm, kid = read_protected(protected)
    key = key_by_id(public_keys, kid)
    check_algorithm(algorithm, key)
    verify(key, _sign1_bytes(protected, payload), signature)
    return bytes(payload)


def read_sign1(data: bytes, *, size_max: int) -> tuple[bytes, bytes]:
    """Payload and key id of a COSE_Sign1, **not verified**. Raises ProtocolError."""
    protected, _, payload, _ = _shape(_tagged(data, SIGN1_TAG, size_max), (bytes, dict, bytes, bytes), "COSE_Sign1")
    return payload, read_protected(protected)[1]


@dataclass(frozen=True)
class Signature:
    """One signature of a COSE_Sign."""

    algorithm: Algorithm
    kid: bytes
    signature: bytes


def sign(payload: bytes, signers: Sequence[Signer]) -> bytes:
    """COSE_Sign with one signature per signer, ascending by key id."""
    signatures = []
    for signer in sorted(signers, key=lambda one: one.kid):
        protected = protected_header(signer.public_key, signer.kid)
        signatures.append([protected, {}, signer.sign(_sign_bytes(protected, payload))])
    return cbor.encode(cbor2.CBORTag(SIGN_TAG, [b"", {}, payload, signatures]))


def read_sign(data: bytes, *, size_max: int) -> tuple[bytes, list[Signature]]:
    """Payload and signatures of a COSE_Sign, **not yet verified**. Raises ProtocolError."""
    parts = _shape(_tagged(data, SIGN_TAG, size_max), (bytes, dict, bytes, list), "COSE_Sign")
    if parts[0] != b"":
        raise ProtocolError("COSE_Sign: the body's protected header must be empty", got=parts[0])
    signatures: list[Signature] = []
    for entry in parts[3]:
        protected, _, signature = _shape(entry, (bytes, dict, bytes), "COSE_Signature")
        algorithm, kid = read_protected(protected)
        if len(signature) != SIGNATURE_BYTES or (signatures and kid <= signatures[-1].kid):
            raise ProtocolError("COSE_Sign: signatures have 64 bytes and ascend by key id", kid=kid)
        signatures.append(Signature(algorithm, kid, signature))
    return bytes(parts[2]), signatures


def assemble_sign(payload: bytes, signatures: Sequence[Signature]) -> bytes:
    """COSE_Sign of signatures made elsewhere, ascending by key id: the last step of an offline ceremony."""
    ordered = sorted(signatures, key=lambda one: one.kid)
    parts = [[cbor.encode({_ALGORITHM: int(one.algorithm), _KID: one.kid}), {}, one.signature] for one in ordered]
    return cbor.encode(cbor2.CBORTag(SIGN_TAG, [b"", {}, payload, parts]))


def verify_sign(payload: bytes, signature: Signature, public_key: bytes) -> None:
    """Check one signature of a COSE_Sign. Raises SignatureError."""
    check_algorithm(signature.algorithm, public_key)
    verify(public_key, _sign_bytes(protected_header(public_key, signature.kid), payload), signature.signature)


@lru_cache(maxsize=64)
def protected_header(public_key: bytes, kid: bytes) -> bytes:
    """The protected header of whatever this key signs: {1: algorithm, 4: key id}, 13 bytes."""
    return cbor.encode({_ALGORITHM: int(algorithm_of(public_key)), _KID: kid})


def read_protected(protected: bytes) -> tuple[Algorithm, bytes]:
    """Algorithm and key id of a protected header, which must hold these two only. Raises ProtocolError."""
    header = cbor.decode(protected, size_max=64)
    kid = header.get(_KID) if isinstance(header, dict) else None
    for algorithm in Algorithm:
        if isinstance(kid, bytes) and len(kid) == KID_BYTES and header == {_ALGORITHM: int(algorithm), _KID: kid}:
            return algorithm, kid
    raise ProtocolError("COSE: the protected header must hold EdDSA or ES256 and an 8-byte key id only", got=protected)


def check_algorithm(algorithm: Algorithm, public_key: bytes) -> None:
    """Raises SignatureError when the header names another algorithm than its key's."""
    if algorithm != algorithm_of(public_key):
        raise SignatureError(f"signed as {algorithm.name}, but the key is for {algorithm_of(public_key).name}")


def _sign1_bytes(protected: bytes, payload: bytes) -> bytes:
    return _SIGN1_CONTEXT + b"".join(map(cbor.byte_string, (protected, b"", payload)))


def _sign_bytes(protected: bytes, payload: bytes) -> bytes:
    return cbor.encode(["Signature", b"", protected, b"", payload])


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
