"""Patterns PyTorch and other exporters write: how many transposes are left on the device, and what they compute."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.graph import Transpose
from tinyfleet_compiler.load_model import load_graph
from unit.compiler.onnx_models import node, save_model
from unit.compiler.test_compiler_import import floats, same_as_onnxruntime

IMAGE = (4, 6, 5)
CONVS = {"w": floats(4, 4, 3, 3), "p": floats(4, 4, 1, 1), "m": floats(4, 7)}
PADS = {"pads": [1, 1, 1, 1]}
PATTERNS: dict[str, tuple[list[Any], tuple[int, ...], dict[str, Any], int]] = {
    "residual": ([node("Conv", ["x", "w"], "a", **PADS), node("Add", ["a", "x"])], IMAGE, {}, 0),
    "concatenation": (
        [
            node("Conv", ["x", "w"], "a", **PADS),
            node("Concat", ["a", "x"], "c", axis=1),
            node("GlobalAveragePool", ["c"]),
        ],
        IMAGE,
        {},
        0,
    ),
    "squeeze and excite": (
        [
            node("GlobalAveragePool", ["x"], "g"),
            node("Conv", ["g", "p"], "q"),
            node("Sigmoid", ["q"], "s"),
            node("Mul", ["x", "s"]),
        ],
        IMAGE,
        {},
        0,
    ),
    "flatten into a layer": (
        [node("Conv", ["x", "w"], "c"), node("Reshape", ["c", "f"], "r"), node("Gemm", ["r", "d"], transB=1)],
        IMAGE,
        {"f": np.array([1, -1]), "d": floats(3, 4 * 4 * 3)},
        0,
    ),
    "channels last in front": (
        [node("Transpose", ["x"], "t", perm=[0, 3, 1, 2]), node("Conv", ["t", "w"])],
        (6, 5, 4),
        {},
        0,
    ),
    "channels last around every convolution": (
        [
            node("Transpose", ["x"], "t", perm=[0, 3, 1, 2]),
            node("Conv", ["t", "w"], "a", **PADS),
            node("Transpose", ["a"], "u", perm=[0, 2, 3, 1]),
            node("Add", ["u", "x"], "v"),
            node("Transpose", ["v"], "z", perm=[0, 3, 1, 2]),
            node("Conv", ["z", "w"], "b", **PADS),
            node("Transpose", ["b"], perm=[0, 2, 3, 1]),
        ],
        (6, 5, 4),
        {},
        0,
    ),
    "normalised channels last, then a layer": (
        [
            node("Conv", ["x", "w"], "a", **PADS),
            node("Transpose", ["a"], "t", perm=[0, 2, 3, 1]),
            node("LayerNormalization", ["t", "g"], "n"),
            node("MatMul", ["n", "m"], "l"),
            node("Transpose", ["l"], perm=[0, 3, 1, 2]),
        ],
        IMAGE,
        {"g": floats(4)},
        0,
    ),
    "patches": (
        [
            node("Conv", ["x", "w"], "a", strides=[2, 2], **PADS),
            node("Reshape", ["a", "r"], "b"),
            node("Transpose", ["b"], "t", perm=[0, 2, 1]),
            node("MatMul", ["t", "m"]),
        ],
        IMAGE,
        {"r": np.array([1, 4, -1])},
        0,
    ),
    "attention over pixels": (
        [
            node("Conv", ["x", "p"], "a"),
            node("Reshape", ["a", "r"], "b"),
            node("Transpose", ["b"], "t", perm=[0, 2, 1]),
            node("MatMul", ["t", "b"], "s"),
            node("Softmax", ["s"], "z", axis=-1),
            node("MatMul", ["z", "t"], "o"),
        ],
        IMAGE,
        {"r": np.array([1, 4, -1])},
        0,
    ),
    "columns as a sequence": (
        [
            node("Conv", ["x", "w"], "a", pads=[0, 1, 0, 1]),
            node("ReduceMean", ["a"], "b", axes=[2], keepdims=0),
            node("Transpose", ["b"], "t", perm=[0, 2, 1]),
            node("MatMul", ["t", "m"]),
        ],
        IMAGE,
        {},
        0,
    ),
    "a function between transposes": (
        [
            node("Transpose", ["x"], "t", perm=[0, 2, 3, 1]),
            node("Sigmoid", ["t"], "s"),
            node("Transpose", ["s"], "u", perm=[0, 3, 1, 2]),
            node("Conv", ["u", "w"]),
        ],
        IMAGE,
        {},
        0,
    ),
    "rows of an image as features": (
        [node("Conv", ["x", "p"], "a"), node("MatMul", ["a", "f"])],
        IMAGE,
        {"f": floats(5, 2)},
        1,
    ),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_transposes_left(tmp_path: Path, name: str) -> None:
    nodes, shape, constants, most = PATTERNS[name]
    if nodes[-1].output[0] != "y":
        nodes = [*nodes, node("Relu", [nodes[-1].output[0]])]
    path = save_model(tmp_path / "m.onnx", nodes, [1, *shape], {**CONVS, **constants})
    same_as_onnxruntime(path, shape)
    graph = load_graph(path)
    assert sum(isinstance(n, Transpose) for n in graph.nodes) <= most


def test_a_model_of_views_computes_nothing(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", [node("Reshape", ["x", "s"])], [1, 4, 3], {"s": np.array([1, 12])})
    with pytest.raises(ModelError, match="computes nothing"):
        load_graph(path)
