"""Transfer bytes between versions of one keyword model, ours beside every other tool's. `make bench-delta`.

Images are compiled by us from the ONNX files of TINYFLEET_SHARED/models/kws_digits (default ../shared), freely
quantised, with the scales of v1 kept where they fit, and with all that `--base` does (weights rounded towards v1's as
well, which the other tools gain from too); with `--vision` a person detector too, its weights perturbed as a fine-tune
does.
Every patch of ours is applied, in Python and where QEMU and a cross compiler are there by the agent's own decoder on a
Cortex-M4, which counts instructions. The other tools come pinned from package registries into build/bench-delta
(requirements/bench.txt). Bars: at most 0.60 of the best tool that applies in about 5 KB of RAM, never above 0.93 of the
full image.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tinyfleet_compiler import CompileOptions, CompileResult, compile_model, load_device_class
from tinyfleet_ota.delta import apply_delta, make_delta
from tinyfleet_ota.delta.header import BASE_ID_BYTES, HEADER

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "delta.json"
SHARED = Path(os.environ.get("TINYFLEET_SHARED", ROOT.parent / "shared")) / "models"
MODELS = SHARED / "kws_digits"
VERSIONS = ("v2", "v2f", "v2g", "v3", "v3d", "v5", "v6", "v4")
KEPT = "kept scales"
HEADINGS = (
    "pair",
    "quantised",
    "top-1",
    "full",
    "delta",
    "share",
    "small",
    "ratio",
    "any",
    "ratio",
    "packed",
    "ops/B",
    "best",
)
FORMAT = "{:>11} {:>11} {:>6} {:>7} {:>7} {:>6} {:>7} {:>6} {:>7} {:>6} {:>6} {:>6}  {}"
WEIGHTS = 3
QEMU = "qemu-system-arm -M mps2-an386 -nographic -monitor none -serial null -icount shift=0 -semihosting-config"
VISION = "vww"


@dataclass(frozen=True)
class Pair:
    """Two images of one model and how the new one was quantised."""

    name: str
    quantised: str
    old: CompileResult
    new: CompileResult


def build(
    model: Path,
    calibration: Path,
    version: str,
    base: bytes | None = None,
    *,
    nearest: bool = False,
    evaluation: Path | None = None,
) -> CompileResult:
    """`nearest`: the base lends its scales only."""
    options = CompileOptions(base=base, base_rounding=not nearest)
    return compile_model(
        model,
        load_device_class("cortex-m4"),
        name="bench",
        version=version,
        calibration=calibration,
        evaluation=evaluation,
        options=options,
    )


def chosen_pairs(folder: Path, begins: str, *, vision: bool) -> Iterator[Pair]:
    """Pairs whose name begins so."""
    if VISION.startswith(begins) and (vision or begins):
        yield from vision_pairs(folder)
    if begins != VISION:
        yield from keyword_pairs(folder, begins)


def keyword_pairs(folder: Path, begins: str) -> Iterator[Pair]:
    """Versions, calibrated on the data they were trained with."""
    data = np.load(MODELS / "calibration.npz")
    for name in ("x_v1", "x"):
        np.savez(folder / f"{name}.npz", x=data[name])
    np.savez(folder / "test.npz", **{name: np.load(MODELS / "test.npz")[name] for name in "xy"})
    first = build(MODELS / "kws_v1.onnx", folder / "x_v1.npz", "v1")
    for kind, base in (("freely", None), (KEPT, first.image), ("with base", first.image)):
        for name in (name for name in VERSIONS if f"v1 -> {name}".startswith(begins)):
            model, nearest = MODELS / f"kws_{name}.onnx", kind == KEPT
            new = build(model, folder / "x.npz", name, base, nearest=nearest, evaluation=folder / "test.npz")
            yield Pair(f"v1 -> {name}", kind, first, new)


def vision_pairs(folder: Path) -> Iterator[Pair]:
    """Person detection, every weight moved by about one step of its quantisation."""
    source, samples = (
        SHARED / "mlperf_tiny" / "vww_mobilenetv1_025_96_float.onnx",
        np.load(SHARED / "mlperf_tiny" / "vww_samples.npz"),
    )
    np.savez(folder / "vww.npz", x=samples[samples.files[0]].transpose(0, 3, 1, 2))  # the ONNX file wants NCHW
    model, random = onnx.load(source), np.random.default_rng(1)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim >= 2:
            noise = random.normal(0, np.abs(values).max() / 127, values.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values + noise, tensor.name))
    onnx.save(model, str(folder / "vww.onnx"))
    first = build(source, folder / "vww.npz", "v1")
    for kind, base in (("freely", None), (KEPT, first.image), ("with base", first.image)):
        new = build(folder / "vww.onnx", folder / "vww.npz", "v2", base, nearest=kind == KEPT)
        yield Pair(VISION, kind, first, new)


def rival_python() -> Path:
    """The interpreter of the environment with the other tools, made at first use."""
    home = ROOT / "build" / "bench-delta"
    python = home / "bin" / "python"
    lock = (ROOT / "requirements" / "bench.txt").read_text()
    stamp = home / "lock.txt"
    if not stamp.exists() or stamp.read_text() != lock:
        venv.create(home, with_pip=True, clear=True)
        install: list[str | Path] = [python, "-m", "pip", "install", "-q", "--require-hashes", "--no-deps"]
        subprocess.run([*install, "-r", ROOT / "requirements" / "bench.txt"], check=True)
        stamp.write_text(lock)
    return python


def rivals(python: Path, old: bytes, new: bytes) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / "old", Path(name) / "new"]
        for file, data in zip(files, (old, new), strict=True):
            file.write_bytes(data)
        command = [python, Path(__file__).with_name("delta_rivals.py"), *files]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout))


def firmware() -> Path | None:
    """The delta firmware for an emulated Cortex-M4; None without the tools."""
    if not all(shutil.which(tool) for tool in ("qemu-system-arm", "arm-none-eabi-gcc", "cmake")):
        print("QEMU or the cross compiler is not there: no instructions", file=sys.stderr)
        return None
    source, build_folder = ROOT / "device_agent" / "ports" / "qemu", ROOT / "build" / "bench-delta-m4"
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={source / 'arm-none-eabi.cmake'}"
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run(["cmake", "-S", source, "-B", build_folder, toolchain], **quiet)  # type: ignore[call-overload]
    subprocess.run(["cmake", "--build", build_folder, "--target", "fleet_delta_bench"], **quiet)  # type: ignore[call-overload]
    return build_folder / "fleet_delta_bench.elf"


def instructions_per_byte(elf: Path, old: bytes, patch: bytes, new: bytes) -> float:
    """Decoded on the emulated device and compared."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "old.bin").write_bytes(old)
        (folder / "base.bin").write_bytes(hashlib.sha256(old).digest()[:BASE_ID_BYTES] if old else bytes(BASE_ID_BYTES))
        (folder / "patch.bin").write_bytes(patch)
        command = [*QEMU.split(), "enable=on,target=native", "-kernel", str(elf)]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        if (folder / "new.bin").read_bytes() != new:
            raise SystemExit("the device decoded another image")
        return float(json.loads((folder / "figures.json").read_text())["instructions"]) / len(new)


