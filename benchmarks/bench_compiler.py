"""What a compile costs and gives: CPU seconds per stage, arena and its proof, image, accuracy. `make bench-compiler`.

Then how the stages grow with the model (a generated family), and the curves of pruning with and without repair.

Models and data are those of TINYFLEET_SHARED (default ../shared): MLPerf Tiny and the keyword family. Where a model
comes without data for it, seeded noise of its input's range calibrates (sizes and times only, no accuracy).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from compiler_growth import exponent, growing_models
from compiler_pruning import COLUMNS as PRUNING_COLUMNS
from compiler_pruning import pruning_curves, show_curve

from tinyfleet_compiler import load_device_class
from tinyfleet_compiler.compile_graph import Identity, compile_graph
from tinyfleet_compiler.dataset import load_dataset
from tinyfleet_compiler.load_model import load_graph
from tinyfleet_compiler.model_inputs import input_specs
from tinyfleet_compiler.quantize.calibrate import calibrate
from tinyfleet_compiler.quantize.ranges import ESTIMATORS
from tinyfleet_compiler.quantize.search import search
from tinyfleet_compiler.report import build_report
from tinyfleet_compiler.report_html import render_report

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "compiler.json"
SHARED = Path(os.environ.get("TINYFLEET_SHARED", ROOT.parent / "shared"))
DEVICE_CLASS = "cortex-m0plus"
"""The portable kernels: a class with wider ones gives some scratch on top of these arenas."""
SAMPLES = 200
NOISE = {
    "kws_dscnn": ((1, 49, 10), 60.0),
    "vww_mobilenetv1_025_96": ((3, 96, 96), 0.3),
    "sww_dscnn1d": ((40, 30, 1), 1.0),
}
STAGES = ("import", "calibrate", "search", "build", "report", "cpu_s")
COLUMNS = (
    *("model", "layers", "params", "macs", *STAGES, "arena", "bound", "image"),
    *("metric", "float", "int8", "agreement"),
)


@dataclass
class Case:
    """A model with its calibration and evaluation arrays."""

    name: str
    model: Path
    calibration: np.ndarray
    evaluation: dict[str, np.ndarray] = field(default_factory=dict)
    metric: str | None = None


@contextmanager
def stage(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.process_time()
    yield
    seconds[name] = time.process_time() - start


def mlperf_cases() -> Iterator[Case]:
    folder = SHARED / "models" / "mlperf_tiny"
    rng = np.random.default_rng(0)
    for name, (shape, spread) in NOISE.items():
        yield Case(
            name, folder / f"{name}_float.onnx", (rng.normal(size=(SAMPLES, *shape)) * spread).astype(np.float32)
        )
    images = np.load(SHARED / "data" / "cifar10_test_subset.npz")
    x = {kind: np.moveaxis(images[f"{kind}_images"], -1, 1).astype(np.float32) for kind in ("calib", "test")}
    resnet = {"x": x["test"], "y": images["test_labels"]}
    yield Case("ic_resnet8", folder / "ic_resnet8_float.onnx", x["calib"], resnet, "top1")
    frames = np.load(folder / "ad_samples.npz")["spectrogram"]
    windows = np.stack([frames[i : i + 5].reshape(-1) for i in range(196)]).astype(np.float32)
    yield Case(
        "ad_autoencoder", folder / "ad_autoencoder_float.onnx", windows[:98], {"x": windows[98:]}, "reconstruction"
    )


def keyword_cases() -> Iterator[Case]:
    folder = SHARED / "models" / "kws_digits"
    calibration, test = np.load(folder / "calibration.npz"), np.load(folder / "test.npz")
    for version in ("v1", "v2", "v2f", "v2g", "v3", "v3d", "v4", "v5", "v6"):
        x = calibration["x_v1" if version == "v1" else "x"]
        yield Case(f"kws_{version}", folder / f"kws_{version}.onnx", x, {"x": test["x"], "y": test["y"]}, "top1")


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """One row of the table; times are CPU seconds of this process."""
    np.savez(folder / "c.npz", x=case.calibration)
    np.savez(folder / "e.npz", allow_pickle=False, **case.evaluation)
    device, seconds = load_device_class(DEVICE_CLASS), dict[str, float]()
    with stage(seconds, "import"):
        graph = load_graph(case.model)
    samples = load_dataset(folder / "c.npz", input_specs(graph))
    data = load_dataset(folder / "e.npz", input_specs(graph)) if case.evaluation else None
    with stage(seconds, "calibrate"):
        observed = calibrate(graph, samples.inputs)
    with stage(seconds, "search"):
        choice = search(graph, observed, samples.inputs, tuple(ESTIMATORS))
    with stage(seconds, "build"):
        identity = Identity(case.name, "v1", device.name, kernels=device.kernels)
        compiled = compile_graph(graph, observed, choice.trial.estimator, identity, choice=choice)
    with stage(seconds, "report"):
        report = build_report(compiled, device, case.model, samples, data, case.metric)
        render_report(report)
    accuracy = report["accuracy"]
    return {
        "model": case.name,
        "layers": len(report["layers"]),
        "params": report["params"],
        "macs": report["macs"],
        **{name: round(value, 2) for name, value in seconds.items()},
        "cpu_s": round(sum(seconds.values()), 2),
        "arena": report["arena_bytes"],
        "bound": report["arena_lower_bound_bytes"],
        "image": report["image_bytes"],
        "metric": accuracy["metric"],
        "float": accuracy["float"],
        "int8": accuracy["quantized"],
        "agreement": accuracy["agreement"],
        "tried": report["quantization"]["tried"],
    }


def show(row: dict[str, Any]) -> str:
    cells = (
        "-" if row[c] is None else f"{row[c]:.4f}" if c in ("float", "int8", "agreement") else row[c] for c in COLUMNS
    )
    return " ".join(f"{cell!s:>{24 if name == 'model' else 11}}" for name, cell in zip(COLUMNS, cells, strict=True))


def growth(folder: Path) -> dict[str, Any]:
    """Rows of the generated family, and by which power of the size the seconds of each stage grow."""
    print("\ngrowth with model size: a generated family, 64 calibration samples")
    rows = []
    for name, model, samples in growing_models(folder):
        rows.append(measure(Case(name, model, samples), folder))
        print(show(rows[-1]), flush=True)
    powers = {}
    for kind, size in (("layers", "layers"), ("channels", "params")):
        family = [row for row in rows if row["model"].startswith(kind)]
        sizes = [float(row[size]) for row in family]
        powers[size] = {stage: round(exponent(sizes, [row[stage] for row in family]), 2) for stage in STAGES}
        print(f"seconds grow with {size} to the power of: {powers[size]}")
    return {"models": rows, "powers": powers}


def pruning(folder: Path) -> list[dict[str, Any]]:
    """Curves of the keyword model; see compiler_pruning.py."""
    source = SHARED / "models" / "kws_digits"
    calibration, test = np.load(source / "calibration.npz"), np.load(source / "test.npz")
    np.savez(folder / "c.npz", x=calibration["x_v1"])
    np.savez(folder / "e.npz", x=test["x"], y=test["y"])
    print("\npruning kws_v1, top1: cut only and repaired, by the samples that chose and by samples nobody looked at")
    print(" ".join(f"{name:>15}" for name in PRUNING_COLUMNS))
    rows = pruning_curves(source / "kws_v1.onnx", folder / "c.npz", folder / "e.npz")
    for row in rows:
        print(show_curve(row), flush=True)
    return rows


def main() -> int:
    """Print the tables and write the JSON; names on the command line choose models, or growth or pruning."""
    if not (SHARED / "models").is_dir():
        print(f"no study models at {SHARED}; set TINYFLEET_SHARED", file=sys.stderr)
        return 1
    wanted = sys.argv[1:]
    print(" ".join(f"{name:>{24 if name == 'model' else 11}}" for name in COLUMNS))
    rows, grown, curves = [], {}, []
    with tempfile.TemporaryDirectory() as folder:
        for case in (*mlperf_cases(), *keyword_cases()):
            if not wanted or case.name in wanted:
                rows.append(measure(case, Path(folder)))
                print(show(rows[-1]), flush=True)
        if not wanted or "growth" in wanted:
            grown = growth(Path(folder))
        if not wanted or "pruning" in wanted:
            curves = pruning(Path(folder))
    if not wanted:
        found = {"device_class": DEVICE_CLASS, "models": rows, "growth": grown, "pruning": curves}
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
