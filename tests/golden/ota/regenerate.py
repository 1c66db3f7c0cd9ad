"""Golden messages for Python and C readers: `python tests/golden/ota/regenerate.py` writes messages.json beside it.

Each case holds the message in hex and `expect`: OK or the reason (protocol.cddl) a device must refuse it with.
Everything is made from fixed seeds; Ed25519 is deterministic, so regenerating changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cbor2

from tinyfleet_ota import cbor, cose
from tinyfleet_ota.assignment import Assignment, AssignmentEntry, make_assignment
from tinyfleet_ota.errors import SignatureError
from tinyfleet_ota.keys import Algorithm, check_public_key
from tinyfleet_ota.protocol import Codec, SlotState
from tinyfleet_ota.protocol_codec import encode_message
from tinyfleet_ota.release import _manifest, draft_of, make_release, read_release, seal
from tinyfleet_ota.roots import Root, make_root
from tinyfleet_ota.signers import FileSigner
from tinyfleet_ota.suit_profile import class_id

FILE = Path(__file__).with_name("messages.json")
L = 2**252 + 27742317777372353535851937790883648493
IMAGE = bytes(range(256)) * 5
NONCES = [bytes.fromhex("a0a1a2a3a4a5a6a7"), bytes.fromhex("b0b1b2b3b4b5b6b7")]
DEVICE = {"device": "m4-7", "device_class": "cortex-m4", "abi": 1, "floor": 5, "director_epoch": 2, "sequence": 40}


def key(name: str, algorithm: Algorithm = Algorithm.EDDSA) -> FileSigner:
    return FileSigner.from_seed(hashlib.sha256(b"tinyfleet golden " + name.encode()).digest(), algorithm)


RELEASE, DIRECTOR, STRANGER = key("release"), key("director"), key("stranger")
RELEASE_P256, DIRECTOR_P256 = key("release", Algorithm.ES256), key("director", Algorithm.ES256)
ROOT_P256 = key("root 0", Algorithm.ES256)
ROOTS = sorted((key(f"root {n}") for n in range(4)), key=lambda signer: signer.public_key)


def flip(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]


def byte_at(data: bytes, offset: int, value: int) -> bytes:
    return data[:offset] + bytes([value]) + data[offset + 1 :]


def plus_l(message: bytes, offset: int) -> bytes:
    """The same message with L added to S of the signature at `offset`: malleable unless S < L is checked."""
    s = int.from_bytes(message[offset + 32 : offset + 64], "little") + L
    return message[: offset + 32] + s.to_bytes(32, "little") + message[offset + 64 :]


def release(image: bytes = IMAGE, signer: FileSigner = RELEASE, **changes: Any) -> bytes:
    values: dict[str, Any] = {
        "device_class": "cortex-m4",
        "abi": 1,
        "release_counter": 7,
        "security_floor": 3,
        "component": "model/0",
        "version": "v2",
    }
    return make_release(image, signer=signer, **{**values, **changes})


def resigned(envelope: bytes, old: bytes, new: bytes) -> bytes:
    """A manifest edited and signed again by the release key: only the template can refuse it."""
    manifest = cbor2.loads(draft_of(envelope))
    assert manifest.count(old) == 1
    return seal(cbor.encode(manifest.replace(old, new)), RELEASE)


def unchecked_release(**changes: Any) -> bytes:
    """A release of our template, well signed, whose values are not checked."""
    return seal(cbor.encode(_manifest(replace(read_release(release()), **changes))), RELEASE)


def as_es256(envelope: bytes, digest_at: int, kid_at: int) -> bytes:
    """Header of the other algorithm, and signed so: the key's own algorithm would find the signature good."""
    edited = byte_at(envelope, kid_at - 3, 0x26)
    protected, digest = edited[kid_at - 5 : kid_at + 8], edited[digest_at - 4 : digest_at + 32]
    signature = RELEASE.sign(cbor.encode(["Signature1", protected, b"", digest]))
    return edited[: kid_at + 12] + signature + edited[kid_at + 76 :]


