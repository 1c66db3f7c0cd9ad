"""Release, assignment and root: golden and attacked messages, and an independent reading of the envelope."""

import errno
import hashlib
import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet_ota import cose
from tinyfleet_ota.assignment import make_assignment, parse_assignment
from tinyfleet_ota.describe import describe_message
from tinyfleet_ota.errors import KeyFileError, OtaError, ProtocolError, ReleaseError, RootError, SignatureError
from tinyfleet_ota.keys import key_id, verify
from tinyfleet_ota.protocol import Codec, Reason, SlotState
from tinyfleet_ota.release import make_release, manifest_id, parse_release
from tinyfleet_ota.roots import Root, make_root, parse_root
from tinyfleet_ota.signers import FileSigner
from tinyfleet_ota.suit_profile import ENVELOPE_BYTES_MAX, VENDOR_ID, class_id

GOLDEN = Path(__file__).parents[2] / "golden" / "ota"
MESSAGES = json.loads((GOLDEN / "messages.json").read_text())
DEVICE = MESSAGES["device"]
RELEASE_KEYS = [bytes.fromhex(key) for key in DEVICE["release_keys"]]
DIRECTOR_KEYS = [bytes.fromhex(key) for key in DEVICE["director_keys"]]
SIGNER = FileSigner.from_seed(bytes(range(32)))
# Reasons that need the device's own state: the message itself is well-formed and well-signed.
NEEDS_DEVICE = {"OTHER_CLASS", "ABI_MISMATCH", "BELOW_FLOOR", "UNKNOWN_COMPONENT", "MANIFEST_DIGEST"} | {
    "ASSIGNMENT_OTHER_DEVICE",
    "ASSIGNMENT_OLD_SEQUENCE",
    "ASSIGNMENT_STALE_NONCE",
}


def cases(kind):
    return [pytest.param(case, id=case["name"]) for case in MESSAGES["cases"] if case["kind"] == kind]


def golden_generator():
    spec = importlib.util.spec_from_file_location("ota_golden_generate", GOLDEN / "regenerate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_regenerating_golden_messages_changes_nothing():
    assert golden_generator().text() == (GOLDEN / "messages.json").read_text()
    assert {case["expect"] for case in MESSAGES["cases"]} <= {"OK"} | set(Reason.__members__)


@pytest.mark.parametrize("case", cases("release"))
def test_golden_release(case):
    data = bytes.fromhex(case["bytes"])
    if case["expect"] == "OK" or case["expect"] in NEEDS_DEVICE:
        release = parse_release(data, RELEASE_KEYS)
        wrong = {
            "OTHER_CLASS": release.class_id.hex() != DEVICE["class_id"],
            "ABI_MISMATCH": release.abi != DEVICE["abi"],
            "BELOW_FLOOR": release.release_counter < DEVICE["floor"],
            "UNKNOWN_COMPONENT": release.component != "model/0",
            "MANIFEST_DIGEST": hashlib.sha256(data).hexdigest() != case["manifest_digest"],
        }
        assert [reason for reason, holds in wrong.items() if holds] == [case["expect"]] * (case["expect"] != "OK")
    else:
        expected = SignatureError if case["expect"] in ("MANIFEST_SIGNATURE", "KEY_REVOKED") else ReleaseError
        with pytest.raises(expected):
            parse_release(data, RELEASE_KEYS)


@pytest.mark.parametrize("case", cases("assignment"))
def test_golden_assignment(case):
    data = bytes.fromhex(case["bytes"])
    if case["expect"] == "OK" or case["expect"] in NEEDS_DEVICE:
        assignment = parse_assignment(data, DIRECTOR_KEYS)
        order = (assignment.director_epoch, assignment.sequence)
        wrong = {
            "ASSIGNMENT_OTHER_DEVICE": assignment.device != DEVICE["device"],
            "ASSIGNMENT_OLD_SEQUENCE": order <= (DEVICE["director_epoch"], DEVICE["sequence"]),
            "UNKNOWN_COMPONENT": {entry.component for entry in assignment.entries} > {"model/0"},
            "ASSIGNMENT_STALE_NONCE": assignment.nonce is not None and assignment.nonce.hex() not in DEVICE["nonces"],
        }
        assert [reason for reason, holds in wrong.items() if holds] == [case["expect"]] * (case["expect"] != "OK")
    else:
        expected = SignatureError if case["expect"] == "ASSIGNMENT_SIGNATURE" else ProtocolError
        with pytest.raises(expected):
            parse_assignment(data, DIRECTOR_KEYS)


def first_root():
    return parse_root(next(bytes.fromhex(one["bytes"]) for one in MESSAGES["cases"] if one["name"] == "valid root 1"))


@pytest.mark.parametrize("case", cases("root"))
def test_golden_root(case):
    previous = None if case["number"] == 1 else first_root()
    data = bytes.fromhex(case["bytes"])
    if case["expect"] == "OK":
        assert parse_root(data, previous).number == case["number"]
        assert len(data) <= 512
    else:
        with pytest.raises(OtaError):
            parse_root(data, previous)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in MESSAGES["signatures"]])
