"""Whole models: accuracy and sizes of the study models; skipped where the study data is not there."""

import os
from pathlib import Path

import numpy as np
import pytest

from tinyfleet_compiler import check_model, compile_model, load_device_class, read_image
from tinyfleet_compiler.build_ops import Op, build_ops
from tinyfleet_compiler.graph import Graph, elements
from tinyfleet_compiler.load_model import load_graph
from tinyfleet_compiler.plan_memory import plan_memory
from tinyfleet_compiler.quantize.calibrate import Observed
from tinyfleet_compiler.quantize.parameters import choose_parameters
from tinyfleet_compiler.simulate import golden_crc

SHARED = Path(os.environ.get("TINYFLEET_SHARED", Path(__file__).resolve().parents[4] / "shared"))
MODELS = SHARED / "models"
needs_models = pytest.mark.skipif(not MODELS.is_dir(), reason=f"no study models at {MODELS}; set TINYFLEET_SHARED")
M4 = load_device_class("cortex-m4")


def convert(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


KEYWORDS = {"v1": 0.955, "v2": None, "v3": None, "v4": None, "v5": None, "v6": None}
"""Version -> float accuracy where it is asserted."""


@needs_models
@pytest.mark.parametrize("version", KEYWORDS)
def test_keyword_spotting_loses_at_most_one_sample_in_600(tmp_path: Path, version: str) -> None:
    test, calibration = np.load(MODELS / "kws_digits/test.npz"), np.load(MODELS / "kws_digits/calibration.npz")
    result = compile_model(
        MODELS / f"kws_digits/kws_{version}.onnx",
        M4,
        name="kws",
        version=version,
        calibration=convert(tmp_path / "c.npz", x=calibration["x_v1" if version == "v1" else "x"]),
        evaluation=convert(tmp_path / "e.npz", x=test["x"], y=test["y"]),
    )
    accuracy = result.report["accuracy"]
    assert (accuracy["metric"], accuracy["samples"]) == ("top1", 600)
    assert KEYWORDS[version] is None or accuracy["float"] == pytest.approx(KEYWORDS[version])
    assert accuracy["quantized"] >= accuracy["float"] - 1 / 600
    assert accuracy["agreement"] >= 0.99
    assert result.report["arena_bytes"] <= 16_000


CASES = {
    "kws_dscnn": ((1, 49, 10), 60.0, 16_000),
    "vww_mobilenetv1_025_96": ((3, 96, 96), 0.3, 55_296),
    "ad_autoencoder": ((640,), 20.0, 768),
    "ic_resnet8": ((3, 32, 32), 60.0, 49_152),
    "sww_dscnn1d": ((40, 30, 1), 1.0, 6_656),
}


@needs_models
@pytest.mark.parametrize("name", sorted(CASES))
def test_mlperf_tiny_models_compile_within_their_memory(tmp_path: Path, name: str) -> None:
    shape, spread, arena = CASES[name]
    model = MODELS / "mlperf_tiny" / f"{name}_float.onnx"
    assert check_model(model, M4).fits
    x = (np.random.default_rng(0).normal(size=(4, *shape)) * spread).astype(np.float32)
    result = compile_model(model, M4, name=name, version="v1", calibration=convert(tmp_path / "c.npz", x=x))
    assert result.report["arena_bytes"] <= arena
    image = read_image(result.image)
    assert golden_crc(image, image.golden.seeds) == image.golden.crc32
    payload = result.report["params"] + 3 * image.header["channel_count"] + 5 * image.header["channel_count"]
    assert len(result.image) <= payload + image.header["golden_bytes"] + 1024 + 64 * len(image.ops)


@needs_models
def test_anomaly_scores_are_reconstruction_errors(tmp_path: Path) -> None:
    samples = np.load(MODELS / "mlperf_tiny/ad_samples.npz")
    frames = samples["spectrogram"]
    windows = np.stack([frames[i : i + 5].reshape(-1) for i in range(196)]).astype(np.float32)
    result = compile_model(
        MODELS / "mlperf_tiny/ad_autoencoder_float.onnx",
        M4,
        name="ad",
        version="v1",
        calibration=convert(tmp_path / "c.npz", x=windows[:98]),
        evaluation=convert(tmp_path / "e.npz", x=windows[98:]),
        metric="reconstruction",
    )
    accuracy = result.report["accuracy"]
    assert accuracy["float"] == pytest.approx(float(samples["float_onnx_mse"][98:].mean()), rel=1e-3)
    assert abs(accuracy["quantized"] - accuracy["float"]) <= 0.05


@needs_models
def test_image_classification_agrees_with_float(tmp_path: Path) -> None:
    images = np.load(SHARED / "data/cifar10_test_subset.npz")
    calibration, test = (np.moveaxis(images[f"{kind}_images"], -1, 1).astype(np.float32) for kind in ("calib", "test"))
    result = compile_model(
        MODELS / "mlperf_tiny/ic_resnet8_float.onnx",
        M4,
        name="ic",
        version="v1",
        calibration=convert(tmp_path / "c.npz", x=calibration[::4]),
        evaluation=convert(tmp_path / "e.npz", x=test, y=images["test_labels"]),
    )
    accuracy = result.report["accuracy"]
    assert accuracy["quantized"] >= accuracy["float"] - 0.01
    assert accuracy["agreement"] >= 0.975


ARENAS = {"kws_dscnn": 9_000, "ic_resnet8": 35_000, "vww_mobilenetv1_025_96": 38_000, "sww_dscnn1d": 4_400}


@needs_models
@pytest.mark.parametrize("name", sorted(ARENAS))
def test_plans_are_proven_and_below_the_classic_minimum(name: str) -> None:
    graph = load_graph(MODELS / "mlperf_tiny" / f"{name}_float.onnx")
    ops, sizes = plain_ops(graph)
    plan = plan_memory(ops, sizes, graph.inputs, [graph.root(output) for output in graph.outputs])
    assert plan.arena_bytes == plan.lower_bound_bytes <= ARENAS[name]


def plain_ops(graph: Graph) -> tuple[tuple[Op, ...], dict[str, int]]:
    """Operators of portable kernels, without any scratch, and tensor sizes."""
    seen = Observed(-1.0, 1.0, np.linspace(-1, 1, 64, dtype=np.float32))
    names = [*graph.inputs, *(node.output for node in graph.nodes)]
    parameters = choose_parameters(graph, dict.fromkeys(names, seen), "min-max")
    return build_ops(graph, parameters), {name: elements(graph.shapes[name]) for name in names}
