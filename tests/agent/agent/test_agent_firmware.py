"""The component `firmware`: staged for MCUboot, swapped in, kept only after self-test and broker, else swapped back."""

import pytest

from agent.agent.firmware_rig import (
    FIRMWARE,
    PRIMARY,
    SECONDARY,
    SLOT_BYTES,
    FirmwareDevice,
    entry,
    factory,
    firmware_image,
    firmware_release,
)
from agent.agent.rig import CUTS, DEVICE, NO_SLOT, Device, Service, holds, release
from tinyfleet_ota import topics
from tinyfleet_ota.protocol import EventKind, Reason, SlotState

FW1, FW2 = firmware_release(1, 1), firmware_release(2, 2)
V1 = release(0, 1)
PENDING = 1
TRAILER_BYTES = 48
ABI_AT = 16
"""Of an image's header: its ABI, which the runtime compares before anything else."""


def trailer(device: FirmwareDevice, slot: int) -> tuple[bytes, int, int]:
    """(magic, image_ok, copy_done) as MCUboot's docs/design.md lays them out for writes of 8 bytes."""
    end = bytes(device.save()[0][slot : slot + SLOT_BYTES])[-TRAILER_BYTES:]
    return end[-16:], end[-24], end[-32]


def updated(**settings: int) -> tuple[FirmwareDevice, Service]:
    """A device that confirmed FW1."""
    device, service = factory(**settings)
    service.send(entry(service, FW1))
    device.settle()
    assert device.runs(FW1)
    return device, service


def test_an_update_is_staged_swapped_tested_and_confirmed() -> None:
    device, service = factory()
    service.send(entry(service, FW1))
    assert device.run_until(lambda d: d.reset_asked)
    slot = device.firmware_slot(0)
    assert (slot.state, slot.image) == (SlotState.STAGED, FW1.id)
    assert trailer(device, SECONDARY) == (bytes.fromhex("77c295f360d2ef7f3552500f2cb67980"), 0xFF, 0xFF)
    assert device.boot() == 0
    assert device.swapped == "test"
    assert device.firmware_slot(0).state == SlotState.TESTING
    assert trailer(device, PRIMARY)[1:] == (0xFF, 1)
    assert device.run_until(lambda d: d.runs(FW1))
    assert trailer(device, PRIMARY)[1:] == (1, 1)
    assert device.boot() == 0
    assert (device.swapped, device.runs(FW1), device.violations) == ("none", True, 0)
    device.run(3000)
    names = [component["component"] for component in device.state()["components"]]
    assert names == ["model/0", "firmware"]


def test_image_ok_waits_for_the_broker() -> None:
    device, service = factory()
    service.send(entry(service, FW1))
    assert device.run_until(lambda d: d.reset_asked)
    device.broker.refusing = True
    assert device.boot() == 0
    device.run(30_000)
    assert (device.firmware_slot(0).state, trailer(device, PRIMARY)[1]) == (SlotState.TESTING, 0xFF)
    device.broker.refusing = False
    assert device.run_until(lambda d: d.runs(FW1), ms=120_000)


def test_image_ok_waits_for_the_self_test() -> None:
    device, service = factory()
    service.send(entry(service, FW1))
    assert device.run_until(lambda d: d.reset_asked)
    device.self_test = PENDING
    assert device.boot() == 0
    device.run(10_000)
    assert (device.firmware_slot(0).state, trailer(device, PRIMARY)[1]) == (SlotState.TESTING, 0xFF)
    device.lib.rig_self_test(device.rig, 0)
    assert device.run_until(lambda d: d.runs(FW1))


def test_an_image_ok_in_doubt_is_erased_before_it_is_written_again() -> None:
    """Power fails while image_ok is programmed and leaves it reading now as blank, now as set."""
    device, service = factory()
    service.send(entry(service, FW1))
    assert device.run_until(lambda d: d.reset_asked)
    device.broker.refusing = True
    assert device.boot() == 0
    device.run(1000)
    device.lib.rig_flash_cut(device.flash, device.operations + 1, CUTS["metastable"])
    device.broker.refusing = False
    assert not device.run_until(lambda d: d.runs(FW1), ms=120_000)
    torn, seen = device.save(), set()
    for _ in range(24):  # each time the unit may read otherwise to MCUboot and to the agent
        device.restore(torn)
        assert device.boot() == 0
        seen.add((device.swapped, device.firmware_slot(0).state))
        device.settle()
        assert device.runs(FW1) or device.swapped == "revert"
        assert device.violations == 0
    assert seen >= {("none", SlotState.TESTING), ("none", SlotState.CONFIRMED), ("revert", SlotState.REJECTED)}


