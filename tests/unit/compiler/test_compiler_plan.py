"""The memory planner and the verifier that shares no code with it, on random graphs too."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyfleet_compiler import VerifyError, read_image
from tinyfleet_compiler.build_ops import Op, build_ops
from tinyfleet_compiler.compile_graph import Compiled, Identity, compile_graph
from tinyfleet_compiler.graph import Graph, elements
from tinyfleet_compiler.importers.onnx_graph import import_onnx
from tinyfleet_compiler.operators import OpFlag
from tinyfleet_compiler.passes import simplify
from tinyfleet_compiler.plan_memory import plan_memory
from tinyfleet_compiler.plan_optimum import Separations, find_optimum
from tinyfleet_compiler.quantize.calibrate import Observed
from tinyfleet_compiler.quantize.parameters import choose_parameters
from tinyfleet_compiler.schedule import peak_bytes, schedule
from tinyfleet_compiler.verify_plan import verify_plan
from tinyfleet_compiler.write_image import ImageSpec, TensorSpec, write_image
from unit.compiler.onnx_models import node, save_model, small_cnn

SEEN = Observed(-1.0, 1.0, np.linspace(-1, 1, 64, dtype=np.float32))


def load(path: Path) -> Graph:
    imported = import_onnx(path)
    assert imported.graph is not None, [str(p) for p in imported.problems]
    return simplify(imported.graph)


def observed(graph: Graph) -> dict[str, Observed]:
    return dict.fromkeys([*graph.inputs, *(n.output for n in graph.nodes)], SEEN)


def compiled_of(graph: Graph) -> Compiled:
    return compile_graph(graph, observed(graph), "min-max", Identity("m", "v", "host"), golden_vectors=1)


def sizes_of(graph: Graph) -> dict[str, int]:
    return {name: elements(graph.shapes[name]) for name in [*graph.inputs, *(n.output for n in graph.nodes)]}


def chain(path: Path, *nodes: onnx.NodeProto, shape: tuple[int, ...], constants: dict[str, Any]) -> Graph:
    return load(save_model(path, list(nodes), [1, *shape], constants))


@st.composite
def graphs(draw: Any) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Random graphs of one image size: convolutions, residual sums, activations, several outputs."""
    channels, nodes, constants = {"x": 4}, [], {}
    for index in range(draw(st.integers(2, 14))):
        source = draw(st.sampled_from(sorted(channels)))
        name = f"t{index}"
        kind = draw(st.sampled_from(["conv", "depthwise", "add", "softmax"]))
        mates = [t for t in channels if channels[t] == channels[source]]
        if kind == "add":
            nodes.append(node("Add", [source, draw(st.sampled_from(sorted(mates)))], name))
            channels[name] = channels[source]
        elif kind == "softmax":
            nodes.append(node("Softmax", [source], name, axis=1))
            channels[name] = channels[source]
        else:
            groups = channels[source] if kind == "depthwise" else 1
            outputs = channels[source] if kind == "depthwise" else draw(st.sampled_from([2, 4, 8]))
            size, dilation = draw(st.sampled_from([(1, 1), (3, 1), (3, 2)]))
            pad = (size - 1) * dilation // 2
            constants[f"w{index}"] = np.ones((outputs, channels[source] // groups, size, size), np.float32) / 8
            nodes.append(
                node("Conv", [source, f"w{index}"], name, group=groups, pads=[pad] * 4, dilations=[dilation] * 2)
            )
            channels[name] = outputs
    return nodes, constants


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graphs())
def test_plans_of_random_graphs_are_proved(tmp_path: Path, drawn: tuple[list[onnx.NodeProto], dict[str, Any]]) -> None:
    nodes, constants = drawn
    read = {name for n in nodes for name in n.input}
    outputs = [n.output[0] for n in nodes if n.output[0] not in read]
    graph = load(save_model(tmp_path / "m.onnx", nodes, [1, 4, 5, 6], constants, outputs=outputs))
    compiled = compiled_of(graph)  # verifies the plan from the image's own bytes
    plan = compiled.plan
    tensors = tuple(graph.root(o) for o in graph.outputs)
    classic = peak_bytes(compiled.ops, sizes_of(graph), graph.inputs, tensors)
    assert plan.lower_bound_bytes <= plan.arena_bytes
    assert plan.arena_bytes <= 2 * classic


def _smallest_by_trying_all_orders(sizes: dict[str, int], separations: Separations) -> int:
    """The optimum when no separation is negative: then some order of placing each as low as it goes reaches it."""
    best = sum(-(-size // 4) * 4 for size in sizes.values())
    for order in itertools.permutations(sizes):
        at: dict[str, int] = {}
        for name in order:
            mates = [o for o in at if (o, name) in separations]
            spots = {0} | {at[o] + separations[o, name] for o in mates}
            at[name] = min(
                s
                for s in spots
                if all(s - at[o] >= separations[o, name] or at[o] - s >= separations[name, o] for o in mates)
            )
        best = min(best, max(at[n] + -(-sizes[n] // 4) * 4 for n in sizes))
    return best


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=3, max_size=5), st.integers(0, 2**16))
def test_the_optimum_is_that_of_trying_everything(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = {f"t{i}": 4 * size for i, size in enumerate(lengths)}
    separations: Separations = {}
    for a, b in itertools.combinations(sizes, 2):
        if rng.random() < 0.8:
            near = rng.random() < 0.5
            separations[a, b] = 4 * int(rng.integers(0, sizes[a] // 4 + 1)) if near else sizes[a]
            separations[b, a] = 4 * int(rng.integers(0, sizes[b] // 4 + 1)) if near else sizes[b]
    worst = sum(sizes.values()) + 4
    offsets, bound = find_optimum(sizes, separations, worst, 0)
    assert offsets is not None
    assert max(offsets[n] + sizes[n] for n in sizes) == bound == _smallest_by_trying_all_orders(sizes, separations)
    assert find_optimum(sizes, separations, bound, 0) == (None, bound)


def pointwise_chain(tmp_path: Path) -> Graph:
    weights = {f"w{i}": np.eye(8, dtype=np.float32).reshape(8, 8, 1, 1) for i in range(3)}
    nodes = [node("Conv", [("x", "a", "b")[i], f"w{i}"], ("a", "b", "y")[i]) for i in range(3)]
    return chain(tmp_path / "m.onnx", *nodes, shape=(8, 10, 10), constants=weights)


def test_outputs_grow_into_dying_inputs(tmp_path: Path) -> None:
    compiled = compiled_of(pointwise_chain(tmp_path))
    assert compiled.plan.arena_bytes == compiled.plan.lower_bound_bytes == 800 + 8
    # The chain alternates instead of drifting: every second layer runs from its last pixel to the first.
    assert sorted(OpFlag.REVERSED in op.flags for op in compiled.ops) == [False, True, True]


def test_elementwise_operators_run_in_place(tmp_path: Path) -> None:
    graph = chain(tmp_path / "m.onnx", node("Softmax", ["x"], "s"), node("Relu", ["s"]), shape=(50,), constants={})
    assert compiled_of(graph).plan.arena_bytes == 52


def moved(compiled: Compiled, tensor: str, by: int) -> bytes:
    """The image with one tensor shifted in the plan."""
    plan = compiled.plan
    offsets = {name: at + 4 for name, at in plan.offsets.items()}
    offsets[tensor] += by
    graph, parameters = compiled.graph, compiled.parameters

    def spec(name: str) -> TensorSpec:
        return TensorSpec(
            name, graph.root(name), graph.shapes[name], parameters[graph.root(name)], graph.source_layouts[name]
        )

    changed = replace(plan, offsets=offsets, arena_bytes=plan.arena_bytes + 8)
    ends = [spec(t) for t in graph.inputs], [spec(t) for t in graph.outputs]
    scales = [parameters[op.output].scale for op in compiled.ops]
    # The records lie about the distance too: what refuses is the replay, not the reader's own check.
    ops = [replace(op, overlap_bytes=op.overlap_bytes - 1) for op in compiled.ops]
    return write_image(ImageSpec(ops, changed, *ends, scales, "host", "m", "v"))


@pytest.mark.parametrize("tensor", ["x", "a", "b"])
def test_the_verifier_refuses_one_byte_nearer(tmp_path: Path, tensor: str) -> None:
    graph = pointwise_chain(tmp_path)
    compiled = compiled_of(graph)
    verify_plan(read_image(moved(compiled, tensor, 0)), compiled.ops, sizes_of(graph), graph.inputs, graph.outputs)
    source = {"x": "a", "a": "b", "b": "y"}[tensor]
    nearer = 1 if compiled.plan.offsets[tensor] < compiled.plan.offsets[source] else -1
    image = read_image(moved(compiled, tensor, nearer))
    with pytest.raises(VerifyError, match="memory plan"):
        verify_plan(image, compiled.ops, sizes_of(graph), graph.inputs, graph.outputs)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 3, 4]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.sampled_from([2, 4, 6]),
)
def test_overlap_distances_are_minimal(
    tmp_path: Path, dilation: int, kernel: int, strides: tuple[int, int], pads: tuple[int, ...], outputs: int
) -> None:
    weights = {"w": np.ones((outputs, 2, kernel, kernel), np.float32)}
    conv = node("Conv", ["x", "w"], strides=strides, pads=pads, dilations=[dilation] * 2)
    graph = chain(tmp_path / "m.onnx", conv, shape=(2, 11, 10), constants=weights)
    (op,) = build_ops(graph, choose_parameters(graph, observed(graph), "min-max"))
    sizes = sizes_of(graph)
    assert _accepted(graph, op, sizes, op.overlap_bytes)
    if op.overlap_bytes < sizes["y"]:
        assert not _accepted(graph, op, sizes, op.overlap_bytes - 1)
    backwards = replace(op, flags=OpFlag.REVERSED)
    smallest = op.reversed_overlap_bytes
    assert smallest is not None
    assert _accepted(graph, backwards, sizes, smallest)
    if smallest < sizes["x"]:
        assert not _accepted(graph, backwards, sizes, smallest - 1)


def _accepted(graph: Graph, op: Op, sizes: dict[str, int], distance: int) -> bool:
    """Whether the verifier takes input - output (in reverse output - input) = distance."""
    plan = plan_memory([op], sizes, graph.inputs, graph.outputs)
    up, down = ("y", "x") if OpFlag.REVERSED in op.flags else ("x", "y")
    offsets = {up: max(distance, 0), down: max(-distance, 0)}
    plan = replace(plan, offsets=offsets, arena_bytes=sum(sizes.values()) + abs(distance))
    parameters = choose_parameters(graph, observed(graph), "min-max")
    ends = [[TensorSpec(n, n, graph.shapes[n], parameters[n], graph.source_layouts[n])] for n in ("x", "y")]
    op = replace(op, overlap_bytes=distance)
    image = read_image(write_image(ImageSpec([op], plan, *ends, [1.0], "host", "m", "v")))
    try:
        verify_plan(image, [op], sizes, graph.inputs, graph.outputs)
    except VerifyError:
        return False
    return True


def test_schedule_prefers_the_lower_peak(tmp_path: Path) -> None:
    weights = {"up": np.ones((16, 4, 1, 1), np.float32), "down": np.ones((1, 16, 1, 1), np.float32)}
    nodes = [
        *(node("Conv", ["x", "up"], f"u{i}") for i in range(3)),
        *(node("Conv", [f"u{i}", "down"], f"d{i}") for i in range(3)),
        node("Add", ["d0", "d1"], "s"),
        node("Add", ["s", "d2"]),
    ]
    graph = chain(tmp_path / "m.onnx", *nodes, shape=(4, 4, 4), constants=weights)
    ops = build_ops(graph, choose_parameters(graph, observed(graph), "min-max"))
    sizes = sizes_of(graph)
    ordered = schedule(ops, sizes, graph.inputs, graph.outputs)
    assert peak_bytes(ordered, sizes, graph.inputs, graph.outputs) < peak_bytes(ops, sizes, graph.inputs, graph.outputs)


def test_planning_is_deterministic(tmp_path: Path) -> None:
    graph = load(small_cnn(tmp_path / "m.onnx"))
    assert compiled_of(graph).data == compiled_of(graph).data
