"""Pruning: channels that go together, least-squares repair, budgets, and the curve on a trained keyword model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfleet_compiler import CompileOptions, DatasetError, ModelError, PruneOptions, compile_model, load_device_class
from tinyfleet_compiler.dataset import Dataset, load_dataset
from tinyfleet_compiler.float_run import run_float
from tinyfleet_compiler.graph import Add, AveragePool, Clip, Concat, Conv, Gemm, Graph, Node, PRelu, Window
from tinyfleet_compiler.load_model import load_graph
from tinyfleet_compiler.model_inputs import input_specs
from tinyfleet_compiler.operators import SourceLayout
from tinyfleet_compiler.prune.couple_channels import FIXED, Coupling, couple_channels
from tinyfleet_compiler.prune.cut_channels import cut_channels
from tinyfleet_compiler.prune.prune_graph import prune_graph
from tinyfleet_compiler.prune.prune_weights import zero_share
from tinyfleet_compiler.prune.repair import Problem, repair, repair_in_part, solve_ridge
from tinyfleet_compiler.prune.score_channels import count_macs, order_channels
from unit.compiler.onnx_models import node, save_model, save_samples, small_cnn
from unit.compiler.test_compiler_models import SHARED, needs_models

RNG = np.random.default_rng(11)


def conv(name: str, source: str, shape: tuple[int, ...], groups: int = 1) -> Conv:
    size = shape[1]
    window = Window((size, size), pads=(size // 2,) * 4)
    weights = RNG.normal(size=shape).astype(np.float32) * 0.3
    bias = RNG.normal(size=shape[0]).astype(np.float32) * 0.1
    return Conv(name, (source,), name, weights=weights, bias=bias, window=window, groups=groups, low=0.0)


def network() -> Graph:
    """Stem, a residual sum, depthwise, a join of two branches, pooling, flatten, two dense layers."""
    nodes: list[Node] = [
        conv("stem", "x", (8, 3, 3, 2)),
        conv("branch", "stem", (8, 3, 3, 8)),
        Add("sum", ("stem", "branch"), "sum", constant=None),
        PRelu("slope", ("sum",), "slope", slopes=RNG.random((6, 4, 8)).astype(np.float32)),
        conv("depth", "slope", (8, 3, 3, 1), groups=8),
        conv("side", "sum", (5, 1, 1, 8)),
        Concat("join", ("depth", "side"), "join", axis=2),
        Add("shift", ("join",), "shift", constant=RNG.normal(size=13).astype(np.float32)),
        AveragePool("pool", ("shift",), "pool", window=Window((3, 2), (3, 2))),
        Gemm(
            "dense",
            ("flat",),
            "dense",
            weights=RNG.normal(size=(12, 52)).astype(np.float32),
            bias=np.ones(12, np.float32),
        ),
        Clip("relu", ("dense",), "relu", low=0.0),
        Gemm(
            "head", ("relu",), "head", weights=RNG.normal(size=(4, 12)).astype(np.float32), bias=np.zeros(4, np.float32)
        ),
    ]
    image, wide = (6, 4, 8), (6, 4, 13)
    shapes = {"x": (6, 4, 2), **dict.fromkeys(("stem", "branch", "sum", "slope", "depth"), image)}
    shapes |= {"side": (6, 4, 5), "join": wide, "shift": wide, "pool": (2, 2, 13), "flat": (52,)}
    shapes |= {"dense": (12,), "relu": (12,), "head": (4,)}
    layouts = dict.fromkeys(("x", "head"), SourceLayout.SAME)
    return Graph(tuple(nodes), ("x",), ("head",), shapes, layouts, views={"flat": "pool"})


GRAPH = network()
X = {"x": RNG.normal(size=(64, 6, 4, 2)).astype(np.float32)}


def test_channels_that_meet_are_one_group() -> None:
    groups = couple_channels(GRAPH).groups
    for name in ("branch", "sum", "slope", "depth"):
        np.testing.assert_array_equal(groups[name], groups["stem"])
    np.testing.assert_array_equal(groups["join"], np.concatenate([groups["depth"], groups["side"]]))
    np.testing.assert_array_equal(groups["flat"], np.tile(groups["join"], 4))
    assert (groups["x"] == FIXED).all()
    assert (groups["head"] == FIXED).all()
    assert couple_channels(GRAPH).count == 1 + 8 + 5 + 12


def test_channels_that_a_constant_is_joined_to_stay() -> None:
    token = np.ones((6, 4, 5), np.float32)
    joined = Concat("join", ("depth",), "join", axis=2, constant=token)
    graph = GRAPH.with_nodes([joined if node.name == "join" else node for node in GRAPH.nodes])
    groups = couple_channels(graph).groups
    assert (groups["depth"] == FIXED).all()
    assert (groups["join"] == FIXED).all()


def unheard(graph: Graph, coupling: Coupling, kept: np.ndarray) -> Graph:
    """The graph with zero weights wherever a layer reads a channel that will be cut."""

    def mute(node: Node) -> Node:
        heard = kept[coupling.groups[node.inputs[0]]]
        if isinstance(node, Gemm):
            return replace(node, weights=node.weights * heard)
        return replace(node, weights=node.weights * heard) if isinstance(node, Conv) and node.groups == 1 else node

    return graph.with_nodes([mute(node) for node in graph.nodes])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20))
def test_cutting_channels_nobody_hears_changes_nothing(seed: int) -> None:
    coupling = couple_channels(GRAPH)
    kept = np.random.default_rng(seed).random(coupling.count) < 0.6
    kept[[FIXED, 1, 9, 14]] = True
    muted = unheard(GRAPH, coupling, kept)
    cut = cut_channels(muted, coupling, kept)
    assert cut.shapes["flat"][0] == 4 * (int(kept[1:9].sum()) + int(kept[9:14].sum()))
    np.testing.assert_allclose(run_float(cut, X)["head"], run_float(muted, X)["head"], rtol=1e-3, atol=1e-3)


def test_what_no_rule_covers_keeps_its_channels() -> None:
    grouped = conv("side", "sum", (8, 1, 1, 4), groups=2)
    nodes = [grouped if node.output == "side" else node for node in GRAPH.nodes[:6]]
    graph = replace(GRAPH, nodes=tuple(nodes), shapes=GRAPH.shapes | {"side": (6, 4, 8)}, outputs=("side",), views={})
    assert couple_channels(graph).count == 1


def test_repair_is_exact_where_another_channel_says_the_same() -> None:
    stem = GRAPH.nodes[0]
    assert isinstance(stem, Conv)
    weights, bias = stem.weights.copy(), stem.bias.copy()
    weights[3], bias[3] = 2.0 * weights[5], 2.0 * bias[5]
    side = conv("side", "stem", (5, 1, 1, 8))
    graph = Graph(
        (replace(stem, weights=weights, bias=bias), side), ("x",), ("side",),
        {"x": (6, 4, 2), "stem": (6, 4, 8), "side": (6, 4, 5)}, {}
    )  # fmt: skip
    coupling, kept = couple_channels(graph), np.ones(9, bool)
    kept[4] = False  # channel 3
    cut = cut_channels(graph, coupling, kept)
    fixed = repair(graph, cut, {name: kept[row] for name, row in coupling.groups.items()}, X)
    wanted = run_float(graph, X)["side"]
    before, after = (np.abs(run_float(g, X)["side"] - wanted).max() for g in (cut, fixed))
    assert after < 0.02 * before
    assert (
        4 in [group for group, _ in order_channels(graph, coupling, X, 0.2)][:1]
        or order_channels(graph, coupling, X, 0.2)[0][0] == 6
    )


def test_ridge_moves_free_weights_only_and_nothing_where_nothing_helps() -> None:
    x = RNG.normal(size=(400, 6))
    true = RNG.normal(size=(3, 6))
    free = RNG.random((3, 6)) < 0.5
    found = solve_ridge(Problem(x, x @ (true * free).T, free))
    assert (found[~free] == 0).all()
    np.testing.assert_allclose(found, true * free, atol=0.02)
    noise = RNG.normal(size=(40, 3))
    lost = np.square(noise[30:] - x[30:40] @ solve_ridge(Problem(x[:40], noise, free)).T).sum()
    assert lost <= np.square(noise[30:]).sum() * 1.5


@pytest.mark.parametrize("what", ["channels", "weights"])
def test_a_share_is_reached_and_its_cost_measured(what: str) -> None:
    data = Dataset(X, None)
    pruned = prune_graph(GRAPH, PruneOptions(**{what: 0.4}), data, None, None)  # type: ignore[arg-type]
    assert (pruned.judged_on, pruned.metric, pruned.samples) == ("calibration samples held out", "agreement", 16)
    steps = getattr(pruned, what)
    assert [step.share for step in steps] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [step.chosen for step in steps] == [False, False, False, True]
    assert all(step.with_repair.error < step.without_repair.error for step in steps)
    if what == "channels":
        assert count_macs(pruned.graph) <= 0.6 * count_macs(GRAPH)
        assert pruned.layers
    else:
        assert zero_share(pruned.graph) == pytest.approx(0.4, abs=0.01)
        assert count_macs(pruned.graph) == count_macs(GRAPH)


def test_a_budget_bounds_what_is_taken() -> None:
    y = run_float(GRAPH, X)["head"]
    data = Dataset(X, y + RNG.normal(size=y.shape) * 0.1 * y.std())
    free = prune_graph(GRAPH, PruneOptions(channels=0.7), data, data, None)
    assert (free.metric, free.channels[-1].chosen) == ("mse", True)
    losses = sorted(step.with_repair.lost_points for step in free.channels)
    assert losses[-1] > losses[0] > 0
    middle = prune_graph(GRAPH, PruneOptions(channels=0.7, budget_points=losses[1]), data, data, None)
    taken = next(step for step in middle.channels if step.chosen)
    assert losses[0] <= taken.with_repair.lost_points <= losses[1]
    assert count_macs(free.graph) < count_macs(middle.graph) < count_macs(GRAPH)
    none = prune_graph(GRAPH, PruneOptions(channels=0.7, budget_points=0.0), data, data, None)
    assert not any(step.chosen for step in none.channels)
    assert none.graph is GRAPH


def test_auto_takes_what_the_default_budget_allows() -> None:
    pruned = prune_graph(GRAPH, PruneOptions(weights="auto"), Dataset(X, None), None, None)
    assert next(step for step in pruned.weights if step.chosen).with_repair.lost_points <= 1.0


def test_every_tensor_keeps_a_channel() -> None:
    coupling = couple_channels(GRAPH)
    kept = np.ones(coupling.count, bool)
    for group, _ in order_channels(GRAPH, coupling, X, 0.999):
        kept[group] = False
    assert all(kept[row].any() for row in coupling.groups.values())
    cut_channels(GRAPH, coupling, kept)


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 0.0},
        {"channels": 1.0},
        {"weights": -0.1},
        {"weights": "most"},
        {"channels": float("nan")},
        {"weights": 0.5, "budget_points": -1.0},
    ],
)
def test_wrong_options_say_what_to_use(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="use"):
        PruneOptions(**wrong)


def test_the_report_says_what_was_saved_and_what_was_not(tmp_path: Path) -> None:
    model, data = small_cnn(tmp_path / "m.onnx"), save_samples(tmp_path / "c.npz", (2, 8, 6), y=np.arange(32) % 4)
    options = CompileOptions(prune=PruneOptions(channels=0.3, weights=0.5))
    host = load_device_class("host")
    result = compile_model(model, host, name="m", version="v", calibration=data, evaluation=data, options=options)
    found = result.report["pruning"]
    assert found["judged_on"] == "evaluation data"
    for before, after in found["saved"].values():
        assert after <= before
    assert found["saved"]["macs"][1] == result.report["macs"] < found["saved"]["macs"][0]
    assert found["saved"]["image_bytes"][1] == result.report["image_bytes"]
    assert "transfer bytes only" in found["notes"][0]
    assert result.report["accuracy"]["float"] == pytest.approx(found["float"])
    assert "<h2>Pruning</h2>" in result.report_html
    assert "cut only" in result.report_html


@pytest.mark.parametrize("amount", [{"channels": "auto"}, {"weights": 0.5}])
@pytest.mark.parametrize("nodes", [[node("Sin", ["x"])], [node("ConvTranspose", ["x", "w"])]])
def test_a_model_without_layers_to_prune_says_so(tmp_path: Path, amount: dict[str, Any], nodes: list[Any]) -> None:
    model = save_model(tmp_path / "m.onnx", nodes, ("N", 2, 3, 3), {"w": np.ones((2, 2, 2, 2), np.float32)})
    options, samples = CompileOptions(prune=PruneOptions(**amount)), save_samples(tmp_path / "c.npz", (2, 3, 3))
    with pytest.raises(ModelError, match="without pruning"):
        compile_model(model, load_device_class("host"), name="m", version="v", calibration=samples, options=options)


@needs_models
def test_pruning_needs_a_float_model_and_samples() -> None:
    quantised = SHARED / "models" / "mlperf_tiny" / "ad_autoencoder_int8.tflite"
    options = CompileOptions(prune=PruneOptions(channels=0.3))
    with pytest.raises(ModelError, match="float model"):
        compile_model(quantised, load_device_class("host"), name="m", version="v", calibration=None, options=options)
    with pytest.raises(DatasetError, match="--calibration"):
        compile_model(
            SHARED / "models" / "kws_digits" / "kws_v1.onnx", load_device_class("host"), name="m", version="v",
            calibration=None, options=options,
        )  # fmt: skip


def test_a_part_of_the_repair_lies_between_cut_and_repaired() -> None:
    cut = GRAPH.with_nodes([replace(n, bias=n.bias * 0) if isinstance(n, (Conv, Gemm)) else n for n in GRAPH.nodes])
    for part, wanted in ((0.0, cut), (1.0, GRAPH)):
        got = repair_in_part(cut, GRAPH, part)
        for a, b in zip(got.nodes, wanted.nodes, strict=True):
            if isinstance(a, (Conv, Gemm)) and isinstance(b, (Conv, Gemm)):
                np.testing.assert_allclose(a.bias, b.bias, rtol=1e-6)
                np.testing.assert_array_equal(a.weights, b.weights)


def test_where_the_cut_alone_answers_better_part_of_the_repair_is_taken() -> None:
    """Labels that the cut model meets exactly: repair, faithful to the original, would lose there."""
    data = Dataset(X, None)
    plain = prune_graph(GRAPH, PruneOptions(channels=0.4), data, None, None)
    coupling = couple_channels(GRAPH)
    kept = np.ones(coupling.count, bool)
    for group, left in order_channels(GRAPH, coupling, X, 0.4):
        kept[group] = False
        if left <= 0.9:
            break
    y = run_float(cut_channels(GRAPH, coupling, kept), X)["head"]
    found = prune_graph(GRAPH, PruneOptions(channels=0.4), data, Dataset(X, y), None)
    assert [step.repair_strength for step in plain.channels] == [1.0] * 4
    assert found.channels[0].repair_strength == 0.0
    assert found.channels[0].with_repair.value == found.channels[0].without_repair.value == pytest.approx(0, abs=1e-9)
    assert all(step.with_repair.lost_points <= step.without_repair.lost_points for step in found.channels)


@needs_models
def test_repair_wins_or_ties_at_every_point_of_a_trained_model(tmp_path: Path) -> None:
    folder = SHARED / "models" / "kws_digits"
    calibration, test = np.load(folder / "calibration.npz"), np.load(folder / "test.npz")
    np.savez(tmp_path / "c.npz", x=calibration["x_v1"][:64])
    np.savez(tmp_path / "e.npz", x=test["x"][::8], y=test["y"][::8])
    graph = load_graph(folder / "kws_v1.onnx")
    samples, data = (load_dataset(tmp_path / name, input_specs(graph)) for name in ("c.npz", "e.npz"))
    pruned = prune_graph(graph, PruneOptions(channels=0.6), samples, data, None)
    sparse = prune_graph(graph, PruneOptions(weights=0.4), samples, data, None)
    for step in (*pruned.channels, *sparse.weights):
        assert step.with_repair.value >= step.without_repair.value
        assert step.with_repair.error < step.without_repair.error or step.repair_strength == 0.0
    assert pruned.channels[1].with_repair.lost_points <= 1.0
    assert pruned.channels[1].macs <= 0.71 * count_macs(graph)
    assert pruned.channels[3].without_repair.value < 0.5
    assert pruned.channels[3].with_repair.value > 0.9
