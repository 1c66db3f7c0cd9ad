"""Imported and simplified graphs against ONNX Runtime, operator by operator."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyfleet_compiler.dataset import to_device_order, to_source_order
from tinyfleet_compiler.float_run import run_float
from tinyfleet_compiler.graph import Conv, Gemm, Graph, Transpose
from tinyfleet_compiler.importers.onnx_graph import import_onnx
from tinyfleet_compiler.passes import simplify
from unit.compiler.onnx_models import node, save_model, small_cnn

RNG = np.random.default_rng(5)
relaxed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def load(path: Path) -> Graph:
    imported = import_onnx(path)
    assert imported.graph is not None, [str(p) for p in imported.problems]
    return simplify(imported.graph)


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def same_as_onnxruntime(path: Path, shape: tuple[int, ...], tolerance: float = 2e-5) -> Graph:
    graph = load(path)
    x = floats(3, *shape)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(None, {"x": sample[None]})[0] for sample in x])
    got = run_float(graph, {"x": to_device_order(x, graph.source_layouts["x"])})[graph.outputs[0]]
    got = to_source_order(got, graph.source_layouts[graph.outputs[0]])
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)
    return graph


@st.composite
def convolutions(draw: Any) -> dict[str, Any]:
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    return {
        "groups": groups,
        "channels": groups * draw(st.integers(1, 3)),
        "outputs": groups * draw(st.integers(1, 3)),
        "kernel": kernel,
        "strides": draw(st.tuples(st.integers(1, 3), st.integers(1, 2))),
        "dilations": dilations,
        "pads": pads,
        "height": draw(st.integers(dilations[0] * kernel[0], 9)),
        "width": draw(st.integers(dilations[1] * kernel[1], 8)),
    }


@relaxed
@given(convolutions())
def test_convolution(tmp_path: Path, c: dict[str, Any]) -> None:
    constants = {"w": floats(c["outputs"], c["channels"] // c["groups"], *c["kernel"]), "b": floats(c["outputs"])}
    conv = node(
        "Conv", ["x", "w", "b"], group=c["groups"], strides=c["strides"], dilations=c["dilations"], pads=c["pads"]
    )
    shape = (c["channels"], c["height"], c["width"])
    same_as_onnxruntime(save_model(tmp_path / "m.onnx", [conv], [1, *shape], constants), shape)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad(tmp_path: Path, auto_pad: str) -> None:
    conv = node("Conv", ["x", "w"], auto_pad=auto_pad, strides=[2, 3])
    path = save_model(tmp_path / "m.onnx", [conv], [1, 2, 9, 10], {"w": floats(3, 2, 4, 3)})
    same_as_onnxruntime(path, (2, 9, 10))


@relaxed
@given(
    st.sampled_from(["MaxPool", "AveragePool"]),
    st.tuples(st.integers(2, 3), st.integers(2, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(*[st.integers(0, 1)] * 4),
    st.booleans(),
    st.booleans(),
    st.tuples(st.integers(4, 8), st.integers(4, 8)),
)
def test_pools(
    tmp_path: Path,
    operator: str,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, ...],
    ceil: bool,
    include: bool,
    size: tuple[int, int],
) -> None:
    more: dict[str, Any] = {"count_include_pad": int(include)} if operator == "AveragePool" else {}
    pool = node(operator, ["x"], kernel_shape=kernel, strides=strides, pads=pads, ceil_mode=int(ceil), **more)
    same_as_onnxruntime(save_model(tmp_path / "m.onnx", [pool], [1, 3, *size]), (3, *size))


@pytest.mark.parametrize("pads", [(0, 0), (1, 1)])
def test_an_average_of_a_sequence_counts_pads_but_nothing_beyond(tmp_path: Path, pads: tuple[int, int]) -> None:
    """As PyTorch exports AvgPool1d(3, 2, ceil_mode=True)."""
    more: dict[str, Any] = {"kernel_shape": [3], "strides": [2], "ceil_mode": 1, "count_include_pad": 1}
    same_as_onnxruntime(
        save_model(tmp_path / "m.onnx", [node("AveragePool", ["x"], pads=pads, **more)], [1, 2, 8]), (2, 8)
    )


@pytest.mark.parametrize(
    ("nodes", "shape", "constants"),
    [
        ([node("GlobalAveragePool", ["x"])], (5, 4, 3), {}),
        ([node("Relu", ["x"])], (7,), {}),
        ([node("Clip", ["x", "lo", "hi"])], (4, 3, 2), {"lo": np.float32(-0.3), "hi": np.float32(0.6)}),
        ([node("Clip", ["x", "", "hi"])], (9,), {"hi": np.float32(0.2)}),
        ([node("Add", ["x", "x"])], (3, 2, 2), {}),
        ([node("Add", ["x", "c"])], (3, 4, 2), {"c": floats(3, 1, 1)}),
        ([node("Add", ["c", "x"])], (3, 4, 2), {"c": floats(1, 3, 4, 2)}),
        ([node("Gemm", ["x", "w", "b"], alpha=0.5, beta=2.0)], (6,), {"w": floats(6, 4), "b": floats(4)}),
        ([node("MatMul", ["x", "w"], "m"), node("Add", ["m", "b"])], (6,), {"w": floats(6, 4), "b": floats(4)}),
        ([node("MatMul", ["x", "w"])], (5, 6), {"w": floats(6, 4)}),
        ([node("Softmax", ["x"], axis=-1)], (11,), {}),
        ([node("Softmax", ["x"], axis=1)], (4, 3, 2), {}),
        ([node("LogSoftmax", ["x"], axis=-1)], (5, 6), {}),
        ([node("LogSoftmax", ["x"], axis=1)], (4, 3, 2), {}),
        ([node("Flatten", ["x"], "f"), node("Gemm", ["f", "w"], transB=1)], (3, 4, 2), {"w": floats(5, 24)}),
        ([node("Flatten", ["x"])], (3, 4, 2), {}),
        ([node("Reshape", ["x", "s"])], (3, 4, 2), {"s": np.array([1, 2, 3, 4])}),
        ([node("Reshape", ["x", "s"])], (24,), {"s": np.array([0, 2, 3, -1])}),
        ([node("Transpose", ["x"], perm=[0, 2, 3, 1])], (3, 4, 2), {}),
        ([node("Transpose", ["x"], perm=[0, 3, 1, 2])], (3, 4, 2), {}),
        ([node("Transpose", ["x"], perm=[0, 2, 1])], (3, 4), {}),
        ([node("Identity", ["x"], "i"), node("Relu", ["i"], "r"), node("Dropout", ["r"])], (3, 4, 2), {}),
        ([node("Squeeze", ["x", "a"])], (3, 1, 1), {"a": np.array([2, 3])}),
        ([node("Unsqueeze", ["x", "a"], "u"), node("Relu", ["u"])], (6,), {"a": np.array([2, 3])}),
        ([node("Pad", ["x", "p"])], (3, 4, 2), {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1])}),
        (
            [node("Pad", ["x", "p"], "q"), node("Conv", ["q", "w"], pads=[1, 0, 0, 0])],
            (3, 4, 5),
            {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1]), "w": floats(2, 3, 3, 2)},
        ),
        (
            [node("Pad", ["x", "p"], "q"), node("AveragePool", ["q"], kernel_shape=[2, 2])],
            (3, 4, 5),
            {"p": np.array([0, 0, 1, 1, 0, 0, 0, 1])},
        ),
        (
            [node("BatchNormalization", ["x", "g", "b", "m", "v"])],
            (3, 4, 2),
            {"g": floats(3), "b": floats(3), "m": floats(3), "v": np.abs(floats(3)) + 0.1},
        ),
        (
            [node("BatchNormalization", ["x", "g", "b", "m", "v"], "n"), node("Relu", ["n"])],
            (5,),
            {"g": floats(5), "b": floats(5), "m": floats(5), "v": np.abs(floats(5)) + 0.1},
        ),
        (
            [node("Constant", [], "s", value_ints=[1, -1]), node("Reshape", ["x", "s"])],
            (3, 2, 2),
            {},
        ),
    ],
)
def test_operator(tmp_path: Path, nodes: list[Any], shape: tuple[int, ...], constants: dict[str, Any]) -> None:
    same_as_onnxruntime(save_model(tmp_path / "m.onnx", nodes, [1, *shape], constants), shape)


@pytest.mark.parametrize("opset", [11, 13, 18, 22])
def test_small_cnn_in_every_opset(tmp_path: Path, opset: int) -> None:
    import onnx

    path = small_cnn(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.opset_import[0].version = opset
    path.write_bytes(model.SerializeToString())
    graph = same_as_onnxruntime(path, (2, 8, 6))
    assert [type(n).__name__ for n in graph.nodes] == ["Conv", "Conv", "Conv", "Add", "MaxPool", "Gemm", "Softmax"]


def test_flatten_before_gemm_needs_no_transpose(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], "c"),
        node("Reshape", ["c", "s"], "r"),
        node("Gemm", ["r", "v"], transB=1),
    ]
    constants = {"w": floats(4, 3, 1, 1), "s": np.array([-1, 4 * 20]), "v": floats(2, 80)}
    graph = same_as_onnxruntime(save_model(tmp_path / "m.onnx", nodes, [1, 3, 4, 5], constants), (3, 4, 5))
    assert [type(n) for n in graph.nodes] == [Conv, Gemm]


def test_channels_last_model_needs_no_transpose(tmp_path: Path) -> None:
    nodes = [
        node("Transpose", ["x"], "t", perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w"], "c"),
        node("Transpose", ["c"], "y", perm=[0, 2, 3, 1]),
    ]
    path = save_model(tmp_path / "m.onnx", nodes, [1, 4, 5, 3], {"w": floats(4, 3, 2, 2)})
    graph = same_as_onnxruntime(path, (4, 5, 3))
    assert not any(isinstance(n, Transpose) for n in graph.nodes)
    assert graph.shapes["x"] == (4, 5, 3)


def test_nodes_may_come_in_any_order(tmp_path: Path) -> None:
    nodes = [node("Relu", ["m"]), node("MatMul", ["x", "w"], "m")]
    graph = load(save_model(tmp_path / "m.onnx", nodes, ["batch", 6], {"w": floats(6, 4)}))
    assert [type(n) for n in graph.nodes] == [Gemm]
    assert graph.nodes[0].low == 0.0  # type: ignore[attr-defined]
