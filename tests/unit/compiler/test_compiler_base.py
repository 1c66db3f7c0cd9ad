"""Compiling against a base on the keyword family: fewer bytes, the improvement kept, misfits partly reused."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyfleet_compiler import CompileOptions, compile_model, load_device_class, read_image
from tinyfleet_compiler.quantize.base_grid import BIAS_STEP, near_base_bias
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.quantize.search import (
    BASE_BOUNDS_LSB,
    KEEP_POINTS_SHARE,
    SPARED_LAYERS,
    SPARED_TRIALS,
    _gains,
)
from tinyfleet_compiler.quantize.weights import BaseWeights, IntegerWeights, WeightBlock
from tinyfleet_ota import make_delta
from tinyfleet_service.cli.commands_delta import image_sections
from unit.compiler.test_compiler_models import MODELS, needs_models

FOLDER = MODELS / "kws_digits"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    calibration, test = np.load(FOLDER / "calibration.npz"), np.load(FOLDER / "test.npz")
    np.savez(folder / "old.npz", x=calibration["x_v1"][::12])
    np.savez(folder / "new.npz", x=calibration["x"][::12])
    np.savez(folder / "test.npz", x=test["x"][::4], y=test["y"][::4])
    (folder / "v1.tfm").write_bytes(compiled(folder, "v1", None, estimator="percentile").image)
    return folder


def compiled(folder: Path, version: str, base: bytes | None, *, estimator: str = "auto", measured: bool = True) -> Any:
    meter = patch_from(base) if base is not None and measured else None
    options = CompileOptions(estimator=estimator, base=base, measure_delta=meter)
    return compile_model(
        FOLDER / f"kws_{version}.onnx",
        load_device_class("cortex-m0plus"),
        name="kws",
        version=version,
        calibration=folder / ("old.npz" if version == "v1" else "new.npz"),
        evaluation=folder / "test.npz",
        options=options,
    )


def patch_from(base: bytes) -> Any:
    return partial(patch_bytes, base)


@cache
def patch_bytes(base: bytes, image: bytes) -> int:
    return len(make_delta(base, image, image_sections(base), image_sections(image)))


@needs_models
def test_a_fine_tune_travels_small_and_stays_good(work: Path) -> None:
    base = (work / "v1.tfm").read_bytes()
    result = compiled(work, "v2f", base)
    found = result.report["base"]
    free = compiled(work, "v2f", None, estimator="percentile")
    assert found["delta_bytes"] == patch_from(base)(result.image) < 0.8 * patch_from(base)(free.image)
    assert found["delta_bytes"] <= 2_500
    assert result.report["accuracy"]["quantized"] >= free.report["accuracy"]["quantized"] - 1 / 150
    rows = [row for row in found["choices"] if not row["spared_layer"]]
    beyond = [row["rounding_beyond_nearest_lsb"] for row in rows]
    assert beyond[:2] == [0.0, 0.0]
    assert 0.5 in beyond
    assert len(beyond) <= 2 + 2 * len(BASE_BOUNDS_LSB)
    assert beyond[1:] == sorted(beyond[1:])
    assert [row["scales"] for row in rows] == ["own", *["base"] * (len(rows) - 1)]
    sizes = [row["weight_change_bytes_estimate"] for row in rows if row["weighed"]]
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True), "one that saves nothing ends the walk"
    (taken,) = (row for row in found["choices"] if row["chosen"])
    bytes_taken, plain = taken["weight_change_bytes_estimate"], rows[1]
    for row in found["choices"]:  # whatever is smaller gave too much up
        lost = row["gain_points"] < KEEP_POINTS_SHARE * plain["gain_points"]
        lost |= row["improvement_kept"] < 0.9 * plain["improvement_kept"]
        assert row is not taken or not lost
        assert lost or row["weight_change_bytes_estimate"] >= bytes_taken
    assert all(row["gain_points"] is not None for row in rows)
    spared = [row for row in found["choices"] if row["spared_layer"]]
    assert 0 < len(spared) <= SPARED_TRIALS * SPARED_LAYERS
    assert {row["spared_layer"] for row in spared} <= {layer["name"] for layer in result.report["layers"]}
    assert f"not {spared[0]['spared_layer']}" in result.report_html
    assert "<h2>Against a base</h2>" in result.report_html


@needs_models
def test_a_tiny_step_keeps_its_improvement(work: Path) -> None:
    """Rounding within half a step more would take nearly all bytes, and the update with them."""
    found = compiled(work, "v2g", (work / "v1.tfm").read_bytes(), measured=False).report["base"]
    plain = next(r for r in found["choices"] if r["scales"] == "base" and r["rounding_beyond_nearest_lsb"] == 0.0)
    (taken,) = (row for row in found["choices"] if row["chosen"])
    assert taken["improvement_kept"] >= 0.9 * plain["improvement_kept"]
    assert taken["gain_points"] >= 0.9 * plain["gain_points"]


@needs_models
def test_layers_of_other_shapes_travel_whole_and_the_others_are_reused(work: Path) -> None:
    result = compiled(work, "v6", (work / "v1.tfm").read_bytes(), estimator="percentile")
    found = result.report["base"]
    assert (found["layers_lent"], found["layers"]) == (8, 10)
    assert "pw4, fc" in found["notes"][0]
    assert found["delta_bytes"] < 0.6 * result.report["image_bytes"]
    image, base = read_image(result.image), read_image((work / "v1.tfm").read_bytes())
    assert image.scales[0] == base.scales[0]


def test_gain_over_the_base_decides_where_there_is_any() -> None:
    assert _gains(None, 2.0)
    assert _gains(1.9, 2.0)
    assert not _gains(1.5, 2.0)
    assert _gains(-0.5, -0.5)
    assert not _gains(-0.6, -0.5)


def test_biases_go_to_a_grid_around_the_base() -> None:
    rng = np.random.default_rng(2)
    rows = rng.integers(-127, 128, (32, 20)).astype(np.int8)
    old = rng.integers(-5000, 5000, 32).astype(np.int32)
    block = WeightBlock(rows, old, np.full(32, 1 << 30, np.int32), np.zeros(32, np.int8))
    source, result = Quantization(0.02, 5), Quantization(0.1, -128)
    scales, kept = np.full(32, 0.01), np.arange(32) % 2 == 0
    chosen = IntegerWeights(rows.astype(np.float64), scales, np.zeros(32), kept)
    wanted = old + 5.0 * rows.astype(np.float64).sum(axis=1) + rng.integers(-900, 900, 32)
    base = BaseWeights(block, source.scale, result.scale)
    moved = near_base_bias(wanted, chosen, base, source, result)
    step = result.scale / (source.scale * 0.01)  # sums that make one output step
    assert (np.abs(moved - wanted) <= step * BIAS_STEP / 2).all()
    change = moved - old - 5.0 * rows.astype(np.float64).sum(axis=1)
    assert (change % 32 == 0).all()
    other = near_base_bias(wanted, chosen, base, Quantization(0.03, 5), result)
    assert (other == wanted).all()