def test_golden_signature(case):
    public_key, message, signature = (bytes.fromhex(case[name]) for name in ("public_key", "message", "signature"))
    if case["valid"]:
        verify(public_key, message, signature)
    else:
        with pytest.raises(SignatureError):
            verify(public_key, message, signature)


def test_envelope_is_suit_read_by_independent_code():
    image = b"weights" * 100
    envelope = make_release(
        image,
        device_class="cortex-m4",
        abi=3,
        release_counter=70000,
        security_floor=12,
        component="model/0",
        version="v2",
        signer=SIGNER,
    )
    item = cbor2.loads(envelope)
    assert item.tag == 107
    assert cbor2.dumps(item, canonical=True) == envelope
    digest_bytes, sign1_bytes = cbor2.loads(item.value[2])
    algorithm, digest = cbor2.loads(digest_bytes)
    assert algorithm == -16
    assert digest == hashlib.sha256(cbor2.dumps(item.value[3])).digest()
    sign1 = cbor2.loads(sign1_bytes)
    protected, unprotected, payload, signature = sign1.value
    assert (sign1.tag, dict(unprotected), payload) == (18, {}, None)
    assert dict(cbor2.loads(protected)) == {1: -8, 4: hashlib.sha256(SIGNER.public_key).digest()[:8]}
    signed = cbor2.dumps(["Signature1", protected, b"", digest_bytes])
    Ed25519PublicKey.from_public_bytes(SIGNER.public_key).verify(signature, signed)

    manifest = cbor2.loads(item.value[3])
    assert (manifest[1], manifest[2]) == (1, 70000)
    common = cbor2.loads(manifest[3])
    assert [list(part) for part in common[2]] == [[b"model/0"]]
    override, parameters, *rest = cbor2.loads(common[4])
    assert (override, rest) == (20, [1, 15, 2, 15])
    image_digest = cbor2.loads(parameters.pop(3))
    assert list(image_digest) == [-16, hashlib.sha256(image).digest()]
    assert parameters == {1: VENDOR_ID, 2: class_id("cortex-m4"), 14: len(image), -256: 3, -257: 12}
    assert cbor2.loads(manifest[7]) == [3, 15]
    assert cbor2.loads(manifest[20]) == [20, {21: "fleet:assignment"}, 21, 2, 3, 15]
    (language, component_text), *none = cbor2.loads(manifest[23]).items()
    assert (language, none) == ("en", [])
    assert {tuple(k): dict(v) for k, v in component_text.items()} == {(b"model/0",): {6: "v2"}}
    assert set(manifest) == {1, 2, 3, 7, 20, 23}
    assert manifest_id(envelope) == hashlib.sha256(envelope).digest()[:16]


@given(
    counter=st.integers(1, 2**32 - 1),
    abi=st.integers(0, 2**32 - 1),
    size=st.integers(1, 3000),
    component=st.text("model/0123456789", min_size=1, max_size=16),
    version=st.text(min_size=1, max_size=8),
    data=st.data(),
)
def test_release_round_trip(counter, abi, size, component, version, data):
    floor = data.draw(st.integers(0, counter))
    fields = {
        "abi": abi,
        "release_counter": counter,
        "security_floor": floor,
        "component": component,
        "version": version,
    }
    envelope = make_release(bytes(size), device_class="x", signer=SIGNER, **fields)
    release = parse_release(envelope, [SIGNER.public_key])
    assert {name: getattr(release, name) for name in fields} == fields
    assert (release.image_bytes, release.class_id) == (size, class_id("x"))
    assert len(envelope) <= ENVELOPE_BYTES_MAX
    position = data.draw(st.integers(0, len(envelope) - 1))
    changed = (
        envelope[:position] + bytes([envelope[position] ^ data.draw(st.integers(1, 255))]) + envelope[position + 1 :]
    )
    with pytest.raises(OtaError):
        parse_release(changed, [SIGNER.public_key])