@pytest.mark.parametrize("why", ["self-test", "timeout", "reset"])
def test_a_firmware_that_fails_is_swapped_back(why: str) -> None:
    device, service = updated()
    service.send(entry(service, FW2, confirm_timeout_s=20))
    assert device.run_until(lambda d: d.reset_asked)
    device.self_test = -1 if why == "self-test" else PENDING
    assert device.boot() == 0
    assert (device.swapped, device.primary(len(FW2.image)) == FW2.image) == ("test", True)
    if why != "reset":
        assert device.run_until(lambda d: d.reset_asked, ms=60_000)
    device.self_test = 0
    assert device.boot() == 0
    assert (device.swapped, device.runs(FW1)) == ("revert", True)
    reasons = {
        "self-test": Reason.SELF_TEST_FAILED,
        "timeout": Reason.CONFIRM_TIMEOUT,
        "reset": Reason.FIRMWARE_REVERTED,
    }
    rejected = device.firmware_slot(1 - device.firmware.active)
    assert (rejected.state, rejected.reason, rejected.image) == (SlotState.REJECTED, reasons[why], FW2.id)
    device.settle()
    assert device.runs(FW1)
    told = device.state()["components"][FIRMWARE]["slots"][1 - device.firmware.active]
    assert (told["state"], told["reason"]) == (SlotState.REJECTED, reasons[why])
    assert device.violations == 0


def test_a_delta_from_the_firmware_that_runs() -> None:
    device, service = updated()
    service.send(entry(service, FW2, base=FW1))
    device.settle()
    assert device.runs(FW2)


def test_going_back_needs_no_download() -> None:
    device, service = updated()
    service.send(entry(service, FW2))
    device.settle()
    assert device.runs(FW2)
    asked = len(device.broker.asked)
    service.send(entry(service, FW1))
    device.settle()
    assert device.runs(FW1)
    chunks = [topic for topic in device.broker.asked[asked:] if "/b/" in topic]
    assert chunks == []


def test_until_shadow_stages_and_waits() -> None:
    device, service = factory()
    service.send(entry(service, FW1, SlotState.SHADOW))
    device.settle()
    assert (device.firmware_slot(0).state, trailer(device, SECONDARY)[0]) == (SlotState.STAGED, b"\xff" * 16)
    service.send(entry(service, FW1))
    device.settle()
    assert device.runs(FW1)


def test_an_image_that_mcuboot_refuses_ends_rejected() -> None:
    data = bytearray(firmware_image(1))
    data[100] ^= 1
    broken = firmware_release(1, 3, data=bytes(data))
    device, service = factory()
    service.send(entry(service, broken))
    device.settle(60_000)
    assert device.firmware_slot(0).reason == Reason.ATTEMPTS_EXHAUSTED
    assert device.primary(64) == firmware_image(0)[:64]


def test_what_is_no_mcuboot_image_is_refused() -> None:
    device, service = factory()
    service.send(entry(service, firmware_release(1, 3, data=b"\x01" * 600)))
    device.settle()
    assert device.firmware_slot(0).reason == Reason.IMAGE_INVALID
    assert not device.reset_asked


def test_model_and_firmware_in_one_assignment() -> None:
    device, service = factory()
    service.send(entry(service, FW1), service.entry(V1))
    device.settle(40_000)
    assert device.runs(FW1)
    assert device.run_until(lambda d: holds(d, V1), infer=True)


def test_mix_and_match_is_refused() -> None:
    """A manifest of one component under the name of the other; nothing moves."""
    device, service = factory()
    model_as_firmware = entry(service, V1)
    firmware_as_model = service.entry(FW1)
    for wrong in (model_as_firmware, firmware_as_model):
        service.send(wrong)
        device.settle()
        assert device.state()["last_reason"] == Reason.UNKNOWN_COMPONENT
    assert [device.firmware_slot(index).state for index in (0, 1)] == [SlotState.EMPTY] * 2
    assert device.answering is None


def test_a_device_without_the_component_refuses_the_whole_assignment() -> None:
    device = Device()
    service = Service(device.broker)
    assert device.boot() == 0
    service.send(entry(service, FW1), service.entry(V1))
    device.run(5000)
    assert device.state()["last_reason"] == Reason.UNKNOWN_COMPONENT
    assert device.answering is None


def test_a_revert_of_the_firmware_leaves_a_device_that_says_why_it_has_no_model() -> None:
    """The model came for the new firmware's ABI; MCUboot went back, the old firmware's runtime cannot run it."""
    device, service = updated()
    service.assign(V1)
    assert device.run_until(lambda d: holds(d, V1), infer=True)
    device.damage_model(ABI_AT)
    del device.broker.retained[
        topics.desired(DEVICE)
    ]  # its image would be refused: ABI_MISMATCH, as another test has it
    assert device.boot() == 0
    device.run(3000)
    assert device.info.answering == NO_SLOT
    assert device.runs(FW1)
    assert device.infer()[0] != 0
    state = device.state()
    assert state["last_reason"] == Reason.ABI_MISMATCH
    model = state["components"][0]
    assert (model["component"], model["active"]) == ("model/0", None)
    assert model["slots"][device.info.active]["state"] == SlotState.CONFIRMED
    assert Reason.ABI_MISMATCH in [event["reason"] for event in device.events(EventKind.BOOT)]


@pytest.mark.parametrize("unit", [4, 16, 32])
def test_other_program_units(unit: int) -> None:
    device, service = factory(unit_bytes=unit)
    item = firmware_release(1, 1, align=max(8, unit))
    service.send(entry(service, item))
    device.settle()
    assert (device.runs(item), device.violations) == (True, 0)
