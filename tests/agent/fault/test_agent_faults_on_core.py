"""A candidate in SHADOW that hangs, or writes where nothing is, on an emulated Cortex-M4.

The board's watchdog or a fault handler resets the core. The device of the host takes the candidate to SHADOW; its flash
goes on in the emulator, where the whole agent runs. What a product would see of it is what the console says: an answer
for every input, and the end of the candidate.
"""

import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from agent import cbuild
from agent.agent.rig import SLOT_BYTES, Device, installed, release
from agent.runtime import small_model
from tinyfleet_ota.protocol import Reason, SlotState

HERE = Path(__file__).parent
QEMU_PORT = cbuild.DEVICE_AGENT / "ports" / "qemu"
GROUPS = ("FLOAT32", "INT16", "INT4", "RECURRENT", "FRONT_END")
OTHERS = ("int16", "int4", "svdf", "lstm", "gru", "features", "real_fft", "kernel_table")
"""Files of the runtime that this firmware does without."""
KNOBS = ("FLEET_JOURNAL_BYTES=1024", "FLEET_WITH_FIRMWARE=1", *(f"FLEET_WITH_{group}=0" for group in GROUPS))
"""What decides about the flash is as in agent/rig.py."""
FLAGS = ("-std=c99", "-Os", "-mcpu=cortex-m4", "-mthumb", "-ffunction-sections", "-fdata-sections", *cbuild.WARNINGS)
MACHINE = ("-M", "mps2-an386", "-display", "none", "-monitor", "none", "-serial", "none", "-icount", "shift=0")
V1, V2 = release(0, 1), release(1, 2)
ATTEMPTS_MAX, ROOT_BYTES, INPUTS, INPUT_ROOM = 3, 512, 64, 256
X = np.random.default_rng(7).integers(-128, 128, (10, int(np.prod(small_model.INPUT)))).astype(np.int8)
KINDS = {"watchdog": 1, "fault": 2}


def run(*command: object, folder: Path) -> subprocess.CompletedProcess[str]:
    text = [str(part) for part in command]
    return subprocess.run(text, cwd=folder, capture_output=True, text=True, check=False, env=cbuild.clean_env())


@pytest.fixture(scope="module")
def firmware(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fault")
    runtime = [path for path in cbuild.RUNTIME.glob("*.c") if not any(word in path.stem for word in OTHERS)]
    sources = [*sorted(runtime), *sorted((cbuild.DEVICE_AGENT / "src").glob("*.c")), *sorted(HERE.glob("*.c"))]
    include = [
        f"-I{folder}" for folder in (cbuild.INCLUDE, cbuild.RUNTIME, cbuild.DEVICE_AGENT / "src", QEMU_PORT, HERE)
    ]
    linking = [
        "-nostartfiles",
        "--specs=nano.specs",
        "-Wl,--gc-sections",
        f"-L{QEMU_PORT}",
        f"-T{QEMU_PORT / 'mps2_an386.ld'}",
    ]
    knobs = [f"-D{knob}" for knob in KNOBS]
    compiler = ["arm-none-eabi-gcc", *FLAGS, *knobs, *include]
    built = run(*compiler, *sources, QEMU_PORT / "semihosting.c", *linking, "-lm", "-o", "fault.elf", folder=folder)
    assert built.returncode == 0, built.stderr
    return folder / "fault.elf"


@pytest.fixture(scope="module")
def shadowing() -> Device:
    device, service = installed(V1)
    service.assign(V2, SlotState.SHADOW, base=V1)
    other = device.info.active ^ 1
    assert device.run_until(lambda d: d.slot(other).state == SlotState.SHADOW)
    return device


def write_case(device: Device, kind: int, folder: Path) -> None:
    """The device's flash, and what happens to it."""
    start = device.lib.rig_slot_offset(device.rig, device.info.active ^ 1)
    flash = device.save()[0]
    sizes = (len(flash), device.erase_bytes, device.unit_bytes, SLOT_BYTES, len(device.root), len(X), X.shape[1])
    inputs = b"".join(x.tobytes().ljust(INPUT_ROOM, b"\0") for x in X).ljust(INPUTS * INPUT_ROOM, b"\0")
    head = struct.pack("<9I", kind, start, *sizes)
    (folder / "case.bin").write_bytes(head + device.root.ljust(ROOT_BYTES, b"\0") + inputs)
    (folder / "flash.bin").write_bytes(flash)


@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_that_stops_the_core_is_rejected_and_every_input_answered(
    kind: str, firmware: Path, shadowing: Device, tmp_path: Path
) -> None:
    write_case(shadowing, KINDS[kind], tmp_path)
    twin, _ = installed(V1)
    said = run(
        "qemu-system-arm",
        *MACHINE,
        "-semihosting-config",
        "enable=on,target=native",
        "-kernel",
        firmware,
        folder=tmp_path,
    )
    lines = (said.stdout + said.stderr).split("\n")
    answers = [f"answer {number} {twin.infer(x)[1]}" for number, x in enumerate(X)]
    stops = [line for answer in answers[:ATTEMPTS_MAX] for line in ("boot", answer, kind)]
    active = shadowing.info.active
    verdict = {
        active: f"{SlotState.CONFIRMED:d} {Reason.NONE:d}",
        active ^ 1: f"{SlotState.REJECTED:d} {Reason.ATTEMPTS_EXHAUSTED:d}",
    }
    assert [*stops, "boot", *answers[ATTEMPTS_MAX:], f"slots {verdict[0]} {verdict[1]}", ""] == lines
    assert said.returncode == 0
