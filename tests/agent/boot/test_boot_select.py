"""fleet_boot_select on an emulated Cortex-M4: no libc, no initialised RAM, the agent's own choice in every state.

The cases are flashes as the agent left them: along a life that meets every state and reason, with power cut in the
middle of it, on NOR and ECC flash, and damaged afterwards.
"""

import shutil
import struct
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from agent import cbuild
from agent.agent.rig import CUTS, NO_SLOT, SLOT_BYTES, Device
from agent.agent.test_agent_slot_model import LIFE, Pair, releases

HERE = Path(__file__).parent
AGENT = cbuild.DEVICE_AGENT
SOURCES = (
    *(AGENT / "src" / f"{name}.c" for name in ("boot_select", "slot_rules", "journal", "flash_area")),
    AGENT / "runtime" / "crc32.c",
    AGENT / "ports" / "boot" / "memory.c",
    HERE / "boot_main.c",
)
FLAGS = ("-std=c99", "-Os", "-mcpu=cortex-m4", "-mthumb", "-ffreestanding", "-ffunction-sections", "-fdata-sections")
LINK = ("-nostdlib", "-nodefaultlibs", "-nostartfiles", "-Wl,--gc-sections", "-T", str(HERE / "boot.ld"))
CASES_ADDRESS = 0x21000000
SEMIHOSTING = ("-semihosting-config", "enable=on,target=native")
MISSING = [tool for tool in ("arm-none-eabi-gcc", "qemu-system-arm") if shutil.which(tool) is None]
STEADY = [name for name in CUTS if name != "metastable"]  # what reads differently each time has no one answer


@dataclass(frozen=True)
class Case:
    """A flash before a boot, and the slot that the agent and, where the state is known, the reference model choose."""

    flash: tuple[bytes, bytes]
    device: Device
    agent: int
    model: int | None

    def packed(self) -> bytes:
        data, units = self.flash
        sizes = (len(data), self.device.erase_bytes, self.device.unit_bytes, SLOT_BYTES)
        body = data + units
        return struct.pack("<4I", *sizes) + body + bytes(-len(body) % 16)


def case(device: Device, model: int | None) -> Case:
    """The flash as it is, and what a boot makes of it; the flash is as before afterwards."""
    saved = device.save()
    assert device.boot() == 0
    answer = int(device.info.answering)
    device.restore(saved)
    return Case(saved, device, answer, model)


def along_a_life(profile: str) -> list[Case]:
    """One case for every step, and two with power cut in the boot after it."""
    pair, cases = Pair(releases(), profile), []
    for number, step in enumerate(LIFE):
        pair.take(step)
        choice = pair.model.boot_choice
        cases.append(case(pair.device, NO_SLOT if choice is None else choice))
        cases += [
            _cut(pair.device, 1 + (number + shift) % 4, STEADY[(number + shift) % len(STEADY)]) for shift in (0, 5)
        ]
        assert pair.device.boot() == 0
        pair.model.reboot()
        pair.device.run(2500)
    return cases


def _cut(device: Device, operation: int, variant: str) -> Case:
    """Power fails in the boot; what that leaves is one more case."""
    saved = device.save()
    device.boot((operation, variant))
    cut = case(device, None)
    device.restore(saved)
    return cut


def damaged(profile: str) -> list[Case]:
    """Both slots hold an image: a byte of either, of both, and of the whole journal is lost."""
    pair = Pair(releases(), profile)
    for step in LIFE[:8]:
        pair.take(step)
    device, whole, cases = pair.device, pair.device.save(), []
    slots = [device.lib.rig_slot_offset(device.rig, slot) for slot in (0, 1)]
    for places in ((slots[0] + 100,), (slots[1] + 100,), (slots[0] + 8, slots[1] + 8), tuple(range(slots[0]))):
        data = bytearray(whole[0])
        for place in places:
            data[place] ^= 0x55
        device.restore((bytes(data), whole[1]))
        cases.append(case(device, None))
    return cases


@cache
def firmware(folder: str) -> Path:
    target = Path(folder) / "boot.elf"
    command = ["arm-none-eabi-gcc", *FLAGS, *cbuild.WARNINGS, "-DFLEET_JOURNAL_BYTES=1024", "-DFLEET_WITH_FIRMWARE=1"]
    command += [f"-I{cbuild.INCLUDE}", f"-I{AGENT / 'src'}", *map(str, SOURCES), *LINK, "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, env=cbuild.clean_env(), check=False)
    assert done.returncode == 0, done.stderr
    return target


def select(cases: list[Case], folder: Path) -> list[tuple[int, ...]]:
    """(status, slot, reason, image bytes) of each case, from the emulated core."""
    elf = firmware(str(folder))
    blob = struct.pack("<4I", len(cases), 0, 0, 0) + b"".join(item.packed() for item in cases)
    (folder / "cases.bin").write_bytes(blob)
    command = ["qemu-system-arm", "-M", "mps2-an386", "-display", "none", "-monitor", "none", "-serial", "none"]
    command += [*SEMIHOSTING, "-kernel", str(elf), "-device"]
    command += [f"loader,file=cases.bin,addr={CASES_ADDRESS:#x},force-raw=on"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=cbuild.clean_env(), check=False)
    lines = (done.stdout + done.stderr).split("\n")
    assert done.returncode == 0, lines[-5:]
    return [tuple(int(word, 16) for word in line.split()) for line in lines if line]


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")
def test_a_bootloader_without_libc_and_ram_chooses_as_the_agent(tmp_path: Path) -> None:
    cases = [item for profile in ("nor", "ecc") for item in (*along_a_life(profile), *damaged(profile))]
    answers = select(cases, tmp_path)
    assert len(answers) == len(cases) > 100
    for number, (item, answer) in enumerate(zip(cases, answers, strict=True)):
        assert answer[:2] == (0, item.agent), number
        assert item.model in (None, item.agent), number
    assert {answer[1] for answer in answers} == {0, 1, NO_SLOT}


def test_where_nothing_is_whole_nothing_boots() -> None:
    pair = Pair(releases())
    for step in LIFE[:3]:
        pair.take(step)
    assert pair.device.boot_choice() == (0, pair.device.info.answering)
    data, units = pair.device.save()
    pair.device.restore((bytes(len(data)), units))
    assert pair.device.boot_choice() == (0, NO_SLOT)
