"""The simulator against real arithmetic with the same integer weights: at most one step apart, op by op."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyfleet_compiler import DatasetError, read_image, simulate
from tinyfleet_compiler.compile_graph import Compiled, Identity, compile_graph
from tinyfleet_compiler.float_run import run_float
from tinyfleet_compiler.graph import Conv, ConvTranspose, Gemm, Graph, Node
from tinyfleet_compiler.importers.onnx_graph import import_onnx
from tinyfleet_compiler.numerics import dequantize, quantize
from tinyfleet_compiler.passes import simplify
from tinyfleet_compiler.quantize.calibrate import calibrate
from tinyfleet_compiler.quantize.weights import BaseWeights
from unit.compiler.onnx_models import node, save_model, small_cnn

relaxed = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def build(path: Path, x: np.ndarray, estimator: str = "min-max") -> Compiled:
    imported = import_onnx(path)
    assert imported.graph is not None, [str(p) for p in imported.problems]
    graph = simplify(imported.graph)
    return compile_graph(graph, calibrate(graph, {"x": x}), estimator, Identity("m", "v1", "host"))


def with_integer_weights(compiled: Compiled) -> Graph:
    """The float graph with the weights and biases the image really holds."""
    blocks = {op.output: (op, op.weights) for op in compiled.ops if op.weights is not None}

    def turned(item: Node) -> Node:
        if not isinstance(item, (Conv, Gemm)):
            return item
        op, block = blocks[item.output]
        source, result = compiled.parameters[op.inputs[0]], compiled.parameters[op.output]
        scales = BaseWeights(block, source.scale, result.scale).scales
        weights = block.rows * scales[:, None]
        folded = 0 if isinstance(item, ConvTranspose) else source.zero_point
        bias = (block.biases + folded * block.rows.astype(np.int64).sum(axis=1)) * scales * source.scale
        return replace(item, weights=weights.reshape(item.weights.shape), bias=bias)

    return compiled.graph.with_nodes(turned(item) for item in compiled.graph.nodes)


def steps_apart(compiled: Compiled, codes: np.ndarray) -> int:
    """Largest difference between simulator and real arithmetic for device inputs `codes`, in output steps."""
    source, result = compiled.image.inputs[0], compiled.image.outputs[0]
    got = simulate(compiled.image, codes)[result.name].astype(int)
    real = run_float(with_integer_weights(compiled), {"x": dequantize(codes, source.scale, source.zero_point)})
    wanted = quantize(next(iter(real.values())), result.scale, result.zero_point).astype(int)
    return int(np.abs(got - wanted).max())


@relaxed
@given(
    st.sampled_from(["dense", "depthwise", "grouped"]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.integers(1, 2),
    st.booleans(),
    st.integers(0, 1000),
)
def test_convolutions(
    tmp_path: Path,
    kind: str,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, ...],
    times: int,
    relu: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    groups = {"dense": 1, "depthwise": 4, "grouped": 2}[kind]
    weights = rng.normal(size=(4 * times, 4 // groups, *kernel)).astype(np.float32)
    bias = rng.normal(size=4 * times).astype(np.float32)
    nodes = [
        node("Conv", ["x", "w", "b"], "c", strides=strides, pads=pads, group=groups),
        node("Relu" if relu else "Identity", ["c"]),
    ]
    path = save_model(tmp_path / "m.onnx", nodes, [1, 4, 6, 5], {"w": weights, "b": bias})
    compiled = build(path, rng.normal(1.0, 2.0, size=(20, 6, 5, 4)).astype(np.float32))
    assert steps_apart(compiled, rng.integers(-128, 128, size=(5, 6, 5, 4)).astype(np.int8)) <= 1


@pytest.mark.parametrize(
    ("nodes", "shape", "constants", "bound"),
    [
        ([node("Gemm", ["x", "w", "b"], transB=1)], (24,), True, 1),
        ([node("MatMul", ["x", "wt"])], (5, 24), True, 1),
        ([node("Add", ["x", "x"])], (4, 3, 2), False, 1),
        ([node("Add", ["x", "c"], "a"), node("Relu", ["a"])], (4, 3, 2), True, 1),
        ([node("Relu", ["x"])], (9,), False, 1),
        ([node("Clip", ["x", "lo", "hi"])], (9,), True, 1),
        ([node("MaxPool", ["x"], kernel_shape=[2, 2], pads=[1, 0, 0, 1])], (3, 5, 4), False, 0),
        ([node("AveragePool", ["x"], kernel_shape=[3, 2], pads=[1, 1, 1, 0])], (3, 5, 4), False, 1),
        (
            [node("AveragePool", ["x"], kernel_shape=[3, 2], pads=[1, 1, 1, 0], count_include_pad=1)],
            (3, 5, 4),
            False,
            1,
        ),
        ([node("GlobalAveragePool", ["x"])], (3, 5, 4), False, 1),
        ([node("Softmax", ["x"], axis=-1)], (12,), False, 1),
        ([node("LogSoftmax", ["x"], axis=-1)], (12,), False, 1),
        ([node("LogSoftmax", ["x"], axis=1)], (3, 5, 4), False, 1),
        ([node("Transpose", ["x"], perm=[0, 2, 1])], (3, 5), False, 0),
        ([node("Flatten", ["x"])], (3, 5, 4), False, 0),
    ],
)
def test_operators(tmp_path: Path, nodes: list[Any], shape: tuple[int, ...], constants: bool, bound: int) -> None:
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(7, 24)).astype(np.float32)
    values = {
        "w": weights,
        "wt": weights.T.copy(),
        "b": rng.normal(size=7).astype(np.float32),
        "c": rng.normal(size=(shape[0], 1, 1)).astype(np.float32),
        "lo": np.float32(-0.5),
        "hi": np.float32(1.5),
    }
    path = save_model(tmp_path / "m.onnx", nodes, [1, *shape], values if constants else {})
    device = (*shape[1:], shape[0]) if len(shape) == 3 else shape
    compiled = build(path, rng.normal(0.5, 2.0, size=(40, *device)).astype(np.float32))
    assert steps_apart(compiled, rng.integers(-128, 128, size=(30, *device)).astype(np.int8)) <= bound


@pytest.mark.parametrize("estimator", ["min-max", "percentile", "mse"])
def test_small_cnn_stays_near_float(tmp_path: Path, estimator: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 8, 6, 2)).astype(np.float32)
    compiled = build(small_cnn(tmp_path / "m.onnx"), x, estimator)
    got = dequantize(simulate(compiled.image, x)["y"], 1 / 256, -128)
    wanted = run_float(compiled.graph, {"x": x})["y"]
    assert np.abs(got - wanted).max() < 0.06
    assert (got.argmax(axis=1) == wanted.argmax(axis=1)).mean() > 0.9


def test_batches_give_what_single_samples_give(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 8, 6, 2)).astype(np.float32)
    image = build(small_cnn(tmp_path / "m.onnx"), x).image
    together = simulate(image, x)["y"]
    assert all((simulate(image, x[i : i + 1])["y"][0] == together[i]).all() for i in range(0, 40, 7))
    assert simulate(image, x[:0])["y"].shape == (0, 4)


def test_wrong_inputs_are_named(tmp_path: Path) -> None:
    x = np.zeros((2, 8, 6, 2), np.float32)
    image = build(small_cnn(tmp_path / "m.onnx"), x).image
    with pytest.raises(DatasetError, match=r"shape \(2, 6, 8, 2\)"):
        simulate(image, x.transpose(0, 2, 1, 3))
    with pytest.raises(DatasetError, match="missing"):
        simulate(image, {"z": x})


def test_reading_back_gives_the_same_outputs(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(9, 8, 6, 2)).astype(np.float32)
    compiled = build(small_cnn(tmp_path / "m.onnx"), x)
    assert (simulate(read_image(compiled.data), x)["y"] == simulate(compiled.image, x)["y"]).all()
