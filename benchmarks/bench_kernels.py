"""Instructions of one inference on emulated Cortex-M cores: the five MLPerf Tiny models beside TFLM + CMSIS-NN.

Models are the int8 `.tflite` files of TINYFLEET_SHARED/models/mlperf_tiny (default ../shared), imported as they are and
compiled for each core's class, built at -O2 and at -O3, the better one counted. Every output and, by a CRC-32 of each
op's bytes, every intermediate tensor of two random inputs and a sample is compared with the simulator's. Counts repeat
and are exact to a tick (32 to 63 instructions). The anchor's figures are recorded ones: TFLM 90b983c2 + CMSIS-NN
4ab83cc3, GCC 12.2, the better of -O2 and -O3; for Armv6-M none was recorded.
`make bench-kernels`; with names (`kws cortex-m4`) only those models and cores, with `--flash` only the flash of the
runtime: with the kws operators, every int8 operator, each other group beside them, everything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyfleet_compiler import compile_model, load_device_class
from tinyfleet_compiler.image import Image, ImageOp, read_image
from tinyfleet_compiler.operators import OpCode
from tinyfleet_compiler.simulate import run_arena
from tinyfleet_service.cli.engines import cortex_m, programs, simulator
from tinyfleet_service.cli.engines.result import RunResult

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "kernels.json"
MODELS = Path(os.environ.get("TINYFLEET_SHARED", ROOT.parent / "shared")) / "models" / "mlperf_tiny"
FILES = {
    "kws": "kws_dscnn",
    "ic": "ic_resnet8",
    "vww": "vww_mobilenetv1_025_96",
    "ad": "ad_autoencoder",
    "sww": "sww_dscnn1d",
}
ANCHOR = {
    "dsp": {"kws": 7_698_454, "ic": 29_864_733, "vww": 24_103_252, "ad": 582_804, "sww": 2_226_377},
    "helium": {"kws": 1_786_514, "ic": 4_812_796, "vww": 6_435_329, "ad": 285_957, "sww": 408_076},
}
"""Recorded instructions: `dsp` on a Cortex-M4 (M7 within 2 %; also set beside M33), `helium` on a Cortex-M55."""
ANCHOR_ARENA = {"kws": 22_820, "ic": 54_996, "vww": 100_708, "ad": 2_580, "sww": 16_596}
ANCHOR_FILE = {"kws": 53_936, "ic": 98_496, "vww": 333_288, "ad": 276_976, "sww": 74_520}
TARGETS = (*cortex_m.TARGETS, replace(cortex_m.TARGETS[1], kernels="portable"))
COLUMNS = {
    "core": 11,
    "kernels": 9,
    "model": 6,
    "instructions": 13,
    "per_mac": 8,
    "anchor": 11,
    "ratio": 6,
    "arena": 7,
    "anchor_arena": 13,
    "image": 8,
    "anchor_file": 12,
    "stack": 6,
    "open/op": 7,
    "start": 5,
    "level": 5,
}
LEVELS = ("-O2", "-O3")
KWS_OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "AVERAGE_POOL_2D", "SOFTMAX")
GROUPS = {
    "int8": range(1, 58),
    "recurrent": range(58, 64),
    "float32": range(64, 96),
    "int16": (*range(96, 115), 118),
    "int4": range(115, 118),
    "front_end": range(120, 121),
}
"""Operator codes that a firmware may be built with or without."""


def build(key: str, target: cortex_m.Target) -> tuple[Image, int]:
    """The image of one model for the target's class, and its multiply-accumulates."""
    device = load_device_class(target.name)
    result = compile_model(MODELS / f"{FILES[key]}_int8.tflite", device, name=key, version="v1", calibration=None)
    return read_image(result.image), int(result.report["macs"])


def describe(op: ImageOp) -> str:
    f = op.fields
    if "kernel_h" in f:
        shape = f"{f['in_h']}x{f['in_w']}x{f['in_c']} -> {f['out_h']}x{f['out_w']}x{f['out_c']}"
        return f"{op.code.name} {f['kernel_h']}x{f['kernel_w']} {shape}"
    return f"{op.code.name} {f['in_features']} -> {f['out_features']}" if "in_features" in f else op.code.name


