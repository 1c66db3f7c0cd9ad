"""Instructions of one inference on emulated Cortex-M cores: the five MLPerf Tiny models beside TFLM + CMSIS-NN.

Models are the int8 `.tflite` files of TINYFLEET_SHARED/models/mlperf_tiny (default ../shared), imported as they are and
compiled for each core's class. The firmware runs the golden record first, so every op's bytes are the simulator's, and
the outputs of two random inputs are compared. Counts repeat and are exact to a tick (20 to 50 instructions). The
anchor's figures are recorded ones: TFLM 90b983c2 + CMSIS-NN 4ab83cc3, GCC 12.2, the better of -O2 and -O3.
`make bench-kernels`; with `--layers` the tables of all ops, with names (`kws cortex-m4`) only those models and cores.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tinyfleet_compiler import compile_model, load_device_class
from tinyfleet_compiler.image import Image, ImageOp, read_image
from tinyfleet_service.cli.engines import cortex_m, simulator

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
TARGETS = (*cortex_m.TARGETS, cortex_m.Target("cortex-m4", "mps2-an386", "portable"))
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
    "flash": 7,
}


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


def measure(key: str, target: cortex_m.Target) -> dict[str, Any]:
    """One row of the table. Raises when an output differs from the simulator's, InvalidInputError when an op's does."""
    image, total_macs = build(key, target)
    size = sum(tensor.size_bytes for tensor in image.inputs)
    inputs = np.random.default_rng(0).integers(-128, 128, (2, size)).astype(np.int8)
    got, wanted = cortex_m.run(image, inputs, target), simulator.run(image, inputs)
    for name, expected in wanted.outputs.items():
        np.testing.assert_array_equal(got.outputs[name], expected)
    anchor = ANCHOR["helium" if target.name == "cortex-m55" else "dsp"][key]
    assert got.instructions is not None
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
        "anchor": anchor,
        "ratio": round(got.instructions / anchor, 3),
        "arena": got.arena_bytes,
        "anchor_arena": ANCHOR_ARENA[key],
        "image": len(image.data),
        "anchor_file": ANCHOR_FILE[key],
        "stack": got.stack_bytes,
        "flash": got.runtime_flash_bytes,
        "layers": layers,
    }


def print_layers(row: dict[str, Any]) -> None:
    for layer in row["layers"]:
        share = layer["instructions"] / row["instructions"]
        per_mac = f"{layer['instructions'] / layer['macs']:8.2f}" if layer["macs"] else " " * 8
        print(f"    {layer['instructions']:>10} {share:6.1%} {per_mac}  {layer['op']}")


def main(arguments: list[str]) -> int:
    if not MODELS.is_dir():
        print("mlperf_tiny is not there: set TINYFLEET_SHARED to the folder that holds models/", file=sys.stderr)
        return 1
    wanted = {argument for argument in arguments if not argument.startswith("-")}
    models = [key for key in FILES if key in wanted] or list(FILES)
    targets = [target for target in TARGETS if target.name in wanted] or list(TARGETS)
    rows = []
    print("anchor: recorded figures of TFLM + CMSIS-NN; flash: every operator linked, with start-up code and libc")
    print(" ".join(f"{name:>{width}}" for name, width in COLUMNS.items()))
    for target in targets:
        for key in models:
            row = measure(key, target)
            rows.append(row)
            print(" ".join(f"{row[name]!s:>{width}}" for name, width in COLUMNS.items()), flush=True)
            if "--layers" in arguments:
                print_layers(row)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
