"""Range estimators, fitting of weights, and the search that chooses among them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfleet_compiler import CompileOptions, CompileResult, compile_model, load_device_class, simulate
from tinyfleet_compiler.float_run import run_float
from tinyfleet_compiler.graph import Gemm, Graph
from tinyfleet_compiler.importers.onnx_graph import import_onnx
from tinyfleet_compiler.numerics import dequantize, quantize_multiplier
from tinyfleet_compiler.passes import simplify
from tinyfleet_compiler.quantize.calibrate import Observed, calibrate
from tinyfleet_compiler.quantize.fake import LayerView, walk_quantized
from tinyfleet_compiler.quantize.fit import fixed, nearest, towards_base, with_bias_correction
from tinyfleet_compiler.quantize.fit_changes import with_cheap_changes
from tinyfleet_compiler.quantize.parameters import Quantization, choose_parameters
from tinyfleet_compiler.quantize.ranges import ESTIMATORS
from tinyfleet_compiler.quantize.search import CORRECTED, delta_bytes, search
from tinyfleet_compiler.quantize.weights import (
    MULTIPLIER_STEP,
    BaseWeights,
    IntegerWeights,
    WeightBlock,
    on_multiplier_grid,
    round_weights,
)
from unit.compiler.onnx_models import node, save_model, small_cnn

HOST = load_device_class("host")


def graph_of(path: Path) -> Graph:
    imported = import_onnx(path)
    assert imported.graph is not None
    return simplify(imported.graph)


def samples(count: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 8, 6, 2)).astype(np.float32)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_estimators_stay_inside_what_was_seen(name: str) -> None:
    values = np.random.default_rng(1).normal(size=20_000).astype(np.float32)
    low, high = ESTIMATORS[name](Observed(float(values.min()), float(values.max()), values))
    assert values.min() <= low < -2.0
    assert 2.0 < high <= values.max()


@pytest.mark.parametrize("name", ["percentile", "mse", "entropy"])
def test_estimators_cut_a_lone_outlier(name: str) -> None:
    values = np.random.default_rng(1).normal(size=200_000).astype(np.float32)
    values[0] = 40.0
    assert ESTIMATORS[name](Observed(float(values.min()), 40.0, values))[1] < 36.0
    assert ESTIMATORS["min-max"](Observed(float(values.min()), 40.0, values))[1] == 40.0


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_estimators_bear_a_constant_tensor(name: str) -> None:
    low, high = ESTIMATORS[name](Observed(0.0, 0.0, np.zeros(100, np.float32)))
    assert low == high == 0.0


def test_the_walk_computes_what_the_image_computes(tmp_path: Path) -> None:
    graph, x = graph_of(small_cnn(tmp_path / "m.onnx")), samples()
    parameters = choose_parameters(graph, calibrate(graph, {"x": x}), "min-max")
    outputs, _ = walk_quantized(graph, {"x": x}, parameters, nearest())
    image = compiled(tmp_path, small_cnn(tmp_path / "m.onnx"), x, estimator="min-max")
    got = dequantize(simulate(image_of(image), x)["y"], 1 / 256, -128)
    steps = np.abs(outputs["y"] - got) * 256
    assert steps.max() <= 3
    assert (steps == 0).mean() > 0.8


def test_bias_correction_restores_the_mean_of_every_channel(tmp_path: Path) -> None:
    graph, x = graph_of(small_cnn(tmp_path / "m.onnx")), samples()
    parameters = choose_parameters(graph, calibrate(graph, {"x": x}), "min-max")
    before: list[float] = []
    after: list[float] = []

    def watched(view: LayerView) -> IntegerWeights:
        for found, fitter in ((before, nearest()), (after, with_bias_correction(nearest()))):
            got = view.run(fitter(view).as_node(view.node))
            found.append(float(np.abs((got - view.wanted).reshape(-1, got.shape[-1]).mean(axis=0)).max()))
        return with_bias_correction(nearest())(view)

    walk_quantized(graph, {"x": x}, parameters, watched)
    assert max(after) < 1e-5 < max(before)


def lent(rows: np.ndarray, scale: float) -> BaseWeights:
    count = len(rows)
    block = WeightBlock(
        rows.astype(np.int8), np.zeros(count, np.int32), np.full(count, 1 << 30, np.int32), np.zeros(count, np.int8)
    )
    # A multiplier of 2^30 is 0.5: weight scale = 0.5 * result / source.
    return BaseWeights(block, 1.0, 2.0 * scale)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from([0.6, 0.75, 1.0, 1.4]))
def test_rounding_towards_a_base_keeps_its_bound_and_zeros(seed: int, bound: float) -> None:
    rng = np.random.default_rng(seed)
    old = rng.integers(-127, 128, (3, 20))
    old[:, 0] = 127
    real = np.clip(old + rng.normal(0, 1.5, old.shape), -127, 127)
    real[rng.random(old.shape) < 0.2] = 0.0
    real[:, 0] = 126.8
    weights = (real * 0.01).astype(np.float32)
    gemm = Gemm("g", ("x",), "y", weights=weights, bias=np.zeros(3, np.float32))
    view = LayerView(
        Graph((gemm,), ("x",), ("y",), {}), gemm, Quantization(1.0, 0), weights, weights, lambda n: weights
    )
    base = {"y": lent(old, 0.01)}
    plain, moved = nearest(base.get)(view), towards_base(base.get, bound)(view)
    assert moved.kept.all()
    assert (np.abs(moved.rows - weights.astype(np.float64) / moved.scales[:, None]) <= bound + 1e-9).all()
    assert (moved.rows[plain.rows == 0] == 0).all()
    assert bound >= 1.0 or (np.abs(moved.rows - old) <= np.abs(plain.rows - old)).all()
    assert delta_bytes({"y": moved}, base) <= delta_bytes({"y": plain}, base) + 2


@pytest.mark.parametrize("bound", [1.0, 1.5, 2.25])
def test_a_layer_that_moved_far_changes_in_multiples(bound: float) -> None:
    rng = np.random.default_rng(3)
    old = rng.integers(-60, 61, (8, 200))
    real = old + rng.normal(0, 9.0, old.shape)
    old[:, 0], real[:, 0] = 127, 126.8
    weights = (real * 0.01).astype(np.float32)
    gemm = Gemm("g", ("x",), "y", weights=weights, bias=np.zeros(8, np.float32))
    view = LayerView(
        Graph((gemm,), ("x",), ("y",), {}), gemm, Quantization(1.0, 0), weights, weights, lambda n: weights
    )
    base = {"y": lent(old, 0.01)}
    plain, moved = nearest(base.get)(view), towards_base(base.get, bound)(view)
    assert (np.abs(moved.rows - weights.astype(np.float64) / moved.scales[:, None]) <= bound + 1e-9).all()
    assert not ((moved.rows - old)[moved.rows != 0] % np.floor(2 * bound)).any()
    saved = delta_bytes({"y": plain}, base) - delta_bytes({"y": moved}, base)
    assert saved >= 0.9 * old.size * np.log2(np.floor(2 * bound)) / 8


def test_a_price_for_bits_gives_fewer_of_them_and_less_error_than_a_bound() -> None:
    """Inputs go together, as pixels of one feature do: the weights that change take over what the others leave."""
    rng = np.random.default_rng(4)
    x = (rng.normal(size=(600, 6)) @ rng.normal(size=(6, 48)) + rng.normal(size=(600, 48))).astype(np.float32)
    old = rng.integers(-90, 91, (16, 48))
    old[:, 0] = 127
    real = np.clip(old + rng.normal(0, 2.5, old.shape), -126, 126)
    real[rng.random(old.shape) < 0.1] = 0.0
    real[:, 0] = 126.8
    weights = (real * 0.01).astype(np.float32)
    gemm = Gemm("g", ("x",), "y", weights=weights, bias=np.zeros(16, np.float32))
    view = LayerView(
        Graph((gemm,), ("x",), ("y",), {}), gemm, Quantization(1.0, 0), x, x @ weights.T, lambda n: x @ n.weights.T
    )
    base = {"y": lent(old, 0.01)}
    bounded = towards_base(base.get, 2.0)
    errors, sizes = [], []
    for fitter in (bounded, with_cheap_changes(bounded, base.get, 2.0)):
        found = fitter(view)
        off = view.run(found.as_node(gemm)) - view.wanted
        errors.append(float(np.square(off - off.mean(axis=0)).mean()))
        sizes.append(delta_bytes({"y": found}, base))
        assert np.abs(found.rows).max() <= 127
        assert (found.rows[real == 0.0] == 0).all()
    assert errors[1] < 0.7 * errors[0]
    assert sizes[1] < 0.9 * sizes[0]


def test_channels_with_their_own_scale_are_rounded_to_nearest() -> None:
    weights = np.full((1, 4), 5.0, np.float32)
    gemm = Gemm("g", ("x",), "y", weights=weights, bias=np.zeros(1, np.float32))
    view = LayerView(
        Graph((gemm,), ("x",), ("y",), {}), gemm, Quantization(1.0, 0), weights, weights, lambda n: weights
    )
    found = towards_base({"y": lent(np.full((1, 4), 3), 0.01)}.get, 0.75)(view)
    assert not found.kept.any()
    assert (found.rows == 127).all()


def compiled(
    folder: Path, model: Path, x: np.ndarray, *, base: bytes | None = None, estimator: str = "auto"
) -> CompileResult:
    np.savez(folder / "c.npz", x=np.moveaxis(x, -1, 1))
    options = CompileOptions(base=base, estimator=estimator)
    return compile_model(
        model, HOST, name="m", version="v", calibration=folder / "c.npz", evaluation=None, options=options
    )


def image_of(result: CompileResult):  # type: ignore[no-untyped-def]
    from tinyfleet_compiler import read_image

    return read_image(result.image)


def test_the_search_reports_what_it_tried_and_takes_the_nearest(tmp_path: Path) -> None:
    result = compiled(tmp_path, small_cnn(tmp_path / "m.onnx"), samples())
    tried = result.report["quantization"]["tried"]
    plain = sorted((t for t in tried if not t["bias_correction"]), key=lambda t: t["error"])
    assert {t["estimator"] for t in plain} == set(ESTIMATORS)
    corrected = {t["estimator"] for t in tried if t["bias_correction"]}
    assert corrected == {t["estimator"] for t in plain[:CORRECTED]}
    (chosen,) = (t for t in tried if t["chosen"])
    assert chosen["error"] == min(t["error"] for t in tried)
    assert chosen["estimator"] == result.report["estimator"]
    assert "Quantisation" in result.report_html
    assert compiled(tmp_path, small_cnn(tmp_path / "m.onnx"), samples()).image == result.image


def test_chosen_weights_are_those_of_the_image(tmp_path: Path) -> None:
    graph, x = graph_of(small_cnn(tmp_path / "m.onnx")), samples()
    choice = search(graph, calibrate(graph, {"x": x}), {"x": x}, tuple(ESTIMATORS))
    result = compiled(tmp_path, small_cnn(tmp_path / "m.onnx"), x)
    outputs, _ = walk_quantized(
        graph,
        {"x": x},
        choose_parameters(graph, calibrate(graph, {"x": x}), choice.trial.estimator),
        fixed(choice.weights),
    )
    got = dequantize(simulate(image_of(result), x)["y"], 1 / 256, -128)
    assert (np.abs(outputs["y"] - got) * 256).max() <= 3


def dense(path: Path, weights: np.ndarray) -> Path:
    return save_model(path, [node("MatMul", ["x", "w"])], [1, 32], {"w": weights.astype(np.float32)})


def dense_result(folder: Path, weights: np.ndarray, base: bytes | None = None, **options: Any) -> CompileResult:
    x = np.random.default_rng(5).normal(size=(80, 32)).astype(np.float32)
    np.savez(folder / "c.npz", x=x)
    return compile_model(
        dense(folder / "m.onnx", weights),
        HOST,
        name="m",
        version="v",
        calibration=folder / "c.npz",
        options=CompileOptions(base=base, **options),
    )


def multipliers_of(result: CompileResult) -> np.ndarray:
    image = image_of(result)
    record = next(op for op in image.ops if op.weights)
    return image.channels(record, 8)[1].astype(np.int64)


def test_new_scales_beside_a_base_have_multipliers_a_byte_away(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    old = rng.uniform(-1, 1, size=(32, 8))
    grown = old * np.where(np.arange(8) % 2, 1.0, 1.06)  # beyond their scales, but not beyond the output's
    base = dense_result(tmp_path, old)
    before = multipliers_of(base)
    after = multipliers_of(dense_result(tmp_path, grown, base.image, base_rounding=False))
    assert ((before != after) == (np.arange(8) % 2 == 0)).all()
    assert (((after - before) % MULTIPLIER_STEP) == 0).all()
    alone = multipliers_of(dense_result(tmp_path, grown))
    assert (((alone - before) % MULTIPLIER_STEP) != 0).any()


@pytest.mark.parametrize("factor", [1.0, 1.004, 1.3, 1.999, 2.0, 3.7, 0.3])
def test_scales_on_the_multiplier_grid_only_grow_and_hardly(factor: float) -> None:
    multipliers = np.random.default_rng(1).integers(1 << 30, 1 << 31, 200)
    multipliers[:3] = (1 << 30, (1 << 31) - 1, (1 << 31) - (1 << 22))
    block = WeightBlock(
        np.ones((200, 4), np.int8), np.zeros(200, np.int64), multipliers.astype(np.int32), np.full(200, -7, np.int8)
    )
    base = BaseWeights(block, 0.02, 0.11)
    wanted = base.scales * factor
    found = on_multiplier_grid(wanted, base)
    assert (found >= wanted * (1 - 1e-12)).all()
    assert (found <= wanted * (1 + MULTIPLIER_STEP / 2**30 + 1e-9)).all()
    pairs = [quantize_multiplier(0.02 * scale / 0.11) for scale in found]
    assert all((m - old) % MULTIPLIER_STEP == 0 for (m, _), old in zip(pairs, multipliers.tolist(), strict=True))


def test_a_base_may_lend_its_scales_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    old = rng.normal(size=(32, 8))
    base = dense_result(tmp_path, old).image
    result = dense_result(tmp_path, old + rng.normal(size=old.shape) * 0.04, base, base_rounding=False)
    assert {t["rounding_lsb"] for t in result.report["quantization"]["tried"]} == {0.5}
    assert not any(t["own_scales"] for t in result.report["quantization"]["tried"])


def test_a_large_step_is_rounded_towards_the_base(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    old = rng.normal(size=(32, 8))
    base = dense_result(tmp_path, old).image
    result = dense_result(tmp_path, old + rng.normal(size=old.shape) * 0.04, base)
    tried = result.report["quantization"]["tried"]
    (chosen,) = (t for t in tried if t["chosen"])
    assert chosen["rounding_lsb"] >= 0.75
    assert chosen["kept"] >= 0.9 * min((t for t in tried if t["rounding_lsb"] == 0.5), key=lambda t: t["error"])["kept"]
    assert "improvement kept" in result.report_html


def test_a_step_the_rounding_would_swallow_is_kept(tmp_path: Path) -> None:
    """Every weight within tolerance, and yet the update would be gone."""
    rng = np.random.default_rng(0)
    old = rng.normal(size=(32, 8))
    base = dense_result(tmp_path, old).image
    result = dense_result(tmp_path, old + rng.normal(size=old.shape) * 0.012, base)
    tried = result.report["quantization"]["tried"]
    (chosen,) = (t for t in tried if t["chosen"])
    swallowed = min((t for t in tried if t["rounding_lsb"] == 0.75), key=lambda t: t["error"])
    assert chosen["rounding_lsb"] == 0.5
    assert swallowed["kept"] < chosen["kept"] * 0.9


def test_few_samples_fit_and_judge_alike(tmp_path: Path) -> None:
    assert compiled(tmp_path, small_cnn(tmp_path / "m.onnx"), samples(1)).report["quantization"]["tried"]


def test_the_costliest_layer_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.normal(size=(16, 16)).astype(np.float32), rng.normal(size=(16, 16)).astype(np.float32)
    bad[0] *= 3000.0  # One input dwarfs the others in every channel, so their weights vanish.
    first = good.copy()
    first[:, 0] *= 1e-4
    nodes = [node("MatMul", ["x", "first"], "a"), node("MatMul", ["a", "bad"], "b"), node("MatMul", ["b", "good"], "y")]
    model = save_model(tmp_path / "m.onnx", nodes, [1, 16], {"first": first, "bad": bad, "good": good})
    np.savez(tmp_path / "c.npz", x=rng.normal(size=(40, 16)).astype(np.float32))
    result = compile_model(model, HOST, name="m", version="v", calibration=tmp_path / "c.npz")
    named = result.report["quantization"]["costliest_layers"]
    noisiest = max(result.report["layers"], key=lambda row: row["noise_added"])
    assert named[0] == noisiest["name"] == result.report["layers"][1]["name"]
    assert named[0] in result.report_html


def test_the_float_side_of_a_walk_is_float(tmp_path: Path) -> None:
    graph, x = graph_of(small_cnn(tmp_path / "m.onnx")), samples(20)
    parameters = choose_parameters(graph, calibrate(graph, {"x": x}), "min-max")
    last: list[np.ndarray] = []

    def watched(view: LayerView) -> IntegerWeights:
        last.append(view.wanted)
        return round_weights(view.node.weights, view.node.bias, view.source)

    walk_quantized(graph, {"x": x}, parameters, watched)
    logits = run_float(replace(graph, nodes=graph.nodes[:-1], outputs=(graph.nodes[-2].output,)), {"x": x})
    np.testing.assert_allclose(last[-1].reshape(20, -1), next(iter(logits.values())).reshape(20, -1), atol=1e-5)