def sections(result: CompileResult) -> list[dict[str, Any]]:
    return [asdict(section) for section in result.sections]


def weights(result: CompileResult) -> list[bytes]:
    return [result.image[s.offset : s.offset + s.size] for s in result.sections if int(s.kind) == WEIGHTS]


def weights_over_entropy(pair: Pair) -> float:
    """Bytes of the weights' patch over the order-0 entropy of the residuals, summed section by section."""
    old, new = weights(pair.old), weights(pair.new)
    ideal, at, hints = 0.0, 0, []
    for before, after in zip(old, new, strict=True):
        residual = np.frombuffer(after, np.uint8) - np.frombuffer(before, np.uint8)
        counts = np.unique(residual, return_counts=True)[1]
        ideal += float(-(counts * np.log2(counts / counts.sum())).sum()) / 8
        hints.append({"kind": WEIGHTS, "offset": at, "size": len(after), "rows": 1, "row_length": len(after)})
        at += len(after)
    patch = make_delta(b"".join(old), b"".join(new), hints, hints, spacing=0)
    return (len(patch) - HEADER.size) / ideal


def measure(pair: Pair, python: Path, elf: Path | None) -> dict[str, Any]:
    old, new = pair.old.image, pair.new.image
    patch = make_delta(old, new, sections(pair.old), sections(pair.new))
    packed = make_delta(b"", new, [], sections(pair.new))
    for base, one in ((old, patch), (b"", packed)):
        if apply_delta(base, one) != new:
            raise SystemExit(f"{pair.name}: the patch gives another image")
    tools = rivals(python, old, new)
    best = min(tools, key=lambda name: int(tools[name]["bytes"]))
    small = min((name for name in tools if tools[name]["small"]), key=lambda name: int(tools[name]["bytes"]))
    return {
        "pair": pair.name,
        "quantised": pair.quantised,
        "top1": pair.new.report["accuracy"].get("quantized"),
        "full": len(new),
        "delta": len(patch),
        "packed": len(packed),
        "best_small": small,
        "best_any": best,
        "instructions_per_byte": instructions_per_byte(elf, old, patch, new) if elf else None,
        "tools": tools,
    }


def line(row: dict[str, Any]) -> str:
    small, best = (int(row["tools"][row[name]]["bytes"]) for name in ("best_small", "best_any"))
    instructions = row["instructions_per_byte"]
    return FORMAT.format(
        row["pair"],
        row["quantised"],
        f"{100 * row['top1']:.2f}" if row["top1"] is not None else "-",
        row["full"],
        row["delta"],
        f"{row['delta'] / row['full']:.3f}",
        small,
        f"{row['delta'] / small:.3f}",
        best,
        f"{row['delta'] / best:.3f}",
        f"{row['packed'] / row['full']:.3f}",
        f"{instructions:.0f}" if instructions else "-",
        row["best_small"],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vision", action="store_true", help="the person detector too")
    parser.add_argument("--pairs", default="", help="only pairs whose name begins so: 'v1 -> v2', vww")
    options = parser.parse_args()
    if not MODELS.is_dir():
        print("kws_digits is not there: set TINYFLEET_SHARED to the folder that holds models/", file=sys.stderr)
        return 1
    python, elf = rival_python(), firmware()
    rows, entropy = [], {}
    print("small: best other patch that applies in about 5 KB of RAM; any: best of all; ops/B: instructions a new byte")
    print(FORMAT.format(*HEADINGS))
    with tempfile.TemporaryDirectory() as name:
        for pair in chosen_pairs(Path(name), options.pairs, vision=options.vision):
            rows.append(measure(pair, python, elf))
            print(line(rows[-1]), flush=True)
            if pair.name == "v1 -> v2":
                entropy[pair.quantised] = weights_over_entropy(pair)
    for kind, share in entropy.items():
        print(f"weights of v2, {kind}: {share:.3f} of the residual's order-0 entropy")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"rows": rows, "weights_over_entropy": entropy}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
