"""What an inference may cost on a device class, from counts of our own kernels on emulated cores.

`counts.json` holds, per core and operator, what one window, output, multiply-accumulate, ... costs; it is fitted by
`benchmarks/fit_estimates.py` to counted models. An operator nobody counted on a core takes the portable guess below.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tinyfleet_compiler.build_ops import Op
from tinyfleet_compiler.device_class import DeviceClass
from tinyfleet_compiler.operators import OPERATORS, OpCode

COUNTS = Path(__file__).with_name("counts.json")
REFERENCE = "cortex-m4-portable"
"""Whose counts a class of a core that is not emulated here takes."""
_PER_OUTPUT, _PER_TAP, _PER_OP = 60.0, 6.0, 250.0


@dataclass(frozen=True)
class Estimate:
    """Cost of one inference."""

    instructions: int
    latency_ms: float
    energy_uj: float


def kind_of(code: OpCode, f: Mapping[str, Any]) -> str:
    """The row of `counts.json` an operator takes: kernels go other ways for pointwise, narrow and wide windows."""
    if "groups" not in f or "kernel_h" not in f or OPERATORS[code].record.startswith("op_pool"):
        return code.name
    if f["groups"] > 1:
        return code.name if f["kernel_h"] == f["kernel_w"] == 3 else f"{code.name}/other"
    if f["kernel_h"] == f["kernel_w"] == f["stride_h"] == f["stride_w"] == 1:
        return f"{code.name}/pointwise"
    return f"{code.name}/narrow" if f["in_c"] % 4 else code.name


def terms(code: OpCode, f: Mapping[str, Any], outputs: int, macs: int) -> tuple[float, ...]:
    """What an operator's cost is linear in; always 1 and its outputs first."""
    if "kernel_h" in f:
        windows = f["out_h"] * f["out_w"]
        taps = _taps_inside(f, "h", "top") * _taps_inside(f, "w", "left")
        each = max(1, macs) / (windows * f["kernel_h"] * f["kernel_w"])
        return 1.0, float(outputs), float(windows), float(taps), taps * (each if macs else outputs / windows)
    if "in_features" in f:
        return 1.0, float(outputs), float(f["rows"]), float(macs)
    if "count" in f and "inner" in f:
        return 1.0, float(outputs), float(outputs * f["count"])
    if "frames" in f:
        return 1.0, float(outputs), float(f["frames"] << f["fft_log2"])
    return 1.0, float(outputs), float(macs)


def _taps_inside(f: Mapping[str, Any], axis: str, side: str) -> int:
    """Taps along one axis that meet the input, over all windows: those in the padding cost nothing."""
    starts = np.arange(f[f"out_{axis}"]) * f[f"stride_{axis}"] - f[f"pad_{side}"]
    places = starts[:, None] + np.arange(f[f"kernel_{axis}"]) * f[f"dilation_{axis}"]
    return int(((places >= 0) & (places < f[f"in_{axis}"])).sum()) or 1


@cache
def _counts() -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = json.loads(COUNTS.read_text())["cores"]
    return found


def core_of(device: DeviceClass) -> str:
    """The counted core a class's estimates come from."""
    named = device.cpu if device.kernels != "portable" else f"{device.cpu}-portable"
    return named if named in _counts() else REFERENCE


def op_instructions(op: Op, out_elements: int, device: DeviceClass) -> int:
    """Estimated instructions of one operator."""
    row = _counts()[core_of(device)].get(kind_of(op.code, op.fields))
    values = terms(op.code, op.fields, out_elements, op.macs)
    if row is not None and len(row) == len(values):
        return int(sum(cost * value for cost, value in zip(row, values, strict=True)))
    guess = op.macs * device.instructions_per_mac + values[-1] * _PER_TAP * (len(values) == 3 and not op.macs)
    return int(guess + out_elements * _PER_OUTPUT + _PER_OP)


def estimate_note(ops: tuple[Op, ...], device: DeviceClass) -> str:
    """Where the figures come from, for the report."""
    guessed = sorted({op.code.name for op in ops if kind_of(op.code, op.fields) not in _counts()[core_of(device)]})
    core = core_of(device)
    source = f"counts of our {device.kernels} kernels on an emulated {core.removesuffix('-portable')}"
    if core == REFERENCE and device.cpu != "cortex-m4":
        source += f", as {device.cpu} is not emulated"
    rest = f"; {', '.join(guessed)}: a guess" if guessed else ""
    return f"instructions: {source}{rest}. Latency and energy: uncalibrated until a board of this class has reported"


def estimate(instructions: int, device: DeviceClass) -> Estimate:
    """Latency from clock and cycles per instruction, energy from the class's coefficient."""
    seconds = instructions * device.cycles_per_instruction / device.clock_hz
    energy = instructions * device.energy_pj_per_instruction
    return Estimate(instructions, round(seconds * 1e3, 4), round(energy * 1e-6, 4))