def release_cases() -> list[dict[str, Any]]:
    good = release()
    digest_at, kid_at, signature_at = 13, 55, 67
    cases = [
        ("valid", good, "OK"),
        ("valid at the floor", release(release_counter=5), "OK"),
        ("valid with large numbers", release(release_counter=2**32 - 1, version="x" * 32), "OK"),
        ("valid with ES256", release(signer=RELEASE_P256), "OK"),
        ("ES256 header on an Ed25519 signature", as_es256(good, digest_at, kid_at), "MANIFEST_SIGNATURE"),
        ("unknown algorithm", byte_at(good, kid_at - 3, 0x25), "MANIFEST_MALFORMED"),
        (
            "ES256 signature flipped",
            flip(release(signer=RELEASE_P256), signature_at + 40),
            "MANIFEST_SIGNATURE",
        ),
        ("other class", release(device_class="cortex-m7"), "OTHER_CLASS"),
        ("abi differs", release(abi=2), "ABI_MISMATCH"),
        ("below the floor", release(release_counter=4), "BELOW_FLOOR"),
        ("other component", release(component="model/1"), "UNKNOWN_COMPONENT"),
        ("signed by the director", release(signer=DIRECTOR), "KEY_REVOKED"),
        ("signed by a stranger", release(signer=STRANGER), "KEY_REVOKED"),
        ("signature flipped", flip(good, signature_at + 5), "MANIFEST_SIGNATURE"),
        ("signature with S + L", plus_l(good, signature_at), "MANIFEST_SIGNATURE"),
        ("signature zero", good[:signature_at] + bytes(64) + good[signature_at + 64 :], "MANIFEST_SIGNATURE"),
        ("key id flipped", flip(good, kid_at), "KEY_REVOKED"),
        ("digest flipped", flip(good, digest_at), "MANIFEST_MALFORMED"),
        ("image digest flipped", flip(good, good.index(hashlib.sha256(IMAGE).digest())), "MANIFEST_MALFORMED"),
        ("version changed", good[:-1] + b"3", "MANIFEST_MALFORMED"),
        ("cut short", good[:-1], "MANIFEST_MALFORMED"),
        ("empty", b"", "MANIFEST_MALFORMED"),
        ("byte behind", good + b"\x00", "MANIFEST_MALFORMED"),
        ("513 bytes", good + bytes(513 - len(good)), "MANIFEST_MALFORMED"),
        (
            "release counter in a long head",
            resigned(good, b"\x01\x01\x02\x07", b"\x01\x01\x02\x18\x07"),
            "MANIFEST_MALFORMED",
        ),
        (
            "text of another component",
            resigned(good, b"\x81\x47model/0\xa1\x06", b"\x81\x47model/1\xa1\x06"),
            "MANIFEST_MALFORMED",
        ),
        ("another command", resigned(good, b"\x15\x02\x03\x0f", b"\x16\x02\x03\x0f"), "MANIFEST_MALFORMED"),
        ("image size is text", resigned(good, b"\x0e\x19\x05\x00", b"\x0e\x62\x05\x00"), "MANIFEST_MALFORMED"),
        (
            "manifest ends early",
            seal(byte_at(draft_of(good), 1, len(draft_of(good)) - 3), RELEASE),
            "MANIFEST_MALFORMED",
        ),
        ("common part ends early", resigned(good, b"\x03\x58\x6c", b"\x03\x58\x6b"), "MANIFEST_MALFORMED"),
        ("shared part ends early", resigned(good, b"\x04\x58\x5d", b"\x04\x58\x5c"), "MANIFEST_MALFORMED"),
        ("text ends early", resigned(good, b"\x17\x53\xa1", b"\x17\x52\xa1"), "MANIFEST_MALFORMED"),
        ("no component", unchecked_release(component=""), "MANIFEST_MALFORMED"),
        ("component of 16 bytes", unchecked_release(component="m" * 16), "UNKNOWN_COMPONENT"),
        ("component of 17 bytes", unchecked_release(component="m" * 17), "MANIFEST_MALFORMED"),
        ("no version", unchecked_release(version=""), "MANIFEST_MALFORMED"),
        ("version of 33 bytes", unchecked_release(version="v" * 33), "MANIFEST_MALFORMED"),
        ("no image", unchecked_release(image_bytes=0), "MANIFEST_MALFORMED"),
        ("release counter zero", unchecked_release(release_counter=0, security_floor=0), "MANIFEST_MALFORMED"),
        ("valid as a floor", release(security_floor=7), "OK"),
        ("floor above the release counter", unchecked_release(security_floor=8), "MANIFEST_MALFORMED"),
    ]
    return [case("release", *one, manifest_digest=hashlib.sha256(one[1]).digest()) for one in cases] + [
        case("release", "not the one assigned", good, "MANIFEST_DIGEST", manifest_digest=hashlib.sha256(b"").digest())
    ]


