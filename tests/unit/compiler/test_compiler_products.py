"""Products of activations, normalisations, top-k, repeats: ONNX Runtime's numbers, int8 within a step of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, load

from tinyfleet_compiler.graph import L2Normalize, MatMul, Normalize, Transpose
from tinyfleet_compiler.importers.onnx_graph import import_onnx
from tinyfleet_compiler.load_model import load_graph
from tinyfleet_compiler.operators import OpCode
from unit.compiler.onnx_models import node, save_model
from unit.compiler.test_compiler_import import floats, same_as_onnxruntime
from unit.compiler.test_compiler_simulate import build, steps_apart

RNG = np.random.default_rng(12)


def device_shape(path: Path) -> tuple[int, ...]:
    graph = load_graph(path)
    return graph.shapes[graph.inputs[0]]


def within(path: Path, steps: int, codes: list[OpCode]) -> None:
    """The compiled ops, and how far int8 is from real arithmetic on random codes."""
    shape = device_shape(path)
    rng = np.random.default_rng(13)  # of its own: other modules draw from RNG while tests are collected
    compiled = build(path, rng.normal(0.2, 1.5, size=(60, *shape)).astype(np.float32))
    assert [op.code for op in compiled.ops] == codes
    assert steps_apart(compiled, rng.integers(-128, 128, size=(20, *shape)).astype(np.int8)) <= steps


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        ([node("Transpose", ["x"], "t", perm=[0, 1, 3, 2]), node("MatMul", ["x", "t"])], (2, 4, 5)),
        ([node("Transpose", ["x"], "t", perm=[0, 2, 1]), node("MatMul", ["t", "x"])], (4, 5)),
        ([node("MatMul", ["x", "m"])], (2, 4, 5)),
        ([node("MatMul", ["n", "x"])], (4, 5)),
        ([node("MatMul", ["x", "x"], "s"), node("Relu", ["s"])], (3, 4, 4)),
        ([node("MatMul", ["x", "x"], "s"), node("Mul", ["s", "c"])], (3, 4, 4)),
        ([node("MatMul", ["x", "x"], "s"), node("Transpose", ["s"], perm=[0, 3, 1, 2])], (3, 4, 4)),
    ],
)
def test_products_absorb_what_moves_and_scales(tmp_path: Path, nodes: list[Any], shape: tuple[int, ...]) -> None:
    constants = {"m": floats(2, 5, 3), "n": floats(6, 4), "c": np.float32(0.25)}
    path = save_model(tmp_path / "m.onnx", nodes, [1, *shape], constants)
    same_as_onnxruntime(path, shape)
    within(path, 2, [OpCode.BATCH_MATMUL])


def attention(heads: int = 2, time: int = 6, width: int = 8) -> tuple[list[Any], dict[str, Any]]:
    """Self-attention as PyTorch writes it: project, split into heads, softmax(q k^T / sqrt(d)) v, join, project."""
    depth = width // heads
    nodes = []
    for name in "qkv":
        perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes += [
            node("MatMul", ["x", f"w{name}"], f"{name}0"),
            node("Add", [f"{name}0", "b"], f"{name}1"),
            node("Reshape", [f"{name}1", "split"], f"{name}2"),
            node("Transpose", [f"{name}2"], name, perm=perm),
        ]
    nodes += [
        node("MatMul", ["q", "k"], "s"),
        node("Div", ["s", "root"], "d"),
        node("Softmax", ["d"], "p", axis=-1),
        node("MatMul", ["p", "v"], "o"),
        node("Transpose", ["o"], "ot", perm=[0, 2, 1, 3]),
        node("Reshape", ["ot", "join"], "j"),
        node("MatMul", ["j", "wo"]),
    ]
    constants = {f"w{name}": floats(width, width) / 3 for name in "qkvo"}
    constants |= {"split": np.array([1, time, heads, depth]), "join": np.array([1, time, width]), "b": floats(width)}
    return nodes, constants | {"root": np.float32(np.sqrt(depth))}


def test_attention_needs_no_transpose(tmp_path: Path) -> None:
    nodes, constants = attention()
    path = save_model(tmp_path / "m.onnx", nodes, [1, 6, 8], constants)
    same_as_onnxruntime(path, (6, 8))
    graph = load_graph(path)
    assert not [n for n in graph.nodes if isinstance(n, Transpose)]
    assert sum(isinstance(n, MatMul) for n in graph.nodes) == 2


def normalization_parts(axes: list[int], root: str) -> list[Any]:
    """Layer normalisation written out, in the three ways exporters write it."""
    squared = node("Pow", ["d", "two"], "s") if root != "mul" else node("Mul", ["d", "d"], "s")
    nodes = [
        node("ReduceMean", ["x"], "m", axes=axes),
        node("Sub", ["x", "m"], "d"),
        squared,
        node("ReduceMean", ["s"], "v", axes=axes),
        node("Add", ["v", "e"], "w"),
        node("Sqrt", ["w"], "r"),
    ]
    if root == "reciprocal":
        nodes += [node("Reciprocal", ["r"], "i"), node("Mul", ["d", "i"], "n")]
    else:
        nodes.append(node("Div", ["d", "r"], "n"))
    return [*nodes, node("Mul", ["n", "g"], "a"), node("Add", ["a", "b"])]


@pytest.mark.parametrize("root", ["pow", "mul", "reciprocal"])
@pytest.mark.parametrize(("shape", "axes"), [((7, 12), [-1]), ((12, 3, 4), [1]), ((3, 4, 12), [-1])])
def test_written_out_layer_normalization(tmp_path: Path, root: str, shape: tuple[int, ...], axes: list[int]) -> None:
    width = (12, 1, 1) if axes == [1] else (12,)
    constants = {"two": np.float32(2), "e": np.float32(1e-5), "g": 1 + 0.2 * floats(*width), "b": floats(*width)}
    path = save_model(tmp_path / "m.onnx", normalization_parts(axes, root), [1, *shape], constants)
    same_as_onnxruntime(path, shape)
    within(path, 1, [OpCode.NORMALIZE])


def test_root_mean_square_is_recognised(tmp_path: Path) -> None:
    nodes = [
        node("Pow", ["x", "two"], "s"),
        node("ReduceMean", ["s"], "v", axes=[-1]),
        node("Add", ["v", "e"], "w"),
        node("Sqrt", ["w"], "r"),
        node("Div", ["x", "r"], "n"),
        node("Mul", ["n", "g"]),
    ]
    constants = {"two": np.float32(2), "e": np.float32(1e-5), "g": 1 + 0.2 * floats(12)}
    path = save_model(tmp_path / "m.onnx", nodes, [1, 5, 12], constants)
    same_as_onnxruntime(path, (5, 12))
    (made,) = load_graph(path).nodes
    assert isinstance(made, Normalize)
    assert not made.centred
    within(path, 1, [OpCode.NORMALIZE])


@pytest.mark.parametrize(
    ("made", "shape", "constants"),
    [
        (node("LayerNormalization", ["x", "g", "b"]), (5, 12), {"g": floats(12), "b": floats(12)}),
        (node("LayerNormalization", ["x", "g"], axis=2), (3, 4, 5), {"g": floats(4, 5)}),
        (node("LayerNormalization", ["x", "g"], axis=1), (3, 4, 5), {"g": floats(3, 4, 5)}),
        (node("InstanceNormalization", ["x", "g", "b"]), (4, 5, 6), {"g": floats(4), "b": floats(4)}),
        (node("InstanceNormalization", ["x", "g", "b"]), (4, 9), {"g": floats(4), "b": floats(4)}),
    ],
)
def test_normalization(tmp_path: Path, made: Any, shape: tuple[int, ...], constants: dict[str, Any]) -> None:
    path = save_model(tmp_path / "m.onnx", [made], [1, *shape], constants)
    same_as_onnxruntime(path, shape)
    within(path, 1, [OpCode.NORMALIZE])


def test_group_normalization(tmp_path: Path) -> None:
    made = node("GroupNormalization", ["x", "g", "b"], num_groups=2)
    constants = {"g": floats(6), "b": floats(6)}
    path = save_model(tmp_path / "m.onnx", [made], [1, 6, 4, 3], constants, opset=21)
    same_as_onnxruntime(path, (6, 4, 3))
    within(path, 1, [OpCode.NORMALIZE])


@pytest.mark.parametrize(("shape", "axis", "largest"), [((9,), -1, 1), ((4, 7), 1, 0), ((3, 5, 4), 2, 1)])
def test_top_k(tmp_path: Path, shape: tuple[int, ...], axis: int, largest: int) -> None:
    made = helper.make_node("TopK", ["x", "k"], ["y", "i"], name="top", axis=axis, largest=largest)
    path = save_model(tmp_path / "m.onnx", [made], [1, *shape], {"k": np.array([3])}, outputs=("y", "i"))
    model = load(path)
    model.graph.output[1].CopyFrom(helper.make_tensor_value_info("i", TensorProto.INT64, None))
    path.write_bytes(model.SerializeToString())
    same_as_onnxruntime(path, shape)
    device = device_shape(path)
    compiled = build(path, RNG.normal(size=(40, *device)).astype(np.float32))
    codes = {op.code for op in compiled.ops} - {OpCode.TRANSPOSE}
    assert codes == {OpCode.TOP_K, OpCode.TOP_K_INDICES}


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
@pytest.mark.parametrize(
    ("shape", "pads"),
    [((3, 4, 5), [0, 0, 2, 1, 0, 0, 1, 3]), ((3, 6), [0, 0, 2, 0, 0, 3]), ((3, 4, 5), [0, 1, 0, 0, 0, 2, 0, 0])],
)
def test_pad_modes(tmp_path: Path, mode: str, shape: tuple[int, ...], pads: list[int]) -> None:
    path = save_model(
        tmp_path / "m.onnx", [node("Pad", ["x", "p"], mode=mode)], [1, *shape], {"p": np.array(pads)}, opset=19
    )
    same_as_onnxruntime(path, shape)
    within(path, 0, [OpCode.GATHER])


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("more", [{"pads": [1, 1, 1, 1], "output_padding": [1, 0]}, {"auto_pad": "SAME_UPPER"}])
def test_grouped_transposed_convolution(tmp_path: Path, groups: int, more: dict[str, Any]) -> None:
    made = node("ConvTranspose", ["x", "w", "b"], group=groups, strides=[2, 2], **more)
    constants = {"w": floats(8, 3, 3, 3), "b": floats(3 * groups)}
    path = save_model(tmp_path / "m.onnx", [made], [1, 8, 4, 5], constants)
    same_as_onnxruntime(path, (8, 4, 5))
    within(path, 1, [OpCode.TRANSPOSE_CONV_2D])


@pytest.mark.parametrize(
    ("nodes", "shape", "constants"),
    [
        ([node("Expand", ["x", "s"])], (3, 1, 1), {"s": np.array([1, 3, 4, 2])}),
        ([node("Expand", ["x", "s"], "e"), node("Neg", ["e"])], (3, 4), {"s": np.array([3, 4])}),
        ([node("Tile", ["x", "s"])], (3, 4), {"s": np.array([1, 2, 3])}),
        ([node("Tile", ["x", "s"])], (3, 4, 2), {"s": np.array([1, 2, 3, 2])}),
        ([node("Where", ["c", "x", "v"])], (3, 4), {"c": np.tri(3, 4) > 0, "v": np.float32(-2)}),
        ([node("Where", ["c", "v", "x"])], (3, 4), {"c": np.tri(3, 4) > 0, "v": floats(1, 4)}),
        ([node("Cast", ["x"], "i", to=7), node("Cast", ["i"], to=1)], (3, 4), {}),
        ([node("Gather", ["x", "s"], axis=1)], (5, 4), {"s": np.array([[0, 2], [4, 4]])}),
        ([node("Log", ["a"]), node("Abs", ["x"], "a0"), node("Add", ["a0", "v"], "a")], (4,), {"v": np.float32(1)}),
        ([node("Reciprocal", ["a"]), node("Exp", ["x"], "a")], (4,), {}),
        ([node("Sum", ["x", "x"])], (4,), {}),
        ([node("Softmax", ["x"], axis=2)], (3, 4, 2), {}),
    ],
)
def test_small_operators(tmp_path: Path, nodes: list[Any], shape: tuple[int, ...], constants: dict[str, Any]) -> None:
    path = save_model(tmp_path / "m.onnx", nodes, [1, *shape], constants)
    same_as_onnxruntime(path, shape)
    compiled = build(path, RNG.normal(0.2, 1.5, size=(60, *device_shape(path))).astype(np.float32))
    assert steps_apart(compiled, RNG.integers(-128, 128, size=(9, *device_shape(path))).astype(np.int8)) <= 3


@pytest.mark.parametrize(
    ("made", "shape", "constants", "reason"),
    [
        (node("MatMul", ["x", "x"]), (3, 4), {}, "multiplies"),
        (node("MatMul", ["x", "m"]), (3, 4), {"m": floats(2, 5, 3)}, "multiplies"),
        (node("Gemm", ["x", "x"], transB=1), (4,), {}, "along the batch"),
        (node("TopK", ["x", "k"]), (4,), {"k": np.array([5])}, "takes 5 of 4"),
        (node("TopK", ["x", "k"], axis=0), (4,), {"k": np.array([1])}, "along axis 0"),
        (node("LayerNormalization", ["x", "g"], axis=0), (4,), {"g": floats(4)}, "from axis 0"),
        (node("LayerNormalization", ["x", "g"], epsilon=-1.0), (4,), {"g": floats(4)}, "epsilon"),
        (node("GroupNormalization", ["x", "g", "g"], num_groups=3), (4, 2, 2), {"g": floats(4)}, "3 groups of 4"),
        (node("Tile", ["x", "s"]), (4,), {"s": np.array([1, 1 << 30])}, "makes a tensor"),
        (node("Expand", ["x", "s"]), (4,), {"s": np.array([2, 4])}, "expands"),
        (node("Where", ["c", "x", "x"]), (4,), {"c": np.array([True])}, "two activations"),
        (node("Cast", ["x"], to=9), (4,), {}, "casts to type 9"),
        (node("Pad", ["x", "s"], mode="mirror"), (4,), {"s": np.array([0, 1, 0, 1])}, "pads by 'mirror'"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, made: Any, shape: tuple[int, ...], constants: dict[str, Any], reason: str
) -> None:
    imported = import_onnx(save_model(tmp_path / "m.onnx", [made], [1, *shape], constants))
    assert imported.graph is None
    assert reason in imported.problems[0].reason


def written_norm(way: str, axis: int, keep: int = 1) -> list[Any]:
    """x / |x| as exporters write it."""
    nodes = [node("ReduceL2", ["x"], "n", axes=[axis], keepdims=keep)]
    match way:
        case "div":
            nodes += [node("Div", ["x", "n"])]
        case "clip, expand":  # torch.nn.functional.normalize
            nodes += [node("Clip", ["n", "tiny"], "b"), node("Shape", ["x"], "s"), node("Expand", ["b", "s"], "e")]
            nodes += [node("Div", ["x", "e"])]
        case "max":
            nodes += [node("Max", ["n", "tiny"], "b"), node("Div", ["x", "b"])]
        case "add":
            nodes += [node("Add", ["n", "tiny"], "b"), node("Div", ["x", "b"])]
        case "unsqueeze":
            nodes += [node("Unsqueeze", ["n", "a"], "u"), node("Div", ["x", "u"])]
        case "rsqrt":  # tf.math.l2_normalize
            nodes = [node("Mul", ["x", "x"], "q"), node("ReduceSum", ["q", "a"], "t"), node("Max", ["t", "tiny"], "b")]
            nodes += [node("Sqrt", ["b"], "r"), node("Reciprocal", ["r"], "i"), node("Mul", ["x", "i"])]
        case "power":
            nodes = [node("Pow", ["x", "two"], "q"), node("ReduceSum", ["q", "a"], "t"), node("Pow", ["t", "p"], "i")]
            nodes += [node("Mul", ["i", "x"])]
    return nodes


WAYS = ("div", "clip, expand", "max", "add", "unsqueeze", "rsqrt", "power")
PLACES = (((12,), -1), ((5, 12), 2), ((12, 3, 4), 1))


@pytest.mark.parametrize(
    ("way", "shape", "axis"), [(w, *place) for w in WAYS for place in PLACES if (w, place[0]) != ("unsqueeze", (12,))]
)
def test_written_out_l2_normalization(tmp_path: Path, way: str, shape: tuple[int, ...], axis: int) -> None:
    nodes = written_norm(way, axis, int(way != "unsqueeze"))
    constants = {"tiny": np.float32(1e-12), "a": np.array([axis]), "two": np.float32(2), "p": np.float32(-0.5)}
    path = save_model(tmp_path / "m.onnx", nodes, [1, *shape], constants)
    same_as_onnxruntime(path, shape)
    (made,) = load_graph(path).nodes
    assert isinstance(made, L2Normalize)
    within(path, 1, [OpCode.L2_NORMALIZE])


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ReduceL2", ["x"], "n", axes=[1]), node("Max", ["n", "half"], "b"), node("Div", ["x", "b"])],
        [node("ReduceL2", ["x"], "n", axes=[1, 2, 3]), node("Div", ["x", "n"])],
        [node("ReduceL2", ["x"], "n", axes=[2]), node("Div", ["x", "n"])],
        [node("ReduceL2", ["x"], "n", axes=[1]), node("Mul", ["x", "n"])],
        [node("ReduceL2", ["x"], "n", axes=[-1], keepdims=0), node("Relu", ["n"])],
        [node("ReduceL1", ["x"], "n", axes=[1]), node("Div", ["x", "n"])],
        [node("ReduceSumSquare", ["x"], axes=[1, 3])],
        [
            node("Mul", ["x", "x"], "q"),
            node("ReduceSum", ["q", "a"], "t"),
            node("Pow", ["t", "p"], "i"),
            node("Div", ["x", "i"]),
        ],
        [
            node("ReduceL2", ["x"], "n", axes=[3], keepdims=0),
            node("Unsqueeze", ["n", "two"], "u"),
            node("Div", ["x", "u"]),
        ],
    ],
)
def test_other_norms_are_sums(tmp_path: Path, nodes: list[Any]) -> None:
    constants = {"half": np.float32(3), "a": np.array([1]), "p": np.float32(-0.5), "two": np.array([2])}
    path = save_model(tmp_path / "m.onnx", nodes, [1, 3, 4, 4], constants)
    graph = same_as_onnxruntime(path, (3, 4, 4))
    assert not any(isinstance(n, L2Normalize) for n in graph.nodes)


@pytest.mark.parametrize("kind", ["L1", "L2", "SumSquare"])
def test_norms_in_int8(tmp_path: Path, kind: str) -> None:
    path = save_model(tmp_path / "m.onnx", [node(f"Reduce{kind}", ["x"], axes=[-1], keepdims=0)], [1, 4, 9])
    compiled = build(path, RNG.normal(0.2, 1.5, size=(60, 4, 9)).astype(np.float32))
    assert steps_apart(compiled, RNG.integers(-128, 128, size=(20, 4, 9)).astype(np.int8)) <= 4


def test_an_inverse_root_as_divisor_is_no_normalization(tmp_path: Path) -> None:
    """x / v^(-1/2) is x * sqrt(v)."""
    nodes = [node("Pow", ["x", "two"], "s"), node("ReduceMean", ["s"], "v", axes=[-1]), node("Add", ["v", "e"], "w")]
    nodes += [node("Pow", ["w", "p"], "i"), node("Div", ["x", "i"])]
    constants = {"two": np.float32(2), "e": np.float32(1e-5), "p": np.float32(-0.5)}
    same_as_onnxruntime(save_model(tmp_path / "m.onnx", nodes, [1, 5, 12], constants), (5, 12))
