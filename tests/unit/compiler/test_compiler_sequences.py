"""Convolutions and pools over sequences (N, C, L): ONNX Runtime's numbers, without transposes algebra can remove."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyfleet_compiler import read_image
from tinyfleet_compiler.graph import Conv, Transpose
from tinyfleet_compiler.importers.onnx_graph import import_onnx
from tinyfleet_compiler.numerics import quantize
from tinyfleet_compiler.operators import SourceLayout
from unit.compiler.onnx_models import node, save_model
from unit.compiler.test_compiler_import import floats, same_as_onnxruntime
from unit.compiler.test_compiler_simulate import build, steps_apart

relaxed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SHAPE = (4, 12)
MOVED = np.array([0, 0, 2, 0, 0, 1], np.int64)


@relaxed
@given(
    st.sampled_from([1, 2, 4]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 2),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.integers(0, 1000),
)
def test_convolution(
    tmp_path: Path, groups: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], seed: int
) -> None:
    constants = {"w": floats(8, 4 // groups, kernel), "b": floats(8)}
    conv = node("Conv", ["x", "w", "b"], group=groups, strides=[stride], dilations=[dilation], pads=pads)
    path = save_model(tmp_path / "m.onnx", [conv], [1, *SHAPE], constants)
    graph = same_as_onnxruntime(path, SHAPE)
    assert [type(n) for n in graph.nodes] == [Conv]
    rng = np.random.default_rng(seed)
    compiled = build(path, rng.normal(1.0, 2.0, size=(20, 12, 4)).astype(np.float32))
    assert steps_apart(compiled, rng.integers(-128, 128, size=(5, 12, 4)).astype(np.int8)) <= 1


CASES: dict[str, tuple[list[Any], dict[str, Any], int]] = {
    "same padding": ([node("Conv", ["x", "w"], auto_pad="SAME_UPPER", strides=[2])], {"w": floats(3, 4, 3)}, 0),
    "max pool": ([node("MaxPool", ["x"], kernel_shape=[3], strides=[2], pads=[1, 0], ceil_mode=1)], {}, 0),
    "average pool": ([node("AveragePool", ["x"], kernel_shape=[3], pads=[1, 1], count_include_pad=1)], {}, 0),
    "global pools": (
        [node("GlobalAveragePool", ["x"], "a"), node("GlobalMaxPool", ["x"], "m"), node("Concat", ["a", "m"], axis=1)],
        {},
        0,
    ),
    "normalised, joined, padded, cut": (
        [
            node("Conv", ["x", "w"], "c", pads=[1, 1]),
            node("BatchNormalization", ["c", "g", "g", "g", "v"], "n"),
            node("Relu", ["n"], "r"),
            node("Concat", ["r", "x"], "j", axis=1),
            node("Pad", ["j", "p"], "q"),
            node("Slice", ["q", "s", "e", "a"], "t"),
            node("MaxPool", ["t"], kernel_shape=[2]),
        ],
        {
            "w": floats(4, 4, 3),
            "g": floats(4),
            "v": np.abs(floats(4)) + 0.1,
            "p": MOVED,
            "s": np.array([1]),
            "e": np.array([9]),
            "a": np.array([2]),
        },
        0,
    ),
    "padded before": (
        [node("Pad", ["x", "p"], "q"), node("Conv", ["q", "w"])],
        {"p": MOVED, "w": floats(3, 4, 3)},
        0,
    ),
    "residual, flattened, dense": (
        [
            node("Conv", ["x", "w"], "c", pads=[1, 1]),
            node("Add", ["c", "x"], "a"),
            node("Flatten", ["a"], "f"),
            node("Gemm", ["f", "v"], transB=1),
        ],
        {"w": floats(4, 4, 3), "v": floats(5, 48)},
        0,
    ),
    "channels last outside": (
        [
            node("Transpose", ["x"], "t", perm=[0, 2, 1]),
            node("Conv", ["t", "w"], "c"),
            node("Transpose", ["c"], perm=[0, 2, 1]),
        ],
        {"w": floats(5, 12, 2)},
        0,
    ),
    "doubled": ([node("Resize", ["x", "", "s"], mode="linear")], {"s": np.array([1, 1, 2], np.float32)}, 0),
    "softmax over time": (
        [node("Conv", ["x", "w"], "c"), node("Softmax", ["c"], axis=-1)],
        {"w": 0.1 * floats(3, 4, 2)},
        1,
    ),
    "dense over time": (
        [
            node("Conv", ["x", "w"], "c"),
            node("MatMul", ["c", "m"], "d"),
            node("Conv", ["d", "v"]),
        ],
        {"w": floats(3, 4, 1), "m": floats(12, 6), "v": floats(2, 3, 3)},
        2,
    ),
    "image of one row": (
        [
            node("Conv", ["x", "w"], "c"),
            node("Unsqueeze", ["c", "a"], "u"),
            node("Conv", ["u", "v"]),
        ],
        {"w": floats(3, 4, 1), "a": np.array([2]), "v": floats(2, 3, 1, 3)},
        2,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_models(tmp_path: Path, name: str) -> None:
    nodes, constants, transposes = CASES[name]
    path = save_model(tmp_path / "m.onnx", nodes, [1, *SHAPE], constants, opset=15)
    graph = same_as_onnxruntime(path, SHAPE)
    assert sum(isinstance(n, Transpose) for n in graph.nodes) <= transposes
    rng = np.random.default_rng(3)
    shape = graph.shapes["x"]
    x = rng.normal(0.5, 2.0, size=(40, *shape)).astype(np.float32)
    compiled = build(path, x)
    source = compiled.image.inputs[0]
    # Every layer may be a step off, and the layers after it carry that on.
    assert steps_apart(compiled, quantize(x, source.scale, source.zero_point)) <= 1 + len(graph.nodes)


def test_the_device_holds_a_sequence_channels_last(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", [node("Conv", ["x", "w"])], [1, *SHAPE], {"w": floats(3, 4, 2)})
    image = read_image(build(path, floats(8, 12, 4)).data)
    assert (image.inputs[0].shape, image.inputs[0].source_layout) == ((12, 4), SourceLayout.CHANNELS_FIRST)
    assert image.outputs[0].source_shape == (3, 11)


@pytest.mark.parametrize(
    ("operator", "constants", "attributes", "reason"),
    [
        ("Conv", {"w": floats(3, 4, 2, 2)}, {}, "3 dimensions"),
        ("Conv", {"w": floats(3, 4, 2)}, {"strides": [1, 1]}, "give 1 strides"),
        ("Conv", {"w": floats(3, 4, 2)}, {"pads": [1, 1, 1, 1]}, "give 2 pads"),
        ("Conv", {"w": floats(3, 4, 13)}, {}, "does not fit"),
        ("Conv", {"w": floats(3, 4, 2)}, {"kernel_shape": [3]}, "kernel_shape"),
        ("MaxPool", {}, {"kernel_shape": [2, 2]}, "give 1 kernel_shape"),
    ],
)
def test_what_cannot_be_taken_is_named(
    tmp_path: Path, operator: str, constants: dict[str, Any], attributes: dict[str, Any], reason: str
) -> None:
    nodes = [node(operator, ["x", *constants], **attributes)]
    (problem,) = import_onnx(save_model(tmp_path / "m.onnx", nodes, [1, *SHAPE], constants)).problems
    assert reason in f"{problem.reason} {problem.help}"
