"""Our kernels beside CMSIS-NN's, layer by layer: same shapes, same run, same bytes. `make bench-vendor`.

Each weighted layer of the five MLPerf Tiny models (TINYFLEET_SHARED) runs on an emulated Cortex-M4 (our DSP kernels)
and Cortex-M55 (our Helium kernels), once with our kernels and once with CMSIS-NN 4.0.0 in their place, built at -O2 and
at -O3: of each the better count. Every op's bytes are compared with the simulator's, and the firmware's log must say
that CMSIS-NN ran every layer. `cmsis-nn` counts its entry alone; `adapter` what our adapter adds (shifts to 32 bits,
biases of padded layers), which TFLM does once at start-up. Counts are exact to a tick (32 to 63 instructions). Flash:
code and constants an entry reaches at -O2, for CMSIS-NN with its adapter and without our kernel behind it.
With names (`kws cortex-m4`) only those models and cores. Needs network for the wheel with CMSIS-NN.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_kernels
import numpy as np
from kernel_objects import RUNTIME, Objects

from tinyfleet_compiler import compile_model, load_device_class
from tinyfleet_compiler.image import Image, ImageOp, read_image
from tinyfleet_compiler.operators import OpCode
from tinyfleet_service.cli.engines import cortex_m, simulator

RESULTS = bench_kernels.ROOT / "benchmarks" / "results" / "vendor.json"
WEIGHTED = (OpCode.CONV_2D, OpCode.DEPTHWISE_CONV_2D, OpCode.FULLY_CONNECTED)
TARGETS = (cortex_m.TARGETS[1], cortex_m.TARGETS[-1])
CMSIS_NN = 1
"""Of the firmware's log."""
Layers = dict[int, tuple[int, int]]
"""Op -> (instructions in all, of the library's entry alone)."""


def vendor_sources() -> Path:
    command = [str(bench_kernels.ROOT / "scripts" / "fetch_cmsis_nn.sh")]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def compiled(key: str, target: cortex_m.Target) -> Image:
    """A model for a class with the target's kernels."""
    device = replace(load_device_class(target.name), kernels=target.kernels)
    path = bench_kernels.MODELS / f"{bench_kernels.FILES[key]}_int8.tflite"
    return read_image(compile_model(path, device, name=key, version="v1", calibration=None).image)


def counted(image: Image, inputs: Any, target: cortex_m.Target) -> Layers:
    """Instructions of every weighted op, the better of both levels. Raises when a byte or the library is another."""
    wanted, crcs = simulator.run(image, inputs), bench_kernels.crcs_of(image, inputs)
    at = [index for index, op in enumerate(image.ops) if op.code in WEIGHTED]
    found: Layers = {}
    for level in bench_kernels.LEVELS:
        got = bench_kernels.run_checked(image, inputs, replace(target, optimise=level), wanted, crcs)
        assert got.layer_instructions is not None
        alone = [got.layer_instructions[index] for index in at]
        if target.kernels == "cmsis-nn":
            assert got.kernel_calls is not None
            calls = got.kernel_calls.reshape(-1, len(at), 2)
            np.testing.assert_array_equal(calls[:, :, 0], CMSIS_NN)
            alone = [int(count) for count in calls[0, :, 1]]
        for index, entry in zip(at, alone, strict=True):
            found[index] = min(found.get(index, (1 << 62, 0)), (got.layer_instructions[index], entry))
    return found


def rows_of(key: str, target: cortex_m.Target, vendor: cortex_m.Target) -> list[dict[str, Any]]:
    """The layers of one model on one core."""
    ours, theirs = compiled(key, target), compiled(key, vendor)
    inputs = bench_kernels.inputs_of(key, ours)[2:]
    mine, other = counted(ours, inputs, target), counted(theirs, inputs, vendor)
    return [row_of(key, target.name, ours.ops[index], mine[index][0], *other[index]) for index in mine]


def row_of(key: str, core: str, op: ImageOp, ours: int, with_adapter: int, theirs: int) -> dict[str, Any]:
    return {
        "core": core,
        "model": key,
        "op": bench_kernels.describe(op),
        "macs": bench_kernels.macs(op),
        "ours": ours,
        "cmsis-nn": theirs,
        "adapter": max(0, with_adapter - theirs),
        "ratio": round(ours / theirs, 3),
    }


def distinct(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a shape."""
    return list({(row["core"], row["op"]): row for row in rows}.values())


def totals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sums by core and operator over all layers of all models."""
    sums: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        total = sums.setdefault((row["core"], row["op"].split()[0]), [0, 0, 0])
        for place, name in enumerate(("ours", "cmsis-nn", "adapter")):
            total[place] += row[name]
    return [
        {"core": core, "op": op, "ours": a, "cmsis-nn": b, "adapter": c, "ratio": round(a / b, 3)}
        for (core, op), (a, b, c) in sums.items()
    ]


def flash_rows(core: str, vendor: Path, folder: Path) -> list[dict[str, Any]]:
    """Bytes of each operator's kernel, ours and CMSIS-NN's."""
    kernels = "mve" if core == "cortex-m55" else "dsp"
    objects = Objects(folder, core, includes=[vendor / "Include", vendor.parent / "cmsis_core" / "Include"])
    objects.add([*RUNTIME.glob("*.c"), *(RUNTIME / "dsp").glob("*.c"), *(RUNTIME / "vendor/cmsis_nn").glob("*.c")])
    objects.add([*vendor.glob("Source/*/*.c"), *(RUNTIME.glob("mve/*.c") if kernels == "mve" else ())])
    return [
        {
            "core": core,
            "op": code.name,
            "ours": objects.flash_bytes(f"fleet_{kernels}_{code.name.lower()}"),
            "cmsis-nn": objects.flash_bytes(
                f"fleet_cmsis_nn_{code.name.lower()}", without=[f"fleet_dsp_{code.name.lower()}"]
            ),
        }
        for code in WEIGHTED
    ]


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title}\n| " + " | ".join(rows[0]) + " |\n|" + " --- |" * len(rows[0]))
    for row in rows:
        cells = (f"{value:,}" if isinstance(value, int) else str(value) for value in row.values())
        print("| " + " | ".join(cells) + " |")


def main(arguments: list[str]) -> int:
    if not bench_kernels.MODELS.is_dir():
        print("mlperf_tiny is not there: set TINYFLEET_SHARED to the folder that holds models/", file=sys.stderr)
        return 1
    models = [key for key in bench_kernels.FILES if key in arguments] or list(bench_kernels.FILES)
    targets = [target for target in TARGETS if target.name in arguments] or list(TARGETS)
    vendor = vendor_sources()
    options = (f"-DFLEET_CMSIS_NN={vendor}", "-DFLEET_KERNEL_CALLS=ON")
    rows, flash = [], []
    with tempfile.TemporaryDirectory() as name:
        for target in targets:
            with_vendor = replace(target, kernels="cmsis-nn", build_options=options)
            for key in models:
                rows += rows_of(key, target, with_vendor)
            flash += flash_rows(target.name, vendor, Path(name) / target.name)
    show("instructions of each shape", distinct(rows))
    show("instructions, all layers of these models", totals(rows))
    show("flash, bytes at -O2", flash)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"layers": rows, "totals": totals(rows), "flash": flash}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
