"""Mixed types and the search: what it may change, what it keeps, what it says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyfleet_compiler import Budgets, CompileOptions, DatasetError, compile_model, load_device_class, read_image
from tinyfleet_compiler.compile_graph import Compiled, Identity, compile_graph
from tinyfleet_compiler.float_run import run_float
from tinyfleet_compiler.graph import Conv, Graph
from tinyfleet_compiler.load_model import load_graph
from tinyfleet_compiler.numerics import dequantize
from tinyfleet_compiler.operators import Element, OpCode
from tinyfleet_compiler.passes.equalize_layers import equalize_layers
from tinyfleet_compiler.passes.mix_types import can_be_wide, mix_types
from tinyfleet_compiler.quantize.calibrate import calibrate
from tinyfleet_compiler.quantize.fake import LayerView, float_layers, walk_quantized
from tinyfleet_compiler.quantize.fit import nearest, with_bias_correction
from tinyfleet_compiler.quantize.fit_rounding import with_best_rounding
from tinyfleet_compiler.quantize.parameters import choose_parameters
from tinyfleet_compiler.quantize.weights import IntegerWeights
from tinyfleet_compiler.simulate import simulate
from unit.compiler.onnx_models import node, save_model, save_samples, small_cnn

HOST = load_device_class("host")


def mixed(graph: Graph, x: dict[str, np.ndarray], wide: frozenset[str]) -> Compiled:
    typed, copies = mix_types(graph, wide)
    observed = calibrate(graph, x)
    observed |= {new: observed[old] for new, old in copies.items()}
    return compile_graph(typed, observed, "min-max", Identity("m", "v", "host"))


def everything(graph: Graph) -> frozenset[str]:
    return frozenset(n.output for n in graph.nodes if can_be_wide(n))


def noise(compiled: Compiled, graph: Graph, x: dict[str, np.ndarray]) -> float:
    tensor = compiled.image.outputs[0]
    got = dequantize(simulate(compiled.image, x)[tensor.name], tensor.scale, tensor.zero_point)
    return float(np.abs(got - next(iter(run_float(graph, x).values()))).max() / tensor.scale)


def test_wide_layers_are_nearer_to_float(tmp_path: Path) -> None:
    graph = load_graph(small_cnn(tmp_path / "m.onnx"))
    x = {"x": np.random.default_rng(1).normal(size=(40, 8, 6, 2)).astype(np.float32)}
    # The inputs are on their int8 grid, so that all noise is the layers'.
    narrow = mixed(graph, x, frozenset())
    q = narrow.image.inputs[0]
    x = {
        "x": dequantize(
            np.random.default_rng(2).integers(-128, 128, (40, 8, 6, 2)).astype(np.int8), q.scale, q.zero_point
        )
    }
    whole = mixed(graph, x, everything(graph))
    assert {OpCode.CONV_2D_INT16, OpCode.DEPTHWISE_CONV_2D_INT16, OpCode.ADD_INT16, OpCode.SOFTMAX_INT16} <= {
        op.code for op in whole.image.ops
    }
    assert [t.element for t in (*whole.image.inputs, *whole.image.outputs)] == [Element.INT8] * 2
    # What is left is the rounding of weights and of the output.
    assert noise(whole, graph, x) < 0.8 * noise(mixed(graph, x, frozenset()), graph, x)


@pytest.mark.parametrize("seed", range(6))
def test_any_mix_of_types_computes_the_model(tmp_path: Path, seed: int) -> None:
    """Plans are verified, images read back, and no mix is further from float than int8 alone may be."""
    rng = np.random.default_rng(seed)
    graph = load_graph(small_cnn(tmp_path / "m.onnx", seed=seed))
    x = {"x": rng.normal(size=(20, 8, 6, 2)).astype(np.float32)}
    wide = frozenset(name for name in everything(graph) if rng.random() < 0.5)
    assert noise(mixed(graph, x, wide), graph, x) <= 16.0


def test_equalising_keeps_the_function(tmp_path: Path) -> None:
    graph = load_graph(small_cnn(tmp_path / "m.onnx"))
    wild = [
        replace(n, weights=n.weights * 2.0 ** np.arange(-3, len(n.weights) - 3).reshape(-1, 1, 1, 1))
        if isinstance(n, Conv) and n.groups == 6
        else n
        for n in graph.nodes
    ]
    graph = graph.with_nodes(wild)
    x = {"x": np.random.default_rng(1).normal(size=(12, 8, 6, 2)).astype(np.float32)}
    equal = equalize_layers(graph, x)
    assert any(a is not b for a, b in zip(equal.nodes, graph.nodes, strict=True))
    before, after = (next(iter(run_float(g, x).values())) for g in (graph, equal))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_best_rounding_lowers_every_layers_error(tmp_path: Path) -> None:
    graph = load_graph(small_cnn(tmp_path / "m.onnx"))
    x = {"x": np.random.default_rng(1).normal(size=(60, 8, 6, 2)).astype(np.float32)}
    errors: dict[str, list[float]] = {}

    def fit(view: LayerView) -> IntegerWeights:
        plain = nearest(element=Element.INT4)(view)
        best = with_best_rounding(nearest(element=Element.INT4))(view)
        assert np.abs(best.rows).max() <= 7
        assert (np.abs(best.rows - plain.rows) <= 1).all()
        for chosen in (plain, best):
            off = (view.run(chosen.as_node(view.node)) - view.wanted).reshape(-1, view.wanted.shape[-1])
            errors.setdefault(view.node.output, []).append(float(np.square(off - off.mean(axis=0)).mean()))
        return best

    walk_quantized(graph, x, choose_parameters(graph, calibrate(graph, x), "min-max"), fit)
    assert all(best < plain for plain, best in errors.values())


def test_walks_over_the_same_inputs_share_their_float_side(tmp_path: Path) -> None:
    graph = load_graph(small_cnn(tmp_path / "m.onnx"))
    x = {"x": np.random.default_rng(1).normal(size=(12, 8, 6, 2)).astype(np.float32)}
    parameters = choose_parameters(graph, calibrate(graph, x), "min-max")
    fit, layers = with_best_rounding(with_bias_correction(nearest())), float_layers(graph, x, 1 << 20)
    assert layers is not None
    alone, shared = walk_quantized(graph, x, parameters, fit), walk_quantized(graph, x, parameters, fit, layers=layers)
    for name, outputs in alone[0].items():
        np.testing.assert_array_equal(shared[0][name], outputs)
    for name, weights in alone[1].items():
        np.testing.assert_array_equal(shared[1][name].rows, weights.rows)
        np.testing.assert_array_equal(shared[1][name].bias, weights.bias)
    assert float_layers(graph, x, 100) is None, "too many to keep"


def searched(folder: Path, budgets: Budgets, **more: Any) -> Any:
    model, samples = small_cnn(folder / "m.onnx"), save_samples(folder / "c.npz", (2, 8, 6), 64)
    options = CompileOptions(search=budgets, **more)
    return compile_model(model, HOST, name="m", version="v", calibration=samples, options=options)


def test_a_flash_budget_is_met_by_int4_weights(tmp_path: Path) -> None:
    plain = searched(tmp_path, Budgets())
    assert not plain.report["quantization"]["search"]["int4_layers"]
    limit = plain.report["image_bytes"] - 100
    result = searched(tmp_path, Budgets(flash_bytes=limit))
    found = result.report["quantization"]["search"]
    assert len(result.image) <= limit
    assert found["met"]["flash"]
    assert found["int4_layers"]
    kept = [step for step in found["steps"] if step["kept"]]
    assert len(kept) == 1
    assert kept[0]["image_bytes"] == len(result.image)
    assert kept[0]["arena_bytes"] == result.report["arena_bytes"]
    assert any(op.code is OpCode.FULLY_CONNECTED_INT4 for op in read_image(result.image).ops)
    assert "held out" in found["judged_on"]
    assert "int4 weights in" in result.report_html


def test_an_accuracy_budget_buys_int16_within_the_arena(tmp_path: Path) -> None:
    found = searched(tmp_path, Budgets(accuracy_points=0.0), labels=()).report["quantization"]["search"]
    loss = [step["lost_points"] for step in found["steps"] if step["kept"]]
    assert found["met"]["accuracy"] == (loss == [0.0])
    tight = Budgets(accuracy_points=0.0, arena_bytes=found["steps"][0]["arena_bytes"])
    found = searched(tmp_path, tight).report["quantization"]["search"]
    assert found["met"]["arena"]


def test_what_is_out_of_reach_is_said(tmp_path: Path) -> None:
    result = searched(tmp_path, Budgets(flash_bytes=100))
    assert result.report["quantization"]["search"]["met"] == {"flash": False, "arena": True, "accuracy": True}
    assert "Not reached: flash" in result.report_html


def test_a_search_stops_when_its_time_is_over(tmp_path: Path) -> None:
    found = searched(tmp_path, Budgets(flash_bytes=100, seconds=0.0)).report["quantization"]["search"]
    assert found["out_of_time"]
    assert len(found["steps"]) == 1


def test_a_search_needs_something_to_choose(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave the estimator out"):
        CompileOptions(search=Budgets(), estimator="mse")
    with pytest.raises(ValueError, match="integer types"):
        CompileOptions(search=Budgets(), type="float32")
    samples = save_samples(tmp_path / "c.npz", (4,), 8)
    linear = save_model(
        tmp_path / "q.onnx",
        [
            node("QuantizeLinear", ["x", "s", "z"], "q"),
            node("DequantizeLinear", ["q", "s", "z"], "d"),
            node("Relu", ["d"], "r"),
            node("QuantizeLinear", ["r", "s", "z"], "p"),
            node("DequantizeLinear", ["p", "s", "z"]),
        ],
        [1, 4],
        {"s": np.float32(0.1), "z": np.int8(0)},
    )
    with pytest.raises(DatasetError, match="taken as it is"):
        compile_model(
            linear, HOST, name="m", version="v", calibration=samples, options=CompileOptions(search=Budgets())
        )
