"""Message codec: names in, names out; hostile payloads end in ProtocolError."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet_ota import cbor, protocol
from tinyfleet_ota.errors import ProtocolError
from tinyfleet_ota.protocol import EventKind, Reason, SlotState
from tinyfleet_ota.protocol_codec import (
    decode_event,
    decode_message,
    decode_state,
    decode_telemetry,
    encode_event,
    encode_message,
    encode_state,
    encode_telemetry,
    histogram_counts,
    latency_bucket,
    latency_bucket_low_us,
)
from tinyfleet_ota.wire_types import UINT_MAX, Array, Bool, Bytes, Enum, Fixed, Message, Nullable, Text

SLOT = {
    "state": SlotState.CONFIRMED,
    "image": bytes(16),
    "reason": Reason.NONE,
    "written_bytes": 10,
    "image_bytes": 10,
    "attempts": 0,
    "release_counter": 3,
}
STATE = {
    "protocol": 1,
    "device_class": "cortex-m4",
    "agent": "0.1.0",
    "abi": 1,
    "boot": 2,
    "director_epoch": 1,
    "sequence": 9,
    "nonce": bytes(8),
    "root": 1,
    "report_interval_s": 60,
    "sleep_max_s": 0,
    "components": [{"component": "model/0", "active": 0, "fallback": None, "floor": 0, "slots": [SLOT, SLOT]}],
    "last_reason": Reason.NONE,
    "waiting": [bytes(16), 3],
    "fresh": True,
}
COUNTERS = {
    "image": bytes(16),
    "role": SlotState.CONFIRMED,
    "inferences": 5,
    "latency_histogram": [4, 2, 9, 3],
    "confidence_histogram": [9, 5],
    "predictions": [0, 5],
    "labelled": 4,
    "correct": 3,
    "faults": 0,
    "active_s": 60,
    "shadow_inferences": 0,
    "shadow_agree": 0,
    "shadow_pairs": [0, 0, 0, 0],
    "shadow_latency_histogram": [],
    "arena_high_water_bytes": 100,
    "energy_uj": 0,
    "activations": 1,
}
TELEMETRY = {"protocol": 1, "boot": 2, "report": 3, "uptime_s": 60, "images": [COUNTERS]}


def strategy_of(wire_type):
    if isinstance(wire_type, Nullable):
        return st.none() | strategy_of(wire_type.item)
    if isinstance(wire_type, Array):
        return st.lists(strategy_of(wire_type.item), min_size=wire_type.low, max_size=3)
    if isinstance(wire_type, Fixed):
        return st.tuples(*map(strategy_of, wire_type.items)).map(list)
    if isinstance(wire_type, Message):
        return message_strategy(wire_type.name)
    if isinstance(wire_type, Enum):
        return st.sampled_from(wire_type.members)
    if isinstance(wire_type, Bytes):
        return st.binary(min_size=wire_type.size, max_size=wire_type.size)
    if isinstance(wire_type, Text):
        return st.text("abc/é", max_size=wire_type.high // 2, min_size=wire_type.low)
    return st.booleans() if isinstance(wire_type, Bool) else st.integers(0, UINT_MAX)


def message_strategy(name):
    fields = protocol.MESSAGES[name]
    required = {field.name: strategy_of(field.type) for field in fields if not field.optional}
    optional = {field.name: strategy_of(field.type) for field in fields if field.optional}
    return st.fixed_dictionaries(required, optional=optional)


@given(st.data())
def test_every_message_round_trips(data):
    name = data.draw(st.sampled_from(sorted(protocol.MESSAGES)))
    message = data.draw(message_strategy(name))
    payload = encode_message(name, message)
    assert decode_message(name, payload, size_max=1 << 20) == message
    assert cbor2.dumps(cbor2.loads(payload), canonical=True) == payload


def test_state_telemetry_event_round_trip():
    assert decode_state(encode_state(STATE)) == STATE
    assert decode_telemetry(encode_telemetry(TELEMETRY)) == TELEMETRY
    event = {
        "protocol": 1,
        "boot": 1,
        "number": 4,
        "kind": EventKind.SLOT,
        "from": SlotState.STAGED,
        "to": SlotState.SHADOW,
    }
    assert decode_event(encode_event(event)) == event
    assert isinstance(decode_state(encode_state(STATE))["components"][0]["slots"][0]["state"], SlotState)


def test_unknown_keys_are_skipped_when_reading_only():
    wire = cbor2.loads(encode_state(STATE)) | {99: {"new": [1]}}
    assert decode_state(cbor.encode(wire)) == STATE
    with pytest.raises(ProtocolError, match="colour"):
        encode_state(STATE | {"colour": 1})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("boot", -1),
        ("boot", 2**53),
        ("boot", True),
        ("boot", "1"),
        ("nonce", bytes(7)),
        ("last_reason", 15),
        ("last_reason", True),
        ("fresh", 1),
        ("device_class", "x" * 65),
        ("components", {}),
        ("components", [{}]),
        ("waiting", [bytes(16)]),
    ],
)
def test_wrong_types_are_refused_both_ways(field, value):
    with pytest.raises(ProtocolError):
        encode_state(STATE | {field: value})
    key = next(one.key for one in protocol.MESSAGES["state"] if one.name == field)
    wire = cbor2.loads(encode_state(STATE)) | {key: value}
    with pytest.raises(ProtocolError):
        decode_state(cbor.encode(wire))


def test_missing_field_and_other_version_are_refused():
    with pytest.raises(ProtocolError, match="nonce"):
        encode_state({name: value for name, value in STATE.items() if name != "nonce"})
    with pytest.raises(ProtocolError, match="version"):
        decode_state(encode_state(STATE | {"protocol": 2}))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xa0\x00",
        b"\xa2\x00\x01\x00\x01",
        b"\xa2\x01\x01\x00\x01",
        b"\xbf\xff",
        b"\x9f\xff",
        b"\x18\x01",
        b"\x19\x00\xff",
        b"\x1b\x00\x00\x00\x00\xff\xff\xff\xff",
        b"\xf9\x00\x00",
        b"\xf7",
        b"\xe0",
        b"\xf8\x20",
        b"\xc0\x61a",
        b"\x61\xff",
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x81" * 9 + b"\x00",
        b"\x1c",
    ],
)
def test_non_deterministic_cbor_is_refused(payload):
    with pytest.raises(ProtocolError):
        cbor.decode(payload, size_max=64)


def test_oversize_is_refused():
    with pytest.raises(ProtocolError, match="8192"):
        decode_state(b"\x59\x20\x00" + bytes(8192))


@given(st.binary(max_size=200))
def test_random_payloads_are_refused_cleanly(data):
    for decode in (decode_state, decode_telemetry, decode_event):
        with pytest.raises(ProtocolError):
            decode(data)


@given(st.data())
def test_changed_telemetry_decodes_or_is_refused(data):
    payload = bytearray(encode_telemetry(TELEMETRY))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_telemetry(bytes(payload))
    except ProtocolError:
        return
    assert set(TELEMETRY) <= set(decoded)


@pytest.mark.parametrize("pairs", [[1], [1, 2, 1, 3], [2, 1, 1, 1]])
def test_histograms_must_ascend(pairs):
    with pytest.raises(ProtocolError):
        histogram_counts(pairs)
    with pytest.raises(ProtocolError):
        decode_telemetry(encode_telemetry(TELEMETRY | {"images": [COUNTERS | {"predictions": pairs}]}))


def test_latency_buckets_are_quarter_octaves():
    assert [latency_bucket(us) for us in (0, 1, 2, 3, 4, 5, 6, 7, 8, 1000)] == [0, 0, 4, 6, 8, 9, 10, 11, 12, 39]
    for us in (4, 5, 17, 1000, 123456):
        assert latency_bucket_low_us(latency_bucket(us)) <= us < latency_bucket_low_us(latency_bucket(us) + 1)


@pytest.mark.parametrize("number", [0, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**64 - 1])
def test_heads_and_byte_strings_are_those_of_the_encoder(number: int) -> None:
    assert cbor.head(cbor.UINT, number) == cbor.encode(number)
    assert cbor.byte_string(bytes(number % 70_000)) == cbor.encode(bytes(number % 70_000))
