"""What `--optimize ram` saves and costs: arena, image and instructions of one inference, beside the balanced plan.

Models are the int8 `.tflite` files of TINYFLEET_SHARED/models/mlperf_tiny (default ../shared), imported as they are.
The firmware runs the golden record first, so each row of each cascade has the simulator's bytes on that core; the
outputs of one random input are compared between both plans. Instructions repeat and are exact to a tick (20 to 50).
`make bench-memory`; with names (`vww cortex-m4`) only those models and cores.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tinyfleet_compiler import CompileOptions, CompileResult, compile_model, load_device_class, read_image
from tinyfleet_service.cli.engines import cortex_m

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "memory.json"
MODELS = Path(os.environ.get("TINYFLEET_SHARED", ROOT.parent / "shared")) / "models" / "mlperf_tiny"
FILES = {
    "kws": "kws_dscnn",
    "ic": "ic_resnet8",
    "vww": "vww_mobilenetv1_025_96",
    "ad": "ad_autoencoder",
    "sww": "sww_dscnn1d",
}
TARGETS = {target.name: target for target in cortex_m.TARGETS if target.name in ("cortex-m4", "cortex-m55")}
COLUMNS = {
    "core": 11,
    "model": 6,
    "arena": 8,
    "arena_ram": 10,
    "bound_ram": 10,
    "by_rows": 8,
    "moved": 8,
    "recomputed": 11,
    "image_more": 11,
    "instructions": 13,
    "instructions_ram": 17,
    "ratio": 6,
    "stack_ram": 10,
}


def build(key: str, target: cortex_m.Target, optimize: str) -> CompileResult:
    """One model for the target's class."""
    path, options = MODELS / f"{FILES[key]}_int8.tflite", CompileOptions(optimize=optimize, golden_vectors=1)
    device = load_device_class(target.name)
    return compile_model(path, device, name=key, version="v1", calibration=None, options=options)


def measure(key: str, target: cortex_m.Target) -> dict[str, Any]:
    """Both plans of one model on one core. Raises SystemExit when an output differs."""
    plain, ram = build(key, target, "balanced"), build(key, target, "ram")
    size = sum(t.size_bytes for t in read_image(plain.image).inputs)
    inputs = np.random.default_rng(1).integers(-128, 128, (1, size)).astype(np.int8)
    runs = [cortex_m.run(read_image(result.image), inputs, target=target) for result in (plain, ram)]
    for name, values in runs[0].outputs.items():
        if not np.array_equal(values, runs[1].outputs[name]):
            raise SystemExit(f"{key} on {target.name}: the two plans give other bytes")
    plan = ram.report["memory_plan"]
    counts = [run.instructions for run in runs]
    assert counts[0] is not None
    assert counts[1] is not None
    return {
        "core": target.name,
        "model": key,
        "arena": plain.report["arena_bytes"],
        "arena_ram": ram.report["arena_bytes"],
        "bound_ram": ram.report["arena_lower_bound_bytes"],
        "by_rows": sum(cascade["ops"] for cascade in plan["cascades"]),
        "moved": plan["moved_bytes"],
        "recomputed": plan["recomputed_macs"],
        "image_more": len(ram.image) - len(plain.image),
        "instructions": counts[0],
        "instructions_ram": counts[1],
        "ratio": round(counts[1] / counts[0], 3),
        "stack_ram": runs[1].stack_bytes,
    }


def main(arguments: list[str]) -> int:
    """Print the table and write it as JSON."""
    keys = [key for key in FILES if key in arguments] or list(FILES)
    targets = [target for name, target in TARGETS.items() if name in arguments] or list(TARGETS.values())
    print(" ".join(f"{name:>{width}}" for name, width in COLUMNS.items()))
    rows = []
    for target in targets:
        for key in keys:
            rows.append(measure(key, target))
            print(" ".join(f"{rows[-1][name]!s:>{width}}" for name, width in COLUMNS.items()), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