def entry(**changes: Any) -> AssignmentEntry:
    values: dict[str, Any] = {
        "component": "model/0",
        "manifest_digest": hashlib.sha256(release()).digest(),
        "until": SlotState.SHADOW,
        "blob": hashlib.sha256(IMAGE).digest()[:16],
        "blob_bytes": len(IMAGE),
        "chunk_bytes": 1024,
        "codec": Codec.RAW,
        "shadow_min_inferences": 20,
        "confirm_min_inferences": 30,
        "confirm_timeout_s": 600,
        "start_spread_s": 5,
    }
    return AssignmentEntry(**{**values, **changes})


def ten_entries() -> tuple[AssignmentEntry, ...]:
    """As many components as there may be, one with a name as long as it may be."""
    return tuple(entry(component=name) for name in [*(f"model/{n}" for n in range(9)), "n" * 16])


def wanted(**changes: Any) -> Assignment:
    values: dict[str, Any] = {
        "device": "m4-7",
        "director_epoch": 2,
        "sequence": 41,
        "nonce": NONCES[0],
        "entries": (entry(),),
    }
    return Assignment(**{**values, **changes})


def payload_of(assignment: Assignment, **changes: Any) -> dict[int, Any]:
    decoded: dict[int, Any] = cbor2.loads(cbor2.loads(make_assignment(assignment, DIRECTOR)).value[2])
    return {**decoded, **changes}


def signed(payload: bytes) -> bytes:
    return cose.sign1(payload, DIRECTOR)


def edited_entry(**changes: Any) -> bytes:
    """A well-formed, well-signed assignment whose entry breaks a rule; keys are written key_<n>."""
    payload = payload_of(wanted())
    edits = {int(name[4:]): value for name, value in changes.items()}
    payload[5][0] = {k: v for k, v in {**payload[5][0], **edits}.items() if v is not None}
    return signed(cbor.encode(payload))


