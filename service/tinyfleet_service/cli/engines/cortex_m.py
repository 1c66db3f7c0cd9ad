"""The C runtime on emulated Cortex-M machines under QEMU: one virtual nanosecond an instruction."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.image import Image
from tinyfleet_service.cli.engines import programs
from tinyfleet_service.cli.engines.result import RunResult
from tinyfleet_service.cli.engines.tensors import split_outputs
from tinyfleet_service.errors import InvalidInputError

SOURCES = "ports/qemu"
TOOLS = {
    "cmake": "cmake",
    "make": "make",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}
_MACHINE = ("-display", "none", "-monitor", "none", "-serial", "none", "-icount", "shift=0")
_SEMIHOSTING = ("-semihosting-config", "enable=on,target=native")


@dataclass(frozen=True)
class Target:
    """One emulated core and the kernels its firmware is built with."""

    name: str
    machine: str
    """QEMU's name; `ports/qemu/<machine with _>.ld` is its memory."""
    kernels: str = "dsp"
    options: tuple[str, ...] = ()
    """More arguments for QEMU."""
    optimise: str = "-O2"
    operators: tuple[str, ...] = ()
    """Names of the operators to link; none: all."""
    build_options: tuple[str, ...] = ()
    """More arguments for CMake, such as where a vendor's kernels lie."""


_IMAGE_ADDRESS = 0x40000
"""Where `ports/qemu/microbit.ld` expects the image."""
TARGETS = (
    Target(
        "cortex-m0plus",
        "microbit",
        "portable",
        (
            *("-global", "nrf51-soc.flash-size=1048576", "-global", "nrf51-soc.sram-size=262144"),
            *("-device", f"loader,file=image.tfm,addr={_IMAGE_ADDRESS:#x},force-raw=on"),
        ),
    ),
    Target("cortex-m4", "mps2-an386"),
    Target("cortex-m7", "mps2-an500"),
    Target("cortex-m33", "mps2-an505"),
    Target("cortex-m55", "mps3-an547", "mve"),
)


def engine(target: Target) -> Callable[..., RunResult]:
    """`run` on `target`."""
    return partial(run, target=target)


def run(image: Image, inputs: npt.NDArray[Any], *, reset_state: bool = False, target: Target = TARGETS[1]) -> RunResult:
    """Run `inputs`, (N, bytes of all inputs) int8 in device order; counts the first inference."""
    programs.require_tools(TOOLS, f"engine {target.name}")
    firmware = build_firmware(target)
    with tempfile.TemporaryDirectory(prefix="fleet-cortex-") as name:
        folder = Path(name)
        (folder / "image.tfm").write_bytes(image.data)
        (folder / "input.bin").write_bytes(inputs.tobytes())
        if reset_state:
            (folder / "reset.bin").touch()
        machine = ("-M", target.machine, *_MACHINE, *target.options)
        command = ["qemu-system-arm", *machine, *_SEMIHOSTING, "-kernel", str(firmware)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise InvalidInputError(f"the emulated device refused: {_why(done)}", next="compile the image again")
        figures = json.loads((folder / "figures.json").read_text())
        raw = np.fromfile(folder / "output.bin", np.int8).reshape(len(inputs), -1)
        figures["layer_crcs"] = np.fromfile(folder / "layers.bin", "<u4").reshape(-1, len(image.ops))
        if (folder / "calls.bin").is_file():
            figures["kernel_calls"] = np.fromfile(folder / "calls.bin", "<u4").reshape(-1, 2)
    del figures["inferences"]
    figures["layer_instructions"] = tuple(figures["layer_instructions"])
    return RunResult(split_outputs(image, raw), **figures)


def build_firmware(target: Target = TARGETS[1]) -> Path:
    """The bench firmware as an ELF file, from the cache or built now."""
    choices = (f"-DFLEET_OPERATORS={';'.join(target.operators)}",)
    return programs.build("fleet_bench", "fleet_bench.elf", SOURCES, build_options(target), choices)


def build_options(target: Target) -> tuple[str, ...]:
    """CMake arguments that decide what the objects of a firmware are like."""
    toolchain = programs.source_folder() / SOURCES / "arm-none-eabi.cmake"
    return (
        f"-DCMAKE_TOOLCHAIN_FILE={toolchain}",
        f"-DFLEET_MACHINE={target.machine.replace('-', '_')}",
        f"-DFLEET_KERNELS={target.kernels}",
        f"-DFLEET_OPTIMISE={target.optimise}",
        *target.build_options,
    )


def _why(done: subprocess.CompletedProcess[str]) -> str:
    """The firmware says `fleet_bench: STEP STATUS`."""
    said = (done.stdout + done.stderr).strip()
    found = re.search(r"fleet_bench: (\S+) (-?\d+)$", said, re.MULTILINE)
    return f"{found[1]}: {programs.status_text(int(found[2]))}" if found else said or f"exit code {done.returncode}"
