"""Scenarios of an update, and the sweep of powercut_rig.c over each: every flash operation is cut in every way.

Add a scenario: a function that brings a device to the start, publishes what is to happen, and says where it ends.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from agent.agent.firmware_rig import PRIMARY, SECONDARY, factory, firmware_release
from agent.agent.firmware_rig import SLOT_BYTES as FIRMWARE_SLOT_BYTES
from agent.agent.firmware_rig import entry as firmware_entry
from agent.agent.rig import (
    OTHER_KEY,
    ROOT_KEYS,
    SLOT_BYTES,
    Device,
    Release,
    Service,
    holds,
    image,
    release,
    root_one,
)
from agent.runtime import small_model
from agent.runtime.images import golden_input
from tinyfleet_ota import make_root, topics
from tinyfleet_ota.protocol import SlotState

V1, V2 = release(0, 1), release(1, 2)
BAD = release(9, 5, data=image(9, golden_ok=False))
NONE = bytes(16)
X = golden_input(5, int(np.prod(small_model.INPUT))).tobytes()


@dataclass(frozen=True)
class Outcome:
    """What one sweep counted."""

    operations: int
    cuts: int
    second: int
    boots: int
    dropped: int
    lost: int
    why: str


@dataclass
class Scenario:
    """A flash to start from, what the broker retains, which images may answer, and where the update ends."""

    device: Device
    service: Service
    valid: tuple[Release | None, ...]
    goal: Release
    keep: Release | None = None
    rejected: Release | None = None
    root: int = 1
    firmware: bool = False

    def sweep(self, *, first: int = 0, stride: int = 1, seconds: int = 0, seed: int = 1) -> Outcome:
        """Cut at every `stride`-th operation, and `seconds` times in each recovery. Raises when no end is reached."""
        ffi, lib = self.device.ffi, self.device.lib
        world = ffi.gc(lib.powercut_world_new(self.device.flash), lib.powercut_world_free)
        keep = [ffi.new("uint8_t[]", data) for data in (self.device.root, X, self.goal.image)]
        lib.powercut_start(world, keep[0], len(self.device.root), SLOT_BYTES, keep[1], len(X))
        for item in self.valid:
            lib.powercut_allow(world, item.id if item else NONE)
        lib.powercut_goal(world, self.goal.id, keep[2], len(self.goal.image), self.root)
        if self.firmware:
            lib.powercut_firmware(world, PRIMARY, SECONDARY, FIRMWARE_SLOT_BYTES)
        ids = [item.id if item else NONE for item in (self.rejected, self.keep)]
        lib.powercut_otherwise(world, *ids)
        for topic, payload in self.device.broker.retained.items():
            keep += [ffi.new("char[]", topic.encode()), ffi.new("uint8_t[]", payload)]
            lib.powercut_retain(world, keep[-2], keep[-1], len(payload))
        result = ffi.new("powercut_result_t *")
        if not lib.powercut_sweep(world, first, stride, seconds, seed, result):
            raise AssertionError(f"the undisturbed run fails: {ffi.string(result.why).decode()}")
        place = f"operation {result.lost_operation}, variant {result.lost_variant}"
        if result.lost_second != 0xFFFFFFFF:
            place += f", then {result.lost_second}, variant {result.lost_second_variant}"
        why = f"{ffi.string(result.why).decode()} ({place})" if result.lost else ""
        counts = (result.operations, result.cuts, result.second, result.boots, result.dropped, result.lost)
        return Outcome(*counts, why)


@dataclass(frozen=True)
class Part:
    """A kind of flash: profile and sizes."""

    profile: str = "nor"
    unit_bytes: int = 64
    erase_bytes: int = 512
    fast: bool = False

    def device(self) -> Device:
        return Device(unit_bytes=self.unit_bytes, erase_bytes=self.erase_bytes, profile=self.profile, fast=self.fast)


def _start(part: Part) -> tuple[Device, Service]:
    device = part.device()
    assert device.boot() == 0
    return device, Service(device.broker)


def _install(device: Device, service: Service, item: Release, base: Release | None = None) -> None:
    service.assign(item, base=base)
    assert device.run_until(lambda d: holds(d, item), infer=True)


def _shadow(device: Device, service: Service, item: Release, base: Release) -> None:
    service.assign(item, SlotState.SHADOW, base)
    shadows = SlotState.SHADOW
    assert device.run_until(lambda d: any(d.slot(s).state == shadows for s in (0, 1)), infer=True)


def first_install(part: Part) -> Scenario:
    device = part.device()
    service = Service(device.broker)
    service.assign(V1)
    return Scenario(device, service, (None, V1), V1)


def install_full(part: Part) -> Scenario:
    device, service = _start(part)
    _install(device, service, V1)
    service.assign(V2)
    return Scenario(device, service, (V1, V2), V2, keep=V1)


def install_packed(part: Part) -> Scenario:
    device, service = _start(part)
    _install(device, service, V1)
    service.send(service.entry(V2, packed=True))
    return Scenario(device, service, (V1, V2), V2, keep=V1)


def install_delta(part: Part) -> Scenario:
    device, service = _start(part)
    _install(device, service, V1)
    service.assign(V2, base=V1)
    return Scenario(device, service, (V1, V2), V2, keep=V1)


def shadow(part: Part) -> Scenario:
    """V2 comes by delta and shadows; the run ends there."""
    device, service = _start(part)
    _install(device, service, V1)
    _shadow(device, service, V2, V1)
    service.assign(V1)
    return Scenario(device, service, (V1,), V1, rejected=V2)


def confirm(part: Part) -> Scenario:
    """V2 shadows; a new sequence lets it go on to TESTING and CONFIRMED."""
    device, service = _start(part)
    _install(device, service, V1)
    _shadow(device, service, V2, V1)
    service.assign(V2, base=V1, confirm_min_inferences=3)
    return Scenario(device, service, (V1, V2), V2, keep=V1)


def revert(part: Part) -> Scenario:
    """V2 answers too slowly in TESTING and is reverted."""
    device, service = _start(part)
    _install(device, service, V1)
    service.assign(V2, base=V1, latency_budget_us=50, confirm_min_inferences=10)
    return Scenario(device, service, (V1, V2), V1, rejected=V2)


def golden_fails(part: Part) -> Scenario:
    device, service = _start(part)
    _install(device, service, V1)
    service.assign(BAD)
    return Scenario(device, service, (V1,), V1, rejected=BAD)


def undo(part: Part) -> Scenario:
    device, service = _start(part)
    _install(device, service, V1)
    _install(device, service, V2, V1)
    service.assign(V1)
    return Scenario(device, service, (V1, V2), V1, keep=V2)


def redo(part: Part) -> Scenario:
    """After an undo the same image again: it is whole in its slot and only read back."""
    device, service = _start(part)
    _install(device, service, V1)
    _install(device, service, V2, V1)
    _install(device, service, V1)
    service.assign(V2, base=V1)
    return Scenario(device, service, (V1, V2), V2, keep=V1)


def root_walk(part: Part) -> Scenario:
    """Five roots are walked one by one, then the new director key assigns V2."""
    device, service = _start(part)
    _install(device, service, V1)
    previous = root_one()
    for number in range(2, 7):
        root = replace(previous, number=number, director_epoch=2, director_keys=(OTHER_KEY.public_key,))
        device.broker.retained[topics.root(number)] = make_root(root, ROOT_KEYS[:1], previous)
        previous = root
    service.signer, service.epoch, service.sequence = OTHER_KEY, 2, 0
    service.assign(V2, base=V1)
    return Scenario(device, service, (V1, V2), V2, keep=V1, root=6)


def firmware_staging(part: Part) -> Scenario:
    """A firmware is staged for MCUboot, swapped in, tested and confirmed; MCUboot has its turn at every reset."""
    unit = min(part.unit_bytes, 32)  # MCUboot writes no larger ones
    align = max(8, unit)
    device, service = factory(profile=part.profile, fast=part.fast, unit_bytes=unit, erase_bytes=part.erase_bytes)
    old, new = firmware_release(1, 1, align=align), firmware_release(2, 2, align=align)
    service.send(firmware_entry(service, old))
    device.settle()
    assert device.runs(old)
    service.send(firmware_entry(service, new))
    return Scenario(device, service, (old, new), new, keep=old, firmware=True)


def full_journal(part: Part) -> Scenario:
    """So many boots before that the journal moves over in the run."""
    scenario = install_delta(part)
    for _ in range(9):
        assert scenario.device.boot() == 0
    return scenario


SCENARIOS: tuple[Callable[[Part], Scenario], ...] = (
    first_install,
    install_full,
    install_packed,
    install_delta,
    shadow,
    confirm,
    revert,
    golden_fails,
    undo,
    redo,
    root_walk,
    firmware_staging,
    full_journal,
)
