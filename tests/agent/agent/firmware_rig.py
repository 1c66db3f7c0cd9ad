"""A device whose firmware is a component too: images by imgtool, MCUboot's part by rig_mcuboot.c at every reset."""

import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from agent.agent.rig import (
    CHUNK_BYTES,
    DEVICE_CLASS,
    NO_SLOT,
    RELEASE_KEY,
    Device,
    Release,
    Service,
    Slot,
    sha256,
)
from tinyfleet_ota import AssignmentEntry, make_delta, make_release, topics
from tinyfleet_ota.protocol import Codec, Reason, SlotState

FIRMWARE = 1
"""Index of the component: behind the one model of this build."""
SLOT_BYTES = 8192
AREA_BYTES = 24_576
SECONDARY, PRIMARY = AREA_BYTES, AREA_BYTES + SLOT_BYTES
SWAPS = {1: "none", 2: "test", 4: "revert", 5: "fail"}


@cache
def signing_key() -> Path:
    """A key of imgtool's own making, for this run."""
    path = Path(_folder().name) / "key.pem"
    imgtool("keygen", "-k", str(path), "-t", "ecdsa-p256")
    return path


@cache
def _folder() -> "TemporaryDirectory[str]":
    return TemporaryDirectory(prefix="fleet-firmware-")


def imgtool(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "imgtool.main", *arguments], check=True, capture_output=True)


@cache
def firmware_image(seed: int, align: int = 8, slot_bytes: int = SLOT_BYTES) -> bytes:
    """A firmware of 2 KB as `imgtool sign` makes it; another seed differs in some words, as a rebuilt one would."""
    words = np.random.default_rng(1).integers(0, 2**32, 512, np.uint32)
    words[:: 37 + seed] += np.uint32(seed)
    folder = Path(_folder().name)
    plain, signed = folder / f"{seed}.bin", folder / f"{seed}-{align}.signed"
    plain.write_bytes(words.tobytes())
    options = ["--header-size", "32", "--pad-header", "--align", str(min(align, 8)), "--max-align", str(align)]
    options += [
        "--slot-size",
        str(slot_bytes),
        "--max-sectors",
        "4",
        "--version",
        f"1.{seed}.0",
        "-k",
        str(signing_key()),
    ]
    imgtool("sign", *options, str(plain), str(signed))
    imgtool("verify", "-k", str(signing_key()), str(signed))
    return signed.read_bytes()


def firmware_release(seed: int, counter: int, *, align: int = 8, floor: int = 0, data: bytes | None = None) -> Release:
    data = firmware_image(seed, align) if data is None else data
    envelope = make_release(
        data,
        device_class=DEVICE_CLASS,
        abi=1,
        release_counter=counter,
        security_floor=floor,
        component="firmware",
        version=f"fw{counter}",
        signer=RELEASE_KEY,
    )
    return Release(data, envelope)


@dataclass
class FirmwareDevice(Device):
    """`boot` is a reset: MCUboot first, then the agent."""

    flash_bytes_total: int = AREA_BYTES + 2 * SLOT_BYTES
    unit_bytes: int = 8
    self_test: int = 0
    swapped: str = ""

    def new_rig(self) -> Any:
        rig = super().new_rig()
        self.swapped = SWAPS[self.lib.rig_mcuboot(self.flash, PRIMARY, SECONDARY, SLOT_BYTES)]
        self.lib.rig_firmware(rig, PRIMARY, SECONDARY, SLOT_BYTES)
        self.lib.rig_self_test(rig, self.self_test)
        return rig

    @property
    def reset_asked(self) -> bool:
        return int(self.lib.rig_resets(self.rig)) > 0

    def settle(self, ms: int = 20_000) -> None:
        """Runs, and resets whenever the agent asks for it."""
        end = self.now_ms + ms
        while self.now_ms < end and not self.dead:
            self.step()
            if self.reset_asked:
                assert self.boot() == 0

    def program(self, image: bytes) -> None:
        """What a programmer puts into the primary slot at the factory: no trailer."""
        data, units = self._memory()
        data[PRIMARY : PRIMARY + len(image)] = image
        first = PRIMARY // self.unit_bytes
        units[first : first + -(-len(image) // self.unit_bytes)] = b"\x01" * -(-len(image) // self.unit_bytes)

    def primary(self, size: int) -> bytes:
        return bytes(self._memory()[0][PRIMARY : PRIMARY + size])

    def damage_model(self, offset: int) -> None:
        """Another byte at `offset` of the model that answers."""
        start = self.lib.rig_slot_offset(self.rig, self.info.answering)
        self._memory()[0][start + offset] = b"\x7f"

    @property
    def firmware(self) -> Any:
        info = self.ffi.new("fleet_agent_info_t *")
        self.lib.rig_component_info(self.rig, FIRMWARE, info)
        return info

    def firmware_slot(self, index: int) -> Slot:
        info = self.firmware  # a slot does not keep it
        slot = info.slots[index]
        return Slot(SlotState(slot.state), Reason(slot.reason), slot.attempts, bytes(slot.image), slot.release_counter)

    def runs(self, item: Release) -> bool:
        """The release is CONFIRMED and is what lies in the primary slot."""
        info = self.firmware
        return (
            info.active != NO_SLOT
            and self.firmware_slot(info.active).state == SlotState.CONFIRMED
            and self.firmware_slot(info.active).image == item.id
            and self.primary(len(item.image)) == item.image
        )


def entry(
    service: Service,
    item: Release,
    until: SlotState = SlotState.CONFIRMED,
    base: Release | None = None,
    **terms: Any,
) -> AssignmentEntry:
    """The entry `firmware` of an assignment, its blob and manifest published."""
    blob = item.image if base is None else make_delta(base.image, item.image, spacing=512)
    service.put_blob(blob)
    service.broker.retained[topics.manifest(sha256(item.envelope)[:16])] = item.envelope
    codec = Codec.RAW if base is None else Codec.DELTA
    blob_id = sha256(blob)[:16]
    base_digest = base.digest if base else None
    return AssignmentEntry(
        "firmware",
        sha256(item.envelope),
        until,
        blob_id,
        len(blob),
        CHUNK_BYTES,
        codec,
        base_digest=base_digest,
        **terms,
    )


def factory(seed: int = 0, **settings: Any) -> tuple[FirmwareDevice, Service]:
    """A device as it leaves the factory: a firmware in its primary slot, no model."""
    device = FirmwareDevice(**settings)
    device.program(firmware_image(seed, max(8, device.unit_bytes)))
    assert device.boot() == 0
    return device, Service(device.broker)
