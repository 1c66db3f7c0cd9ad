"""The lock-step reader of whole batches agrees with the strict reader, whatever comes; MQTT is cut as it arrives."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfleet_ota.protocol import SlotState
from tinyfleet_ota.protocol_codec import encode_telemetry
from tinyfleet_service.ingest.connection import _cut
from tinyfleet_service.mqtt.packets import packet as make_packet
from tinyfleet_service.telemetry.counters import MAX_COUNT
from tinyfleet_service.telemetry.decode import Report, _strict, _Walk, decode_batch
from tinyfleet_service.telemetry.entries import unpack_counters
from unit.service.fleet_telemetry_builders import image_counters, telemetry

counts = st.one_of(st.integers(0, 30), st.integers(0, 1 << 20), st.integers(0, MAX_COUNT - 1))
histograms = st.dictionaries(st.integers(0, 255), counts, max_size=12).map(
    lambda found: [value for bucket in sorted(found) for value in (bucket, found[bucket])]
)


@st.composite
def images(draw: st.DrawFn) -> dict[str, object]:
    scalars = ("inferences", "labelled", "correct", "faults", "active_s", "energy_uj", "activations")
    values = {name: draw(counts) for name in (*scalars, "arena_high_water_bytes", "shadow_agree", "shadow_inferences")}
    tables = ("latency_histogram", "confidence_histogram", "predictions", "shadow_latency_histogram")
    values |= {name: draw(histograms) for name in tables}
    values |= {"shadow_pairs": draw(st.lists(counts, min_size=4, max_size=4)), "role": draw(st.sampled_from(SlotState))}
    return image_counters(draw(st.binary(min_size=16, max_size=16)), **values)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    message = {"protocol": 1, "boot": draw(st.integers(0, (1 << 31) - 1)), "report": draw(counts), "uptime_s": 5}
    message["images"] = draw(st.lists(images(), min_size=1, max_size=3, unique_by=lambda image: image["image"]))
    message |= draw(st.dictionaries(st.sampled_from(["stack_high_water_bytes", "resets"]), counts))
    return encode_telemetry(message)


def meaning(report: Report | str) -> object:
    if isinstance(report, str):
        return report
    return report[:3], unpack_counters(report.images, report.entries)


@settings(max_examples=40)
@given(st.lists(messages(), min_size=1, max_size=5))
def test_messages_of_agents_take_the_quick_way_and_mean_the_same(payloads: list[bytes]) -> None:
    quick = _Walk(payloads).reports()
    assert None not in quick
    assert [meaning(report) for report in quick if report] == [meaning(_strict(payload)) for payload in payloads]


@settings(max_examples=40)
@given(st.lists(messages(), min_size=2, max_size=4), st.data())
def test_damage_is_judged_as_the_strict_reader_does_and_harms_no_neighbour(
    payloads: list[bytes], data: st.DataObject
) -> None:
    """Bytes changed, inserted, cut: what the quick way still takes, the strict reader takes alike."""
    victim = data.draw(st.integers(0, len(payloads) - 1))
    damaged = bytearray(payloads[victim])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    payloads[victim] = bytes(damaged[:cut] if data.draw(st.booleans()) else damaged)
    assert list(map(meaning, decode_batch(payloads))) == [meaning(_strict(payload)) for payload in payloads]


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6))
def test_noise_is_refused_with_a_reason(payloads: list[bytes]) -> None:
    for payload, report in zip(payloads, decode_batch(payloads), strict=True):
        assert meaning(report) == meaning(_strict(payload))


def test_a_key_of_a_newer_agent_is_skipped() -> None:
    known = telemetry(image_counters(inferences=3))
    newer = cbor2.dumps(cbor2.loads(known) | {40: 1}, canonical=True)
    assert list(map(meaning, decode_batch([newer, known]))) == [meaning(_strict(known))] * 2


@pytest.mark.parametrize("size", [0, 100, 127, 128, 16_383, 16_384])
def test_packets_are_cut_at_their_lengths_whatever_the_pieces(size: int) -> None:
    payload = bytes(size)
    packet = (
        make_packet(0x32, b"\x00\x03a/b\x00\x07" + payload) + b"\xd0\x00" + make_packet(0x30, b"\x00\x01c" + payload)
    )
    expected = [(b"a/b", payload, 7), (b"c", payload, 0)]
    assert _cut(packet) == (expected, len(packet))
    for at in (1, 2, 3, 8, len(packet) // 2, len(packet) - 1):
        first, used = _cut(packet[:at])
        rest, _ = _cut(packet[used:])
        assert first + rest == expected


@pytest.mark.parametrize("junk", [b"\x20\x00", b"\x32\xff\xff\xff\xff\xff\x01"])
def test_what_is_not_mqtt_is_an_error(junk: bytes) -> None:
    with pytest.raises(ValueError, match=r"unexpected packet|more than four"):
        _cut(junk)
