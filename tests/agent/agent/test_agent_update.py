"""The way of an update on a device: install, delta, shadow, test, confirm, undo, and what is reported."""

from agent.agent.rig import Device, holds, installed, release
from tinyfleet_ota.protocol import EventKind, Reason, SlotState

V1, V2, V3 = release(0, 1), release(1, 2), release(2, 3)


def test_first_image_is_installed_tested_and_confirmed() -> None:
    device, _ = installed(V1)
    assert device.flash_bytes(device.info.active, len(V1.image)) == V1.image
    states = [(event["from"], event["to"]) for event in device.events(EventKind.SLOT)]
    assert states == [(0, 1), (1, 2), (2, 4), (4, 5)]
    assert device.violations == 0