@pytest.mark.parametrize(
    "change",
    [
        {"component": ""},
        {"component": "m" * 17},
        {"version": "v" * 33},
        {"abi": -1},
        {"abi": 2**32},
        {"release_counter": 0},
        {"release_counter": 2**32},
        {"security_floor": 8},
        {"image": b""},
    ],
)
def test_release_that_no_device_would_take_is_not_signed(change):
    good = {"abi": 1, "release_counter": 7, "security_floor": 3, "component": "model/0", "version": "v2"}
    values = {"device_class": "cortex-m4", "signer": SIGNER, "image": b"i", **good, **change}
    with pytest.raises(ReleaseError):
        make_release(values.pop("image"), **values)


@given(st.binary(max_size=600))
def test_random_bytes_are_refused_cleanly(data):
    for parse in (
        lambda: parse_release(data, RELEASE_KEYS),
        lambda: parse_assignment(data, DIRECTOR_KEYS),
        lambda: parse_root(data),
    ):
        with pytest.raises(OtaError):
            parse()


@given(st.data())
def test_changed_assignments_and_roots_are_refused(data):
    good = [one for one in MESSAGES["cases"] if one["expect"] == "OK" and one["kind"] in ("assignment", "root")]
    case = data.draw(st.sampled_from(good))
    message = bytes.fromhex(case["bytes"])
    position = data.draw(st.integers(0, len(message) - 1))
    changed = message[:position] + bytes([message[position] ^ data.draw(st.integers(1, 255))]) + message[position + 1 :]
    previous = first_root() if case.get("number") == 2 else None
    with pytest.raises(OtaError):
        parse_assignment(changed, DIRECTOR_KEYS) if case["kind"] == "assignment" else parse_root(changed, previous)


def test_make_assignment_refuses_what_devices_refuse():
    good = parse_assignment(
        bytes.fromhex(next(c["bytes"] for c in MESSAGES["cases"] if c["name"] == "valid delta")), DIRECTOR_KEYS
    )
    assert parse_assignment(make_assignment(good, SIGNER), [SIGNER.public_key]) == good
    entry = good.entries[0]
    for changed in (
        replace(good, device="M4"),
        replace(good, entries=(entry, entry)),
        replace(good, entries=(replace(entry, codec=Codec.RAW),)),
        replace(good, entries=(replace(entry, chunk_bytes=1),)),
        replace(good, entries=(replace(entry, confirm_timeout_s=2**32),)),
        replace(good, entries=(replace(entry, window=(1440, 1)),)),
        replace(good, entries=(replace(entry, component="m" * 17),)),
        replace(good, entries=(replace(entry, window=(0, 0)),)),
        replace(good, entries=(replace(entry, window=(0, 1441)),)),
        replace(good, entries=(replace(entry, blob_bytes=0),)),
        replace(good, entries=(replace(entry, until=SlotState.TESTING),)),
        replace(good, entries=(replace(entry, content_key=bytes(95)),)),
        replace(good, entries=(replace(entry, brought_by=0),)),
        replace(good, entries=tuple(replace(entry, component=f"model/{n}") for n in "0123456789a")),
        replace(good, sequence=-1),
        replace(good, director_epoch=-1),
        replace(good, director_epoch=2**53),
        replace(good, nonce=b"short"),
        replace(good, nonce="8 digits"),
    ):
        with pytest.raises(ProtocolError):
            make_assignment(changed, SIGNER)


def test_every_option_of_an_entry_is_read_as_it_was_made():
    good = parse_assignment(
        bytes.fromhex(next(c["bytes"] for c in MESSAGES["cases"] if c["name"] == "valid delta")), DIRECTOR_KEYS
    )
    options = {"window": (60, 120), "not_before": 1, "content_key": bytes(96), "brought_by": 7}
    full = replace(good, entries=(replace(good.entries[0], **options),))
    assert parse_assignment(make_assignment(full, SIGNER), [SIGNER.public_key]) == full
    too_many = tuple(replace(full.entries[0], component=f"model/{n}") for n in range(10))
    with pytest.raises(ProtocolError, match="at most 2048 bytes"):
        make_assignment(replace(full, entries=too_many), SIGNER)


def test_what_no_assignment_may_say_is_refused_although_signed():
    good = next(bytes.fromhex(c["bytes"]) for c in MESSAGES["cases"] if c["name"] == "valid delta")
    fields = cbor2.loads(cbor2.loads(good).value[2])
    entry = fields[5][0]
    for changed in ({0: 2}, {1: "M4"}, {5: [entry, entry]}, {5: [entry | {10: 0}]}, {5: [entry | {5: 2**32}]}):
        with pytest.raises(ProtocolError):
            parse_assignment(cose.sign1(cbor2.dumps(fields | changed, canonical=True), SIGNER), [SIGNER.public_key])


