"""Graphs as exporters write them: shapes computed at run time, layers in pieces; the numbers of ONNX Runtime."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from tinyfleet_compiler.compile import load_graph
from tinyfleet_compiler.dataset import to_device_order, to_source_order
from tinyfleet_compiler.float_run import run_float
from unit.compiler.onnx_models import node, save_model

RNG = np.random.default_rng(6)


def real(*shape: int) -> np.ndarray:
    return (RNG.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


Parts = tuple[list[Any], dict[str, np.ndarray], tuple[int, ...]]


def attention() -> Parts:
    """nn.MultiheadAttention with batch_first, two heads of four: q, k, v in one product; sizes read from the tensor."""
    nodes = [
        node("Shape", ["x"], "shape"),
        node("Gather", ["shape", "i1"], "length", axis=0),
        node("MatMul", ["x", "w"], "p"),
        node("Add", ["p", "b"], "qkv"),
    ]
    for index, name in enumerate("qkv"):
        nodes.append(node("Slice", ["qkv", f"c{8 * index}", f"c{8 * index + 8}", "i2"], name))
        nodes.append(node("Concat", ["i1v", "length1", "heads"], f"{name}_size", axis=0))
        nodes.append(node("Reshape", [name, f"{name}_size"], f"{name}_parts"))
    nodes.insert(2, node("Unsqueeze", ["length", "i0"], "length1"))
    nodes += [
        node("Transpose", ["q_parts"], "q_heads", perm=[0, 2, 1, 3]),
        node("Transpose", ["k_parts"], "k_heads", perm=[0, 2, 3, 1]),
        node("Transpose", ["v_parts"], "v_heads", perm=[0, 2, 1, 3]),
        node("Sqrt", ["four"], "root"),
        node("Div", ["q_heads", "root"], "scaled"),
        node("MatMul", ["scaled", "k_heads"], "scores"),
        node("Softmax", ["scores"], "weights", axis=-1),
        node("MatMul", ["weights", "v_heads"], "mixed"),
        node("Transpose", ["mixed"], "rows", perm=[0, 2, 1, 3]),
        node("Concat", ["i1v", "length1", "whole"], "size", axis=0),
        node("Reshape", ["rows", "size"], "joined"),
        node("MatMul", ["joined", "o"], "y"),
    ]
    constants: dict[str, np.ndarray] = {f"c{at}": ints(at) for at in (0, 8, 16, 24)}
    constants |= {"w": real(8, 24), "b": real(24), "o": real(8, 8), "four": np.float32(4.0), "i2": ints(2)}
    constants |= {"i0": ints(0), "i1": np.array(1), "i1v": ints(1), "heads": ints(2, 4), "whole": ints(8)}
    return nodes, constants, (5, 8)


def scaled_products() -> Parts:
    """The rest of scaled_dot_product_attention, from `q`, `k` and `v` (1, 2, 5, 4), as PyTorch 2 exports it."""
    nodes = [
        node("Reshape", ["k", "flat_heads"], "k_flat"),
        node("Transpose", ["k_flat"], "k_turned", perm=[0, 2, 1]),
        node("Reshape", ["k_turned", "turned_heads"], "k_heads"),
        node("Mul", ["q", "root"], "q_scaled"),
        node("MatMul", ["q_scaled", "k_heads"], "scores"),
        node("Softmax", ["scores"], "weights", axis=-1),
        node("MatMul", ["weights", "v"], "mixed"),
    ]
    constants = {"flat_heads": ints(-1, 5, 4), "turned_heads": ints(1, 2, 4, 5), "root": np.float32(0.5)}
    return nodes, constants | {"w": real(8, 24), "b": real(24), "o": real(8, 8)}, (5, 8)


def packed_attention(cut: Any) -> Parts:
    """x.reshape(b, l, 3, heads, size).permute(2, 0, 3, 1, 4), cut into q, k and v: as vision transformers write it."""
    rest, constants, shape = scaled_products()
    parts, more = cut()
    nodes = [
        node("MatMul", ["x", "w"], "p"),
        node("Add", ["p", "b"], "pb"),
        node("Reshape", ["pb", "parts"], "qkv"),
        node("Transpose", ["qkv"], "qkv_first", perm=[2, 0, 3, 1, 4]),
        *parts,
        *rest,
        node("Transpose", ["mixed"], "rows", perm=[0, 2, 1, 3]),
        node("Reshape", ["rows", "whole"], "joined"),
        node("MatMul", ["joined", "o"], "y"),
    ]
    return nodes, constants | more | {"parts": ints(1, 5, 3, 2, 4), "whole": ints(1, 5, 8)}, shape


def by_gather() -> tuple[list[Any], dict[str, Any]]:
    nodes = [node("Gather", ["qkv_first", f"i{i}"], name, axis=0) for i, name in enumerate("qkv")]
    return nodes, {f"i{i}": np.array(i - 3 * (i == 2)) for i in range(3)}


def by_slices() -> tuple[list[Any], dict[str, Any]]:
    nodes = []
    for i, name in enumerate("qkv"):
        nodes.append(node("Slice", ["qkv_first", f"i{i}", f"i{i + 1}", "i0"], f"{name}_one"))
        nodes.append(node("Squeeze", [f"{name}_one", "i0"], name))
    return nodes, {f"i{i}": ints(i) for i in range(4)}


def by_split() -> tuple[list[Any], dict[str, Any]]:
    split = helper.make_node("Split", ["qkv_first", "ones"], [f"{name}_one" for name in "qkv"], name="split", axis=0)
    return [split, *(node("Squeeze", [f"{name}_one", "i0"], name) for name in "qkv")], {
        "ones": ints(1, 1, 1),
        "i0": ints(0),
    }


def encoder_attention() -> Parts:
    """nn.TransformerEncoderLayer: the batch second, merged with the heads and, before the last product, the rows."""
    rest, constants, shape = scaled_products()
    nodes = [
        node("Transpose", ["x"], "t", perm=[1, 0, 2]),
        node("MatMul", ["t", "w"], "p"),
        node("Add", ["p", "b"], "pb"),
        node("Reshape", ["pb", "parts"], "split"),
        node("Unsqueeze", ["split", "i0"], "u"),
        node("Transpose", ["u"], "first", perm=[3, 1, 2, 0, 4]),
        node("Squeeze", ["first", "last"], "qkv"),
    ]
    for index, name in enumerate("qkv"):
        nodes.append(node("Gather", ["qkv", f"n{index}"], f"{name}_one", axis=0))
        nodes.append(node("Reshape", [f"{name}_one", "rows_heads"], f"{name}_rows"))
        nodes.append(node("Transpose", [f"{name}_rows"], f"{name}_moved", perm=[1, 0, 2]))
        nodes.append(node("Reshape", [f"{name}_moved", "heads"], name))
    nodes += [
        *rest,
        node("Transpose", ["mixed"], "rows", perm=[2, 0, 1, 3]),
        node("Reshape", ["rows", "flat"], "joined"),
        node("Gemm", ["joined", "o", "c"], "g", transB=1),
        node("Reshape", ["g", "second"], "s"),
        node("Transpose", ["s"], "back", perm=[1, 0, 2]),
        node("Add", ["x", "back"], "y"),
    ]
    constants |= {f"n{i}": np.array(i) for i in range(3)} | {"i0": ints(0), "last": ints(-2), "c": real(8)}
    constants |= {"parts": ints(5, 1, 3, 8), "rows_heads": ints(5, 2, 4), "heads": ints(1, 2, 5, 4)}
    return nodes, constants | {"flat": ints(5, 8), "second": ints(5, 1, 8)}, shape


def group_norm() -> Parts:
    """nn.GroupNorm at opset 11: an InstanceNormalization over reshaped groups, then factors."""
    nodes = [
        node("Reshape", ["x", "grouped"], "g"),
        node("InstanceNormalization", ["g", "ones", "zeros"], "n"),
        node("Shape", ["x"], "shape"),
        node("Reshape", ["n", "shape"], "back"),
        node("Mul", ["back", "gamma"], "m"),
        node("Add", ["m", "beta"], "y"),
    ]
    constants = {"grouped": ints(0, 2, -1), "ones": np.ones(2, np.float32), "zeros": np.zeros(2, np.float32)}
    return nodes, constants | {"gamma": real(4, 1, 1), "beta": real(4, 1, 1)}, (4, 3, 5)


def pixel_shuffle() -> Parts:
    """nn.PixelShuffle(2)"""
    return [node("DepthToSpace", ["x"], blocksize=2, mode="CRD")], {}, (8, 3, 4)


def keras_conv1d() -> Parts:
    """tf2onnx: a Conv1D of (T, C) as a 2-D convolution between transposes and an axis of one."""
    nodes = [
        node("Unsqueeze", ["x", "axis"], "u"),
        node("Transpose", ["u"], "t", perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w", "b"], "c", kernel_shape=[1, 3], pads=[0, 2, 0, 0]),
        node("Transpose", ["c"], "r", perm=[0, 2, 3, 1]),
        node("Squeeze", ["r", "axis"], "s"),
        node("Relu", ["s"], "y"),
    ]
    return nodes, {"axis": ints(1), "w": real(5, 3, 1, 3), "b": real(5)}, (10, 3)


def flatten_by_shape() -> Parts:
    """x.view(x.size(0), -1) and a dense layer."""
    nodes = [
        node("Conv", ["x", "w"], "c"),
        node("Shape", ["c"], "shape"),
        node("Gather", ["shape", "i0"], "n", axis=0),
        node("Unsqueeze", ["n", "axis"], "n1"),
        node("Concat", ["n1", "rest"], "size", axis=0),
        node("Reshape", ["c", "size"], "f"),
        node("Gemm", ["f", "g"], "y"),
    ]
    constants = {"i0": np.array(0), "axis": ints(0), "rest": ints(-1), "w": real(4, 3, 3, 3), "g": real(48, 2)}
    return nodes, constants, (3, 5, 6)


EXPORTS = (attention, encoder_attention, group_norm, pixel_shuffle, keras_conv1d, flatten_by_shape)


@pytest.mark.parametrize(
    "make", [*EXPORTS, *(partial(packed_attention, cut) for cut in (by_gather, by_slices, by_split))]
)
@pytest.mark.parametrize("kind", ["int8", "float32"])
def test_export(tmp_path: Path, make: Any, kind: str) -> None:
    nodes, constants, shape = make()
    path = save_model(tmp_path / "m.onnx", nodes, ("N", *shape), constants, opset=13)
    x = RNG.normal(size=(4, *shape)).astype(np.float32)
    graph = load_graph(path, type=kind)
    (name,), (result,) = graph.inputs, graph.outputs
    got = run_float(graph, {name: to_device_order(x, graph.source_layouts[name])})[result]
    session = onnxruntime.InferenceSession(path)
    wanted = np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])
    got = to_source_order(got, graph.source_layouts[result])
    np.testing.assert_allclose(got.reshape(wanted.shape), wanted, rtol=0, atol=2e-5)
