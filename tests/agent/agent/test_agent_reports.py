"""The agent in the memory of a microcontroller: default knobs, and a build with every feature left out that can be."""

from itertools import pairwise

from agent.agent.rig import Device, holds, installed, release
from tinyfleet_ota.protocol import EventKind, Reason, SlotState
from tinyfleet_ota.protocol_codec import decode_telemetry

RELEASES = [release(seed, seed + 1) for seed in range(6)]
V1, V2, V3, V4 = RELEASES[:4]
LEAST = (
    *("FLEET_WITH_ENCRYPTION=0", "FLEET_WITH_SHADOW=0", "FLEET_WITH_LABELS=0", "FLEET_WITH_COMMANDS=0"),
    *("FLEET_MESSAGE_BYTES=400", "FLEET_COUNTER_IMAGES=6", "FLEET_CLASSES_MAX=2", "FLEET_LATENCY_BUCKETS=4"),
)
"""Every feature that can be left out is, and a report holds some of the six images of a test."""


def reports(device: Device) -> list[set[bytes]]:
    """Ids of the images in each report, oldest first."""
    decoded = [decode_telemetry(payload) for payload in device.broker.of("/telemetry")]
    return [{counters["image"] for counters in report["images"]} for report in decoded]


def test_shadow_delta_labels_and_both_images_fit_the_defaults() -> None:
    device, service = installed(V1)
    service.assign(V2, SlotState.SHADOW, base=V1)
    assert device.run_until(lambda d: any(d.slot(s).state == SlotState.SHADOW for s in (0, 1)))
    for _ in range(20):
        status, top, number = device.infer()
        assert (status, device.label(number, top)) == (0, 0)
    service.assign(V2, base=V1)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    device.run(61_000)
    assert set(device.telemetry()) == {V1.id, V2.id}
    assert device.telemetry()[V2.id]["shadow_pairs"][0] == 20
    assert device.state()["components"][0]["slots"][device.info.active]["state"] == SlotState.CONFIRMED


def test_images_that_do_not_fit_one_report_come_in_the_next() -> None:
    device, service = installed(V1, Device(knobs=LEAST))
    for base, item in pairwise(RELEASES):
        service.assign(item, base=base)
        assert device.run_until(lambda d, item=item: holds(d, item), infer=True)
    seen = len(reports(device))
    device.run(4 * 60_000)
    later = reports(device)[seen:]
    assert all(0 < len(images) < 6 for images in later)
    assert all(first | second == {item.id for item in RELEASES} for first, second in pairwise(later))
    assert len(later) == 4


def test_what_a_build_lacks_is_refused_with_its_reason_and_the_rest_works() -> None:
    device, service = installed(V1, Device(knobs=LEAST))
    service.assign(V2, base=V1, content_key=bytes(96))
    assert device.run_until(lambda d: d.events(EventKind.ASSIGNMENT_REFUSED))
    assert device.state()["last_reason"] == Reason.CONTENT_KEY
    service.assign(V2, SlotState.SHADOW, base=V1)
    other = device.info.active ^ 1
    assert device.run_until(lambda d: d.slot(other).state == SlotState.REJECTED)
    assert device.slot(other).reason == Reason.SHADOW_NO_RAM
    _, top, number = device.infer()
    assert device.label(number, top) == -104
    service.assign(V3, base=V1, confirm_timeout_s=5)
    assert device.run_until(lambda d: d.slot(other).state == SlotState.TESTING)
    assert device.run_until(lambda d: holds(d, V1))
    assert device.slot(other).reason == Reason.CONFIRM_TIMEOUT
    service.assign(V4, base=V1)
    assert device.run_until(lambda d: holds(d, V4), infer=True)


def test_a_report_interval_that_32_bits_of_milliseconds_cannot_hold_is_refused() -> None:
    assert [Device(report_interval_s=seconds).boot() for seconds in (0, 1, 2_000_000, 2_000_001)] == [-1, 0, 0, -1]