def test_largest_assignment_fits():
    good = parse_assignment(
        bytes.fromhex(next(c["bytes"] for c in MESSAGES["cases"] if c["name"] == "valid delta")), DIRECTOR_KEYS
    )
    entries = tuple(replace(good.entries[0], component=f"model/{n}") for n in range(10))
    assert len(make_assignment(replace(good, device="d" * 64, entries=entries), SIGNER)) <= 2048


def test_root_without_enough_signatures_is_not_made():
    signers = [FileSigner.from_seed(bytes([n]) * 32) for n in range(5)]
    keys = tuple(sorted(signer.public_key for signer in signers[:3]))
    root = Root(1, 2, keys, (signers[3].public_key,), (signers[4].public_key,), 1)
    assert parse_root(make_root(root, signers[:2])) == root
    with pytest.raises(SignatureError):
        make_root(root, signers[:1])
    with pytest.raises(SignatureError):
        make_root(root, [signers[0], signers[3]])
    with pytest.raises(RootError):
        make_root(replace(root, root_keys=keys[::-1]), signers[:2])
    too_many = tuple(sorted(FileSigner.from_seed(bytes([n]) * 32).public_key for n in range(10, 14)))
    with pytest.raises(RootError, match="release_keys"):
        make_root(replace(root, release_keys=too_many), signers[:2])


@pytest.mark.parametrize("kind", ["release", "assignment", "root"])
def test_describe_names_fields_without_keys(kind):
    data = bytes.fromhex(next(c["bytes"] for c in MESSAGES["cases"] if c["kind"] == kind and c["expect"] == "OK"))
    document = json.loads(json.dumps(describe_message(data)))
    assert document["type"] == kind
    expected = {"release": ("version", "v2"), "assignment": ("device", "m4-7"), "root": ("threshold", 2)}[kind]
    assert document[expected[0]] == expected[1]
    with pytest.raises(ProtocolError, match=f"no {kind}, "):
        describe_message(data[:-1])


def test_sign1_payload_and_wrong_key():
    data = cose.sign1(b"payload", SIGNER)
    assert cose.open_sign1(data, [SIGNER.public_key], size_max=200) == b"payload"
    with pytest.raises(SignatureError, match=key_id(SIGNER.public_key).hex()):
        cose.open_sign1(data, DIRECTOR_KEYS, size_max=200)


def test_key_file_round_trip_and_refusals(tmp_path):
    path = tmp_path / "release.pem"
    SIGNER.save(path, b"correct horse")
    assert b"ENCRYPTED" in path.read_bytes()
    assert os.stat(path).st_mode & 0o077 == 0
    assert FileSigner.load(path, b"correct horse").public_key == SIGNER.public_key
    with pytest.raises(KeyFileError, match="passphrase"):
        FileSigner.load(path, b"wrong")
    with pytest.raises(KeyFileError):
        SIGNER.save(path, b"correct horse")
    with pytest.raises(KeyFileError):
        SIGNER.save(tmp_path / "other.pem", b"")
    with pytest.raises(KeyFileError):
        FileSigner.load(tmp_path / "absent.pem", b"x")
    path.write_bytes(b"-----BEGIN nothing")
    with pytest.raises(KeyFileError):
        FileSigner.load(path, b"correct horse")


def test_a_key_file_that_cannot_be_written_whole_is_not_there(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(KeyFileError, match="No space left"):
            SIGNER.save(tmp_path / "release.key", b"correct horse")
    assert not list(tmp_path.iterdir())
    SIGNER.save(tmp_path / "release.key", b"correct horse")


def test_what_a_save_cut_by_the_power_left_is_in_nobodys_way(tmp_path):
    (tmp_path / "release.key.new").write_bytes(b"half a k")
    SIGNER.save(tmp_path / "release.key", b"correct horse")
    assert [path.name for path in tmp_path.iterdir()] == ["release.key"]


@pytest.mark.parametrize("other", [ec.generate_private_key(ec.SECP384R1()), X25519PrivateKey.generate()])
def test_keys_that_sign_nothing_here_are_refused(tmp_path, other):
    path = tmp_path / "other.key"
    how = (Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"correct horse"))
    path.write_bytes(other.private_bytes(*how))
    with pytest.raises(KeyFileError, match="no Ed25519 or P-256 key"):
        FileSigner.load(path, b"correct horse")