def assignment_cases() -> list[dict[str, Any]]:
    good = make_assignment(wanted(), DIRECTOR)
    delta = entry(codec=Codec.DELTA, base_digest=hashlib.sha256(b"base").digest(), latency_budget_us=9000)
    parts = cbor2.loads(good).value
    plain = cbor.encode(payload_of(wanted()))
    unsigned = cbor.encode(cbor2.CBORTag(18, [*parts[:3], b""]))
    unprotected = cbor.encode(cbor2.CBORTag(18, [parts[0], {1: -8}, *parts[2:]]))
    es256 = cbor.encode({1: -7, 4: DIRECTOR.kid})  # and signed so: the key's own algorithm would find it good
    es256_signature = DIRECTOR.sign(cbor.encode(["Signature1", es256, b"", parts[2]]))
    as_es256 = cbor.encode(cbor2.CBORTag(18, [es256, *parts[1:3], es256_signature]))
    cases = [
        ("valid", good, "OK"),
        ("valid with the older nonce", make_assignment(wanted(nonce=NONCES[1]), DIRECTOR), "OK"),
        ("valid without nonce", make_assignment(wanted(nonce=None), DIRECTOR), "OK"),
        ("valid delta", make_assignment(wanted(entries=(delta,)), DIRECTOR), "OK"),
        (
            "valid with all options",
            make_assignment(
                wanted(
                    entries=(replace(delta, until=SlotState.CONFIRMED, not_before=1_900_000_000, window=(60, 120)),)
                ),
                DIRECTOR,
            ),
            "OK",
        ),
        (
            "ten components of which it has one",
            make_assignment(wanted(entries=ten_entries()), DIRECTOR),
            "UNKNOWN_COMPONENT",
        ),
        ("valid and empty", make_assignment(wanted(entries=()), DIRECTOR), "OK"),
        ("valid with an unknown key", signed(cbor.encode(payload_of(wanted()) | {77: [1, {2: b"3"}]})), "OK"),
        ("other device", make_assignment(wanted(device="m4-8"), DIRECTOR), "ASSIGNMENT_OTHER_DEVICE"),
        ("older sequence", make_assignment(wanted(sequence=39), DIRECTOR), "ASSIGNMENT_OLD_SEQUENCE"),
        ("same sequence, other bytes", make_assignment(wanted(sequence=40), DIRECTOR), "ASSIGNMENT_OLD_SEQUENCE"),
        ("older epoch", make_assignment(wanted(director_epoch=1, sequence=900), DIRECTOR), "ASSIGNMENT_OLD_SEQUENCE"),
        ("stale nonce", make_assignment(wanted(nonce=bytes(8)), DIRECTOR), "ASSIGNMENT_STALE_NONCE"),
        ("signed by the release key", make_assignment(wanted(), RELEASE), "ASSIGNMENT_SIGNATURE"),
        ("signed by a stranger", make_assignment(wanted(), STRANGER), "ASSIGNMENT_SIGNATURE"),
        ("signature flipped", flip(good, len(good) - 64), "ASSIGNMENT_SIGNATURE"),
        ("signature with S + L", plus_l(good, len(good) - 64), "ASSIGNMENT_SIGNATURE"),
        ("payload flipped", flip(good, good.index(b"m4-7") + 3), "ASSIGNMENT_SIGNATURE"),
        ("signature stripped", unsigned, "ASSIGNMENT_MALFORMED"),
        ("unprotected header filled", unprotected, "ASSIGNMENT_MALFORMED"),
        ("valid with ES256", make_assignment(wanted(), DIRECTOR_P256), "OK"),
        ("ES256 header on an Ed25519 key", as_es256, "ASSIGNMENT_SIGNATURE"),
        ("unknown algorithm", byte_at(good, 5, 0x25), "ASSIGNMENT_MALFORMED"),
        ("cut short", good[:-1], "ASSIGNMENT_MALFORMED"),
        ("byte behind", good + b"\x00", "ASSIGNMENT_MALFORMED"),
        ("empty map", signed(b"\xa0"), "ASSIGNMENT_MALFORMED"),
        ("byte behind the payload", signed(plain + b"\x00"), "ASSIGNMENT_MALFORMED"),
        ("key twice", signed(b"\xa7\x00\x01" + plain[1:]), "ASSIGNMENT_MALFORMED"),
        ("endless array", signed(plain[: plain.index(b"\x05\x81") + 1] + b"\x9f\xff"), "ASSIGNMENT_MALFORMED"),
        ("until TESTING", edited_entry(key_2=4), "ASSIGNMENT_MALFORMED"),
        ("base without delta", edited_entry(key_13=bytes(32)), "ASSIGNMENT_MALFORMED"),
        ("unknown codec", edited_entry(key_12=9), "CODEC_UNKNOWN"),
        ("no chunk bytes", edited_entry(key_11=0), "ASSIGNMENT_MALFORMED"),
        ("blob id too long", edited_entry(key_9=bytes(17)), "ASSIGNMENT_MALFORMED"),
        ("entry without blob", edited_entry(key_9=None), "ASSIGNMENT_MALFORMED"),
    ]
    return [case("assignment", *one) for one in cases]


def root_of(number: int, signers: list[FileSigner], **changes: Any) -> Root:
    values: dict[str, Any] = {
        "number": number,
        "threshold": 2,
        "root_keys": tuple(sorted(signer.public_key for signer in signers)),
        "release_keys": tuple(sorted((RELEASE.public_key, RELEASE_P256.public_key))),
        "director_keys": tuple(sorted((DIRECTOR.public_key, DIRECTOR_P256.public_key))),
        "director_epoch": 2,
    }
    return Root(**{**values, **changes})


def unchecked_root(root: Root, signers: list[FileSigner]) -> bytes:
    return cose.sign(encode_message("root", asdict(root) | {"protocol": 1}), signers)


