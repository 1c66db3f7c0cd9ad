"""Flash, stack and scratch of every operator's kernels, and the table of all kernels. `make bench-kernel-sizes`.

Compiled at -O2: portable and DSP kernels for a Cortex-M4, Helium kernels for a Cortex-M55. Flash is the code and
constants that an operator's kernel reaches, shared helpers and the portable kernel it hands over to included, so that
sums count some twice; its check in `check_op.c` is not in it. Stack is the deepest chain of frames from the kernel on.
Scratch is what the compiler asks for in the arena. Writes device_agent/runtime/KERNELS.md.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from kernel_objects import RUNTIME, Objects

from tinyfleet_compiler.operators import OPERATORS, Element, OpCode, counterpart

ROOT = RUNTIME.parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "kernel_sizes.json"
PAGE = RUNTIME / "KERNELS.md"
SETS = {"portable": "cortex-m4", "dsp": "cortex-m4", "mve": "cortex-m55"}
_ENTRY = re.compile(r"\[FLEET_OP_(\w+)\] = (?:(FAST|HELIUM)\((\w+)\)|(\w+)),")
_DEFINED = re.compile(r"^(?:__attribute__\(\(\w+\)\) )?void (fleet_\w+)\(", re.MULTILINE)
_MACRO = {"FAST": ("dsp", "mve"), "HELIUM": ("mve",), "": ()}
SCRATCH = {
    OpCode.CONV_2D: "rows of more than 96 values: dsp 4 B a value (channels a multiple of 4), mve 3 B",
    OpCode.FEATURES: "4 B a point of the transform and a filter",
    OpCode.LSTM: "3 B a unit where nothing is kept between inferences",
    OpCode.GRU: "3 B a unit where nothing is kept between inferences",
}
HEAD = """# Kernels: operator x type x kernel, with flash and RAM

Written by `make bench-kernel-sizes`, which says how it counts. Bytes of flash; bytes of stack: portable and `dsp/` on
a Cortex-M4, `mve/` on a Cortex-M55, GCC -O2. "portable": the set has no kernel of its own. An operator takes no RAM but
its stack, one kernel at a time, and scratch in the arena. What each kernel hands to the portable one: README.md.

| operator | tensors | portable kernel | flash; stack | dsp | mve | scratch in the arena |
| --- | --- | --- | --- | --- | --- | --- |
"""


def kernels() -> dict[OpCode, dict[str, str]]:
    """Of every operator its kernel function by set, as `kernel_table.c` names them."""
    text = (RUNTIME / "kernel_table.c").read_text(encoding="utf-8")
    found = {}
    for name, macro, fast, plain in _ENTRY.findall(text):
        own = {kernel_set: f"fleet_{kernel_set}_{fast}" for kernel_set in _MACRO[macro]}
        found[OpCode[name]] = {"portable": plain or f"fleet_{fast}"} | own
    return found


def places() -> dict[str, str]:
    """File of every function that is no static one, relative to `runtime/`."""
    paths = [*RUNTIME.glob("*.c"), *(RUNTIME / "float").glob("*.c")]
    found = {}
    for path in paths:
        for name in _DEFINED.findall(path.read_text(encoding="utf-8")):
            found[name] = path.relative_to(RUNTIME).as_posix()
    return found


def compiled(folder: Path) -> dict[str, Objects]:
    """The runtime with each set of kernels."""
    built = {kernel_set: Objects(folder / kernel_set, core) for kernel_set, core in SETS.items() if kernel_set != "dsp"}
    built["dsp"] = built["portable"]  # the same core
    for objects in (built["portable"], built["mve"]):
        objects.add([*RUNTIME.glob("*.c"), *(RUNTIME / "float").glob("*.c")])
    for kernel_set in ("dsp", "mve"):
        built[kernel_set].add(sorted((RUNTIME / kernel_set).glob("*.c")))
    return built


def measure(folder: Path) -> list[dict[str, Any]]:
    built, files = compiled(folder), places()
    rows = []
    for code, by_set in sorted(kernels().items()):
        sizes = {
            kernel_set: (built[kernel_set].flash_bytes(entry), built[kernel_set].stack_bytes(entry))
            for kernel_set, entry in by_set.items()
        }
        file = files[by_set["portable"]]
        rows.append(
            {"operator": code.name, "tensors": tensors(code), "file": file, **sizes, "scratch": SCRATCH.get(code, "")}
        )
    return rows


def tensors(code: OpCode) -> str:
    """Element types an operator works on."""
    info = OPERATORS[code]
    if code is OpCode.FEATURES:
        return "int16 or int32 in, int8 out"
    if code in (OpCode.DEQUANTIZE, OpCode.QUANTIZE):
        return "codes and float32"
    if info.weight_element is Element.INT4:
        return "int8, int4 weights"
    if code in (OpCode.LSTM, OpCode.GRU):
        return "int8, int16 inside"
    return info.element.name.lower() if counterpart(code) is not code or info.element is not Element.INT8 else "int8"


def page(rows: list[dict[str, Any]]) -> str:
    def cell(size: tuple[int, int] | None) -> str:
        return f"{size[0]:,}; {size[1]:,}" if size else "portable"

    lines = [
        f"| {row['operator']} | {row['tensors']} | `{row['file']}` | {cell(row['portable'])} | {cell(row.get('dsp'))} "
        f"| {cell(row.get('mve'))} | {row['scratch'] or 'none'} |"
        for row in rows
    ]
    return HEAD + "\n".join(lines) + "\n"


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        rows = measure(Path(name))
    text = page(rows)
    print(text, end="")
    PAGE.write_text(text, encoding="utf-8")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"kernels": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
