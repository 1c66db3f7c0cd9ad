"""Chains of operators on single elements become one table, and stay what ONNX Runtime computes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyfleet_compiler.graph import Lookup
from unit.compiler.onnx_models import node, save_model
from unit.compiler.test_compiler_import import floats, load, same_as_onnxruntime
from unit.compiler.test_compiler_simulate import build, steps_apart

CONSTANTS = {name: np.float32(value) for name, value in (("r", 2**0.5), ("one", 1), ("half", 0.5), ("six", 6))}
GELU = [
    node("Div", ["x", "r"], "a"),
    node("Erf", ["a"], "b"),
    node("Add", ["b", "one"], "c"),
    node("Mul", ["x", "c"], "d"),
    node("Mul", ["d", "half"]),
]
SILU = [node("Sigmoid", ["x"], "s"), node("Mul", ["x", "s"])]
HARD_SWISH = [
    node("Add", ["x", "three"], "a"),
    node("Clip", ["a", "zero", "six"], "b"),
    node("Mul", ["x", "b"], "c"),
    node("Div", ["c", "six"]),
]


@pytest.mark.parametrize(
    "nodes",
    [GELU, SILU, HARD_SWISH, [node("Softplus", ["x"], "p"), node("Tanh", ["p"], "t"), node("Mul", ["x", "t"])]],
)
def test_a_known_activation_is_one_table(tmp_path: Path, nodes: list[Any]) -> None:
    constants = CONSTANTS | {"three": np.float32(3), "zero": np.float32(0)}
    path = save_model(tmp_path / "m.onnx", nodes, [1, 3, 4, 2], constants)
    graph = same_as_onnxruntime(path, (3, 4, 2))
    assert [type(n) for n in graph.nodes] == [Lookup]
    rng = np.random.default_rng(3)
    compiled = build(path, rng.normal(0.0, 2.0, size=(40, 4, 2, 3)).astype(np.float32))
    assert steps_apart(compiled, rng.integers(-128, 128, size=(30, 4, 2, 3)).astype(np.int8)) <= 1


@pytest.mark.parametrize(
    ("nodes", "types"),
    [
        ([*SILU, node("Relu", ["s"], "z")], ["Lookup", "Binary", "Clip"]),  # the inside is read elsewhere
        ([node("Tanh", ["x"], "t"), node("Mul", ["t", "v"])], ["Lookup", "Binary"]),  # a constant by place
        ([node("Relu", ["x"])], ["Clip"]),
        ([node("Sub", ["one", "x"], "a"), node("Sub", ["a", "x"], "b"), node("Exp", ["b"])], ["Lookup"]),
        ([node("Tanh", ["x"], "t"), node("GlobalAveragePool", ["t"], "g"), node("Mul", ["g", "t"])], None),
    ],
)
def test_only_closed_chains_of_single_elements(tmp_path: Path, nodes: list[Any], types: list[str] | None) -> None:
    outputs = ("y", "z") if any(n.output[0] == "z" for n in nodes) else ("y",)
    path = save_model(tmp_path / "m.onnx", nodes, [1, 3, 4, 2], CONSTANTS | {"v": floats(1, 4, 1)}, outputs=outputs)
    graph = load(path) if len(outputs) > 1 else same_as_onnxruntime(path, (3, 4, 2))
    names = [type(n).__name__ for n in graph.nodes]
    assert names == (types or ["Lookup", "AveragePool", "Binary"])


def test_an_output_inside_stays(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", SILU, [1, 5], outputs=("s", "y"))
    assert [type(n).__name__ for n in load(path).nodes] == ["Lookup", "Binary"]


def test_long_and_doubling_chains_stay_cheap(tmp_path: Path) -> None:
    nodes = [node("Tanh", ["x"], "t0")]
    nodes += [node("Mul", [f"t{i}", f"t{i}"], f"t{i + 1}") for i in range(200)]
    path = save_model(tmp_path / "m.onnx", [*nodes, node("Exp", ["t200"])], [1, 5])
    graph = same_as_onnxruntime(path, (5,))
    assert {type(n) for n in graph.nodes} == {Lookup}
    assert len(graph.nodes) == 13
