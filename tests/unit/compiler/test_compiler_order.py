"""The order of operators of a branching graph: searched for, held against every order there is, on random graphs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyfleet_compiler.build_ops import Op, build_ops
from tinyfleet_compiler.compile_graph import Identity, compile_graph
from tinyfleet_compiler.graph import Graph
from tinyfleet_compiler.plan_memory import plan_memory
from tinyfleet_compiler.quantize.parameters import choose_parameters
from tinyfleet_compiler.schedule import schedule
from tinyfleet_compiler.search_order import has_choice, search_order
from unit.compiler.onnx_models import node, save_model
from unit.compiler.test_compiler_plan import load, observed, sizes_of

MOST_ORDERS = 120


@st.composite
def branching(draw: Any) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Four to seven convolutions and sums of any earlier tensors; wide and narrow ones."""
    channels, nodes, constants = {"x": 4}, [], {}
    for index in range(draw(st.integers(4, 7))):
        source, name = draw(st.sampled_from(sorted(channels))), f"t{index}"
        mates = sorted(t for t in channels if channels[t] == channels[source] and t != source)
        if mates and draw(st.booleans()):
            nodes.append(node("Add", [source, draw(st.sampled_from(mates))], name))
            channels[name] = channels[source]
        else:
            channels[name] = draw(st.sampled_from([1, 2, 4, 8]))
            constants[f"w{index}"] = np.ones((channels[name], channels[source], 3, 3), np.float32) / 8
            nodes.append(node("Conv", [source, f"w{index}"], name, pads=[1] * 4))
    return nodes, constants


def built(path: Path, drawn: tuple[list[onnx.NodeProto], dict[str, np.ndarray]]) -> tuple[Graph, tuple[Op, ...]]:
    nodes, constants = drawn
    read = {name for n in nodes for name in n.input}
    outputs = [n.output[0] for n in nodes if n.output[0] not in read]
    graph = load(save_model(path, nodes, [1, 4, 8, 8], constants, outputs=outputs))
    return graph, tuple(build_ops(graph, choose_parameters(graph, observed(graph), "min-max")))


def orders(ops: Sequence[Op], given: frozenset[str]) -> Iterator[tuple[Op, ...]]:
    """Every order in which each op finds its inputs."""
    if not ops:
        yield ()
    for op in ops:
        if given.issuperset(op.inputs):
            left = [other for other in ops if other is not op]
            yield from ((op, *rest) for rest in orders(left, given | {op.output}))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(branching())
def test_no_order_needs_less_than_the_search_says(tmp_path: Path, drawn: Any) -> None:
    graph, ops = built(tmp_path / "m.onnx", drawn)
    sizes, outputs = sizes_of(graph), tuple(graph.root(name) for name in graph.outputs)
    found, least = search_order(ops, sizes, graph.inputs, outputs)
    assert sorted(op.output for op in found) == sorted(op.output for op in ops)
    plans = (
        plan_memory(o, sizes, graph.inputs, outputs)
        for _, o in zip(range(MOST_ORDERS), orders(ops, frozenset(graph.inputs)), strict=False)
    )
    assert all(plan.arena_bytes >= least for plan in plans)
    assert plan_memory(found, sizes, graph.inputs, outputs).lower_bound_bytes >= least


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(branching(), st.sampled_from(["balanced", "ram"]))
def test_compiles_take_an_order_only_where_it_saves_memory(tmp_path: Path, drawn: Any, optimize: str) -> None:
    graph, ops = built(tmp_path / "m.onnx", drawn)
    sizes, outputs = sizes_of(graph), tuple(graph.root(name) for name in graph.outputs)
    plain = plan_memory(schedule(ops, sizes, graph.inputs, outputs), sizes, graph.inputs, outputs)
    identity = Identity("m", "v", "host")
    # Verified from the image's own bytes on the way.
    compiled = compile_graph(graph, observed(graph), "min-max", identity, golden_vectors=1, optimize=optimize)
    assert compiled.plan.arena_bytes <= plain.arena_bytes


def side_branch(path: Path) -> tuple[Graph, tuple[Op, ...]]:
    """A small output that the file computes first and nothing reads: it lies beside everything that follows."""
    shapes = {"w0": (2, 4), "w1": (4, 4), "w2": (8, 4), "w3": (4, 8)}
    constants = {name: np.ones((*shape, 3, 3), np.float32) / 8 for name, shape in shapes.items()}
    conv = {"pads": [1] * 4}
    nodes = [
        node("Conv", ["x", "w0"], "side", **conv),
        node("Conv", ["x", "w1"], "narrow", **conv),
        node("Conv", ["x", "w2"], "wide", **conv),
        node("Conv", ["wide", "w3"], "back", **conv),
        node("Add", ["back", "narrow"], "sum"),
        node("Add", ["sum", "x"], "y"),
    ]
    return built(path, (nodes, constants))


def test_a_branching_graph_needs_a_third_less_in_another_order(tmp_path: Path) -> None:
    graph, ops = side_branch(tmp_path / "m.onnx")
    sizes, outputs = sizes_of(graph), tuple(graph.root(name) for name in graph.outputs)
    ordered = schedule(ops, sizes, graph.inputs, outputs)
    compiled = compile_graph(graph, observed(graph), "min-max", Identity("m", "v", "host"), golden_vectors=1)
    assert plan_memory(ordered, sizes, graph.inputs, outputs).arena_bytes == 1192
    assert compiled.plan.arena_bytes == 808
    assert [op.output for op in compiled.ops][-1] == "side"


def test_chains_are_not_searched(tmp_path: Path) -> None:
    weights = {"w": np.ones((4, 4, 1, 1), np.float32)}
    nodes = [node("Conv", ["x", "w"], "a"), node("Conv", ["a", "w"], "b"), node("Conv", ["b", "w"], "y")]
    _, ops = built(tmp_path / "m.onnx", (nodes, weights))
    assert not has_choice(ops)


@pytest.mark.parametrize("seed", range(3))
def test_the_search_is_deterministic(tmp_path: Path, seed: int) -> None:
    graph, ops = side_branch(tmp_path / "m.onnx")
    sizes, outputs = sizes_of(graph), tuple(graph.root(name) for name in graph.outputs)
    mixed = [ops[at] for at in np.random.default_rng(seed).permutation(len(ops))]
    runnable = next(orders(mixed, frozenset(graph.inputs)))
    assert search_order(runnable, sizes, graph.inputs, outputs)[1] == search_order(ops, sizes, graph.inputs, outputs)[1]
