"""The one SUIT template tinyfleet signs and its agents match byte for byte (SPEC section 3).

Source: draft-ietf-suit-manifest-34. `c_constants` hands the fixed pieces to the agent's generated header, `release`
builds envelopes from the same ones, so both sides read one table.
"""

from __future__ import annotations

import hashlib
import uuid

VENDOR_ID = uuid.uuid5(uuid.NAMESPACE_URL, "urn:tinyfleet").bytes
FETCH_URI = b"fleet:assignment"
"""Where the bytes come from is not the release's business: the assignment says so (SPEC section 4)."""

_ALGORITHM_HEAD = bytes.fromhex("a201")
"""Opens every COSE protected header: {1: algorithm, 4: h'...8 bytes'}; one byte follows, 27 for EdDSA, 26 for ES256."""

DIGEST_HEAD = bytes.fromhex("822f5820")
"""Opens a SUIT_Digest: [-16 (SHA-256), h'...32 bytes']; the digest follows."""

_FETCH = b"\x86\x14\xa1\x15\x70" + FETCH_URI + b"\x15\x02\x03\x0f"

PIECES = {
    # 107({2: << [<< digest >>, << 18([<< {1: algorithm, 4: kid} >>, {}, null, signature]) >>] >>, 3: << manifest >>})
    "ENVELOPE": bytes.fromhex("d86ba202587d825824") + DIGEST_HEAD,  # then: manifest digest (32)
    "SIGN1": bytes.fromhex("5854d2844d") + _ALGORITHM_HEAD,  # then: algorithm (1)
    "KID": bytes.fromhex("0448"),  # then: kid (8)
    "SIGNATURE": bytes.fromhex("a0f65840"),  # then: signature (64)
    "MANIFEST_KEY": b"\x03",  # then: head of the manifest's byte string
    # {1: 1, 2: sequence number, 3: << common >>, 7: << validate >>, 20: << install >>, 23: << text >>}
    "MANIFEST": bytes.fromhex("a6010102"),  # then: sequence number = release counter (uint)
    "COMMON_KEY": b"\x03",  # then: head of the common byte string
    "COMPONENTS": bytes.fromhex("a2028181"),  # then: component (bstr 1..16)
    "SHARED_KEY": b"\x04",  # then: head of the shared sequence's byte string
    # [20, {1: vendor, 2: class, 3: << digest >>, 14: size, -256: abi, -257: floor}, 1, 15, 2, 15]
    "SHARED": bytes.fromhex("8614a60150") + VENDOR_ID + bytes.fromhex("0250"),  # then: class id (16)
    "IMAGE_DIGEST": bytes.fromhex("035824") + DIGEST_HEAD,  # then: image digest (32)
    "IMAGE_SIZE": b"\x0e",  # then: image bytes (uint)
    "ABI": bytes.fromhex("38ff"),  # then: runtime ABI (uint)
    "FLOOR": bytes.fromhex("390100"),  # then: security floor (uint)
    # validate: [3, 15]; install: [20, {21: "fleet:assignment"}, 21, 2, 3, 15]
    "TAIL": bytes.fromhex("010f020f0743") + b"\x82\x03\x0f" + b"\x14\x58" + bytes([len(_FETCH)]) + _FETCH + b"\x17",
    # then: head of the text byte string; {"en": {[component]: {6: version}}}
    "TEXT": bytes.fromhex("a162656ea181"),  # then: component (bstr 1..16)
    "VERSION": bytes.fromhex("a106"),  # then: version (tstr 1..32), end
}
"""Fixed bytes in order; each comment says which variable bytes follow the piece."""

SIGNED = {
    # ["Signature1", << {1: algorithm, 4: kid} >>, h'', << digest >>]
    "SIG_STRUCTURE": b"\x84\x6aSignature1\x4d" + _ALGORITHM_HEAD,  # then: algorithm (1), KID, kid (8)
    "SIG_PAYLOAD": bytes.fromhex("405824") + DIGEST_HEAD,  # then: manifest digest (32), end
}
"""The bytes under a release signature (RFC 9052 section 4.4, detached payload)."""

VERSION_BYTES_MAX = 32
ENVELOPE_BYTES_MAX = 512


def class_id(device_class: str) -> bytes:
    """SUIT class id of a device class, 16 bytes.

    A name-based UUIDv8 (RFC 9562 section 5.8) over SHA-256 of vendor id and name: an agent that has SHA-256 for its
    images can compute it from its class name, and needs no SHA-1 as UUIDv5 would.
    """
    raw = bytearray(hashlib.sha256(VENDOR_ID + device_class.encode()).digest()[:16])
    raw[6] = 0x80 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    return bytes(raw)


def c_constants() -> dict[str, bytes]:
    """Name -> bytes of everything the agent's manifest matcher compares with."""
    return {**PIECES, **SIGNED, "VENDOR_ID": VENDOR_ID}