def root_cases() -> list[dict[str, Any]]:
    """Root 1 has keys 0, 1, 2 at threshold 2; the others claim to follow it."""
    first = root_of(1, ROOTS[:3])
    second = root_of(2, ROOTS[1:], release_keys=(STRANGER.public_key,))
    good = make_root(second, ROOTS[1:3], first)
    new_director = {"director_keys": (STRANGER.public_key,)}
    small = (bytes([1]) + bytes(31),)
    stranger = key("stranger root")
    mixed = root_of(2, [*ROOTS[:2], ROOT_P256], release_keys=(RELEASE_P256.public_key,))
    by_p256 = make_root(mixed, [*ROOTS[:2], ROOT_P256], first)
    bad_head = root_of(2, ROOTS[:3], release_keys=(b"\x04" + RELEASE_P256.public_key[1:],))
    cases = [
        ("valid root 1", make_root(first, ROOTS[:2]), "OK", 1),
        ("valid root 2 by shared keys", good, "OK", 2),
        ("valid root 2 by three keys", make_root(second, ROOTS[1:], first), "OK", 2),
        (
            "valid root 2 with a new director",
            make_root(root_of(2, ROOTS[:3], director_epoch=3, **new_director), ROOTS[:2], first),
            "OK",
            2,
        ),
        ("valid root 2 with a P-256 key", by_p256, "OK", 2),
        ("P-256 signature flipped", flip(by_p256, by_p256.index(ROOT_P256.kid) + 20), "ROOT_INVALID", 2),
        ("key of P-256 that is not compressed", unchecked_root(bad_head, ROOTS[:2]), "ROOT_INVALID", 2),
        ("root 1 with one signature", unchecked_root(first, ROOTS[:1]), "ROOT_INVALID", 1),
        ("root 2 with one signature", unchecked_root(second, ROOTS[1:2]), "ROOT_INVALID", 2),
        ("root 2 by old keys only", unchecked_root(root_of(2, [*ROOTS[2:], stranger]), ROOTS[:2]), "ROOT_INVALID", 2),
        (
            "root 2 by new keys only",
            unchecked_root(root_of(2, [*ROOTS[2:], stranger]), [ROOTS[3], stranger]),
            "ROOT_INVALID",
            2,
        ),
        ("root 2 with an extra unknown signature", unchecked_root(second, [*ROOTS[1:3], stranger]), "ROOT_INVALID", 2),
        ("root 3 skips root 2", unchecked_root(root_of(3, ROOTS[:3]), ROOTS[:2]), "ROOT_INVALID", 2),
        ("epoch falls", unchecked_root(root_of(2, ROOTS[:3], director_epoch=1), ROOTS[:2]), "ROOT_INVALID", 2),
        (
            "new director in the old epoch",
            unchecked_root(root_of(2, ROOTS[:3], **new_director), ROOTS[:2]),
            "ROOT_INVALID",
            2,
        ),
        ("threshold zero", unchecked_root(root_of(2, ROOTS[:3], threshold=0), ROOTS[:2]), "ROOT_INVALID", 2),
        ("threshold above the keys", unchecked_root(root_of(2, ROOTS[:2], threshold=3), ROOTS[:2]), "ROOT_INVALID", 2),
        (
            "small-order release key",
            unchecked_root(root_of(2, ROOTS[:3], release_keys=small), ROOTS[:2]),
            "ROOT_INVALID",
            2,
        ),
        (
            "one key in two roles",
            unchecked_root(root_of(2, ROOTS[:3], release_keys=(DIRECTOR.public_key,)), ROOTS[:2]),
            "ROOT_INVALID",
            2,
        ),
        ("signature flipped", flip(good, len(good) - 1), "ROOT_INVALID", 2),
        ("signature with S + L", plus_l(good, len(good) - 64), "ROOT_INVALID", 2),
        ("cut short", good[:-1], "ROOT_INVALID", 2),
        ("byte behind", good + b"\x00", "ROOT_INVALID", 2),
        ("one signature twice", repeated_signature(good), "ROOT_INVALID", 2),
        ("513 bytes", good + bytes(513 - len(good)), "ROOT_INVALID", 2),
    ]
    return [case("root", name, data, expect, number=number) for name, data, expect, number in cases]


def off_curve() -> bytes:
    """A compressed point whose x is no coordinate of P-256: half of all x are not."""
    for x in range(1, 100):
        point = b"\x02" + x.to_bytes(32, "big")
        try:
            check_public_key(point)
        except SignatureError:
            return point
    raise AssertionError


