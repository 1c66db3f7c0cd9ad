"""Small ONNX models for the compiler's tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save_model(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    constants: dict[str, Any] | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    inputs: dict[str, Sequence[int | str]] | None = None,
) -> Path:
    """Write a model with input `x` of `shape` (or `inputs` by name) and float outputs of any shape."""
    given = inputs or {"x": shape}
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)) for name, dims in given.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def node(operator: str, inputs: Sequence[str], output: str = "y", **attributes: Any) -> onnx.NodeProto:
    """One node named after its operator and output."""
    return helper.make_node(operator, list(inputs), [output], name=f"{operator.lower()}_{output}", **attributes)


def small_cnn(path: Path, seed: int = 0, classes: int = 4) -> Path:
    """Conv + BN + Relu, depthwise, residual Add, MaxPool, Flatten, Gemm, Softmax on (N, 2, 8, 6)."""
    rng = np.random.default_rng(seed)

    def normal(*dims: int) -> np.ndarray:
        return (rng.normal(size=dims) / np.sqrt(np.prod(dims[1:]) or 1)).astype(np.float32)

    constants = {
        "w1": normal(6, 2, 3, 3),
        "b1": normal(6),
        "g": 1 + 0.1 * normal(6),
        "be": 0.1 * normal(6),
        "m": 0.1 * normal(6),
        "v": (1 + 0.2 * np.abs(normal(6))).astype(np.float32),
        "w2": normal(6, 1, 3, 3),
        "w3": normal(6, 6, 1, 1),
        "w4": normal(classes, 6 * 4 * 3),
        "b4": normal(classes),
    }
    nodes = [
        node("Conv", ["x", "w1", "b1"], "c1", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c1", "g", "be", "m", "v"], "n1"),
        node("Relu", ["n1"], "r1"),
        node("Conv", ["r1", "w2"], "c2", pads=[1, 1, 1, 1], group=6),
        node("Relu", ["c2"], "r2"),
        node("Conv", ["r2", "w3"], "c3"),
        node("Add", ["c3", "r1"], "a"),
        node("Relu", ["a"], "r3"),
        node("MaxPool", ["r3"], "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p"], "f"),
        node("Gemm", ["f", "w4", "b4"], "l", transB=1),
        node("Softmax", ["l"], "y", axis=-1),
    ]
    return save_model(path, nodes, ["N", 2, 8, 6], {k: np.asarray(v, np.float32) for k, v in constants.items()})


def save_samples(path: Path, shape: Sequence[int], count: int = 32, seed: int = 1, **more: Any) -> Path:
    """An NPZ with normal samples `x`, and `more` arrays."""
    x = np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)
    np.savez(path, x=x, **more)
    return path