def macs(op: ImageOp) -> int:
    f = op.fields
    if "weights" not in f:
        return 0
    if "in_features" in f:
        return int(f["rows"] * f["in_features"] * f["out_features"])
    return int(f["out_h"] * f["out_w"] * f["out_c"] * f["kernel_h"] * f["kernel_w"] * (f["in_c"] // f["groups"]))


def inputs_of(key: str, image: Image) -> Any:
    """(3, bytes) int8: two random inputs and a sample."""
    random = np.random.default_rng(0).integers(-128, 128, (2, image.inputs[0].size_bytes)).astype(np.int8)
    return np.concatenate([random, sample(key, image).reshape(1, -1)])


def sample(key: str, image: Image) -> Any:
    """The first sample beside the models, int8: stored as such, as pixels, or (ad) as windows of a spectrogram."""
    tensor = image.inputs[0]
    with np.load(MODELS / f"{key}_samples.npz") as file:
        if "inputs_int8" in file:
            return file["inputs_int8"][0]
        if "inputs_uint8" in file:
            return (file["inputs_uint8"][0].astype(np.int16) - 128).astype(np.int8)
        real = file["spectrogram"].ravel()[: tensor.size_bytes]
    return np.clip(np.rint(real / tensor.scale) + tensor.zero_point, -128, 127).astype(np.int8)


def crcs_of(image: Image, inputs: Any) -> Any:
    """(N, ops) CRC-32 of what the simulator's ops write."""
    arena = np.zeros((len(inputs), image.arena_bytes), np.int8)
    tensor = image.inputs[0]
    arena[:, tensor.offset : tensor.offset + tensor.size_bytes] = inputs
    crcs = np.zeros((len(inputs), len(image.ops)), np.uint32)

    def add(index: int, output: Any) -> None:
        crcs[:, index] = [zlib.crc32(np.ascontiguousarray(one).tobytes()) for one in output]

    run_arena(image, arena, add)
    return crcs


def run_checked(image: Image, inputs: Any, target: cortex_m.Target, wanted: RunResult, crcs: Any) -> RunResult:
    """One run. Raises when an output or an intermediate tensor differs from the simulator's."""
    got = cortex_m.run(image, inputs, target=target)
    for name, expected in wanted.outputs.items():
        np.testing.assert_array_equal(got.outputs[name], expected)
    np.testing.assert_array_equal(got.layer_crcs, crcs)
    return got


def measure(key: str, target: cortex_m.Target) -> dict[str, Any]:
    """One row of the table: the better of LEVELS."""
    image, total_macs = build(key, target)
    inputs = inputs_of(key, image)
    wanted, crcs = simulator.run(image, inputs), crcs_of(image, inputs)
    levels = LEVELS if target.kernels != "portable" else LEVELS[:1]
    runs = {level: run_checked(image, inputs, replace(target, optimise=level), wanted, crcs) for level in levels}
    level = min(runs, key=lambda level: runs[level].instructions or 0)
    got = runs[level]
    anchors = ANCHOR.get({"cortex-m55": "helium", "cortex-m0plus": ""}.get(target.name, "dsp"))
    assert got.instructions is not None
    assert got.open_instructions is not None
    layers = [
        {"op": describe(op), "macs": macs(op), "instructions": count}
        for op, count in zip(image.ops, got.layer_instructions or (), strict=True)
    ]
    return {
        "core": target.name,
        "kernels": target.kernels,
        "model": key,
        "instructions": got.instructions,
        "per_mac": round(got.instructions / total_macs, 3),
        "anchor": anchors[key] if anchors else "none",
        "ratio": round(got.instructions / anchors[key], 3) if anchors else "",
        "arena": got.arena_bytes,
        "anchor_arena": ANCHOR_ARENA[key],
        "image": len(image.data),
        "anchor_file": ANCHOR_FILE[key],
        "stack": max(run.stack_bytes or 0 for run in runs.values()),
        "open/op": round(got.open_instructions / len(image.ops)),
        "start": got.start_instructions,
        "level": level,
        "layers": layers,
    }


def flash_rows(target: cortex_m.Target) -> dict[str, Any]:
    """Flash of the runtime (.text and .rodata with start-up code and libc, at -O2), by operators linked."""
    int8 = operators_of("int8")
    sets = {"kws": KWS_OPERATORS, "int8": int8}
    sets |= {f"int8+{name}": (*int8, *operators_of(name)) for name in GROUPS if name != "int8"}
    with tempfile.TemporaryDirectory() as name:
        sizes = {key: linked_flash(Path(name), target, chosen) for key, chosen in (sets | {"all": ()}).items()}
    return {"core": target.name, "kernels": target.kernels, **sizes}


def operators_of(group: str) -> tuple[str, ...]:
    return tuple(code.name for code in OpCode if code in GROUPS[group])


def linked_flash(folder: Path, target: cortex_m.Target, operators: tuple[str, ...]) -> int:
    """Bytes of the runtime in firmware with these operators; what `folder` holds compiled is taken again."""
    port = programs.source_folder() / "ports" / "qemu"
    options = [f"-DCMAKE_TOOLCHAIN_FILE={port / 'arm-none-eabi.cmake'}", f"-DFLEET_KERNELS={target.kernels}"]
    options += [f"-DFLEET_MACHINE={target.machine.replace('-', '_')}", f"-DFLEET_OPERATORS={';'.join(operators)}"]
    for step in (["-S", port, "-B", folder, *options], ["--build", folder, "--target", "fleet_bench"]):
        subprocess.run(["cmake", *map(str, step)], check=True, capture_output=True)
    listed = subprocess.run(
        ["arm-none-eabi-nm", folder / "fleet_bench.elf"], check=True, capture_output=True, text=True
    )
    at = {line.split()[2]: int(line.split()[0], 16) for line in listed.stdout.splitlines() if len(line.split()) == 3}
    return at["fleet_runtime_end"] - at["fleet_runtime_start"]


def print_layers(row: dict[str, Any]) -> None:
    for layer in row["layers"]:
        share = layer["instructions"] / row["instructions"]
        per_mac = f"{layer['instructions'] / layer['macs']:8.2f}" if layer["macs"] else " " * 8
        print(f"    {layer['instructions']:>10} {share:6.1%} {per_mac}  {layer['op']}")


def print_flash(targets: list[cortex_m.Target]) -> list[dict[str, Any]]:
    rows = []
    print("runtime flash, bytes at -O2, by operators linked (anchor for the kws set: 53,044 to 103,420)")
    for target in targets:
        rows.append(flash_rows(target))
        if len(rows) == 1:
            print(" ".join(f"{name:>14}" for name in rows[0]))
        print(" ".join(f"{value!s:>14}" for value in rows[-1].values()), flush=True)
    return rows


def main(arguments: list[str]) -> int:
    if not MODELS.is_dir():
        print("mlperf_tiny is not there: set TINYFLEET_SHARED to the folder that holds models/", file=sys.stderr)
        return 1
    wanted = {argument for argument in arguments if not argument.startswith("-")}
    models = [key for key in FILES if key in wanted] or list(FILES)
    targets = [target for target in TARGETS if target.name in wanted] or list(TARGETS)
    if "--flash" in arguments:
        print_flash(targets)
        return 0
    rows = []
    print("anchor: recorded figures of TFLM + CMSIS-NN; start: instructions of the first inference beyond the second")
    print(" ".join(f"{name:>{width}}" for name, width in COLUMNS.items()))
    for target in targets:
        for key in models:
            row = measure(key, target)
            rows.append(row)
            print(" ".join(f"{row[name]!s:>{width}}" for name, width in COLUMNS.items()), flush=True)
            print_layers(row)
    flash = print_flash(targets)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"rows": rows, "flash": flash}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