def repeated_signature(data: bytes) -> bytes:
    protected, unprotected, payload, signatures = cbor2.loads(data).value
    return cbor.encode(cbor2.CBORTag(98, [protected, unprotected, payload, [signatures[0], signatures[0]]]))


def ed25519_cases() -> list[dict[str, Any]]:
    """RFC 8032 section 7.1 tests 1 to 3, then forgeries a lax verifier accepts."""
    vectors = [
        ("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", ""),
        ("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb", "72"),
        ("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7", "af82"),
    ]
    cases = []
    for number, (seed, message) in enumerate(vectors, 1):
        signer = FileSigner.from_seed(bytes.fromhex(seed))
        text = bytes.fromhex(message)
        signature = signer.sign(text)
        cases.append((f"RFC 8032 test {number}", signer.public_key, text, signature, True))
        cases.append((f"test {number} with S + L", signer.public_key, text, plus_l(signature, 0), False))
        cases.append((f"test {number}, another message", signer.public_key, text + b"x", signature, False))
    identity = bytes([1]) + bytes(31)
    cases.append(("identity as key and R, S = 0", identity, b"any", identity + bytes(32), False))
    order_8 = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
    cases.append(("order 8 as key, identity as R, S = 0", order_8, b"any", identity + bytes(32), False))
    cases.append(("S all ones", cases[0][1], b"", cases[0][3][:32] + b"\xff" * 32, False))
    return vectors_of(cases)


def es256_cases() -> list[dict[str, Any]]:
    """RFC 6979 section A.2.5 with SHA-256, then numbers at the edges and another form of the key."""
    scalar = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
    signer = FileSigner.from_seed((scalar - 1).to_bytes(32, "big"), Algorithm.ES256)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    cases = []
    for message in (b"sample", b"test"):
        signature = signer.sign(message)
        r, s = signature[:32], signature[32:]
        above = (int.from_bytes(s, "big") + order) % 2**256
        cases += [
            (f"RFC 6979 {message.decode()}", signer.public_key, message, signature, True),
            (f"{message.decode()}, another message", signer.public_key, message + b"x", signature, False),
            (f"{message.decode()}, r zero", signer.public_key, message, bytes(32) + s, False),
            (f"{message.decode()}, s zero", signer.public_key, message, r + bytes(32), False),
            (f"{message.decode()}, s = n", signer.public_key, message, r + order.to_bytes(32, "big"), False),
            (f"{message.decode()}, s + n", signer.public_key, message, r + above.to_bytes(32, "big"), False),
            (f"{message.decode()}, r and s exchanged", signer.public_key, message, s + r, False),
        ]
    sign = bytes([signer.public_key[0] ^ 1])
    cases.append(("the point's mirror image", sign + signer.public_key[1:], b"sample", signer.sign(b"sample"), False))
    cases.append(("x is no point", off_curve(), b"sample", signer.sign(b"sample"), False))
    cases.append(("first byte 4", b"\x04" + signer.public_key[1:], b"sample", signer.sign(b"sample"), False))
    return vectors_of(cases)


def vectors_of(cases: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    names = ("name", "public_key", "message", "signature", "valid")
    return [
        {name: value.hex() if isinstance(value, bytes) else value for name, value in zip(names, one, strict=True)}
        for one in cases
    ]


def case(kind: str, name: str, data: bytes, expect: str, **more: Any) -> dict[str, Any]:
    extra = {field: value.hex() if isinstance(value, bytes) else value for field, value in more.items()}
    return {"kind": kind, "name": name, "expect": expect, "bytes": data.hex(), **extra}


def messages() -> dict[str, Any]:
    """Everything in messages.json: the device that reads, then the cases."""
    device = {
        **DEVICE,
        "class_id": class_id("cortex-m4").hex(),
        "nonces": [nonce.hex() for nonce in NONCES],
        "release_keys": [RELEASE.public_key.hex(), RELEASE_P256.public_key.hex()],
        "director_keys": [DIRECTOR.public_key.hex(), DIRECTOR_P256.public_key.hex()],
    }
    return {
        "device": device,
        "signatures": [*ed25519_cases(), *es256_cases()],
        "cases": [*release_cases(), *assignment_cases(), *root_cases()],
    }


def text() -> str:
    return json.dumps(messages(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
