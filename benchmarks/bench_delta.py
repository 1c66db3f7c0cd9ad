"""Transfer bytes between versions of one keyword model: full, our patch, and subtract-then-compress baselines.

Images are compiled by us from the ONNX files of TINYFLEET_SHARED/models/kws_digits (default ../shared), freely
quantised and against v1 as base. Every patch of ours is applied and compared. `make bench-delta`.
"""

from __future__ import annotations

import json
import lzma
import os
import sys
import tempfile
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tinyfleet_compiler import CompileOptions, CompileResult, compile_model, load_device_class
from tinyfleet_ota.delta import apply_delta, make_delta

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "delta.json"
MODELS = Path(os.environ.get("TINYFLEET_SHARED", ROOT.parent / "shared")) / "models" / "kws_digits"
VERSIONS = ("v2", "v2f", "v2g", "v3", "v3d", "v5", "v6", "v4")
COLUMNS = ("pair", "quantised", "full", "delta", "share", "generic", "sub_zlib", "sub_lzma", "full_packed", "full_lzma")
LZMA_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "pb": 0}]


def build(version: str, folder: Path, base: bytes | None = None) -> CompileResult:
    """The image of one version for a Cortex-M4, calibrated on the data it was trained with."""
    data = np.load(MODELS / "calibration.npz")
    calibration = folder / f"calibration_{version}.npz"
    np.savez(calibration, x=data["x_v1" if version == "v1" else "x"])
    options = CompileOptions() if base is None else CompileOptions(base=base)
    return compile_model(
        MODELS / f"kws_{version}.onnx",
        load_device_class("cortex-m4"),
        name="kws",
        version=version,
        calibration=calibration,
        evaluation=None,
        options=options,
    )


def compress(data: bytes) -> int:
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=LZMA_FILTERS))


def difference(old: bytes, new: bytes) -> bytes:
    """new - old byte by byte at equal offsets, what lies beyond old as it is."""
    common = min(len(old), len(new))
    changed = np.frombuffer(new[:common], np.uint8) - np.frombuffer(old[:common], np.uint8)
    return changed.tobytes() + new[common:]


def sections(result: CompileResult) -> list[dict[str, Any]]:
    return [asdict(section) for section in result.sections]


def row(version: str, kind: str, old: CompileResult, new: CompileResult) -> dict[str, Any]:
    patch = make_delta(old.image, new.image, sections(old), sections(new))
    generic = make_delta(old.image, new.image)
    packed = make_delta(b"", new.image, [], sections(new))
    for base, one in ((old.image, patch), (old.image, generic), (b"", packed)):
        assert apply_delta(base, one) == new.image
    subtracted = difference(old.image, new.image)
    return {
        "pair": f"v1 -> {version}",
        "quantised": kind,
        "full": len(new.image),
        "delta": len(patch),
        "share": round(len(patch) / len(new.image), 3),
        "generic": len(generic),
        "sub_zlib": len(zlib.compress(subtracted, 9)),
        "sub_lzma": compress(subtracted),
        "full_packed": len(packed),
        "full_lzma": compress(new.image),
    }


def main() -> int:
    if not MODELS.is_dir():
        print("kws_digits is not there: set TINYFLEET_SHARED to the folder that holds models/", file=sys.stderr)
        return 1
    rows = []
    print(" ".join(f"{column:>11}" for column in COLUMNS))
    with tempfile.TemporaryDirectory() as name:
        first = build("v1", Path(name))
        for kind, base in (("freely", None), ("with base", first.image)):
            for version in VERSIONS:
                rows.append(row(version, kind, first, build(version, Path(name), base)))
                print(" ".join(f"{rows[-1][column]!s:>11}" for column in COLUMNS), flush=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
