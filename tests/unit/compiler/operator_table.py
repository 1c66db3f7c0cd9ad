"""Every operator the compiler promises, as a small ONNX model; docs/operators.md is written from this table.

python -m unit.compiler.operator_table > ../docs/operators.md      (in tests/)
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tinyfleet_compiler.importers.tflite_graph import HELP
from tinyfleet_compiler.importers.untaken import ONNX_HELP
from unit.compiler import recurrent_models
from unit.compiler.onnx_models import node

DOCS = Path(__file__).resolve().parents[3] / "docs" / "operators.md"
RNG = np.random.default_rng(4)
IMAGE, SEQUENCE, VECTOR = (4, 6, 6), (4, 12), (12,)


def real(*shape: int) -> np.ndarray:
    return (RNG.normal(size=shape) / 2).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Row:
    """One operator: nodes from `x` to `y`, and what it is called in TFLite ("" where the format has none)."""

    name: str
    nodes: Sequence[onnx.NodeProto]
    shape: tuple[int, ...]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    tflite: str = ""
    qdq: bool = True
    """Whether a quantised ONNX file holds it as integers."""
    float32: bool = True
    tflite_float: bool = True
    """Whether TFLite's operator is taken over real numbers too."""


def two(operator: str, **more: Any) -> list[onnx.NodeProto]:
    return [node("Sigmoid", ["x"], "a"), node(operator, ["x", "a"], **more)]


def _both_ways(operator: str) -> tuple[list[onnx.NodeProto], tuple[int, ...], dict[str, np.ndarray]]:
    nodes = [
        node("Transpose", ["x"], "t", perm=[1, 0, 2]),
        recurrent_models.layer(operator, ("rows",), direction="bidirectional"),
        node("Transpose", ["rows"], perm=[2, 0, 1, 3]),
    ]
    return nodes, STEPS, recurrent_models.constants(operator, 0, ways=2)


def _layer(operator: str) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    nodes = [
        node("Transpose", ["x"], "t", perm=[1, 0, 2]),
        recurrent_models.layer(operator, ("rows",)),
        node("Squeeze", ["rows", "one"], "s"),
        node("Transpose", ["s"], perm=[1, 0, 2]),
    ]
    return nodes, recurrent_models.constants(operator, 0) | {"one": ints(1)}


STEPS = (recurrent_models.STEPS, recurrent_models.FEATURES)
_HALF = {"s": np.array([1, 1, 2, 2], np.float32)}
_NONE: dict[str, np.ndarray] = {}
ROWS = (
    Row("convolution, 1-D", [node("Conv", ["x", "w"], pads=[1, 1])], SEQUENCE, {"w": real(5, 4, 3)}, "CONV_2D"),
    Row("convolution, 2-D", [node("Conv", ["x", "w"])], IMAGE, {"w": real(5, 4, 3, 3)}, "CONV_2D"),
    Row(
        "convolution, depthwise",
        [node("Conv", ["x", "w"], group=4)],
        IMAGE,
        {"w": real(4, 1, 3, 3)},
        "DEPTHWISE_CONV_2D",
    ),
    Row("convolution, grouped", [node("Conv", ["x", "w"], group=2)], IMAGE, {"w": real(6, 2, 3, 3)}, "CONV_2D"),
    Row(
        "convolution, dilated", [node("Conv", ["x", "w"], dilations=[2, 2])], IMAGE, {"w": real(5, 4, 3, 3)}, "CONV_2D"
    ),
    Row(
        "convolution, transposed",
        [node("ConvTranspose", ["x", "w"], strides=[2, 2])],
        IMAGE,
        {"w": real(4, 3, 3, 3)},
        "TRANSPOSE_CONV",
    ),
    Row(
        "convolution, transposed, grouped",
        [node("ConvTranspose", ["x", "w"], group=2)],
        IMAGE,
        {"w": real(4, 3, 3, 3)},
    ),
    Row(
        "fully connected", [node("Gemm", ["x", "w", "b"])], VECTOR, {"w": real(12, 5), "b": real(5)}, "FULLY_CONNECTED"
    ),
    Row("product with a matrix", [node("MatMul", ["x", "w"])], SEQUENCE, {"w": real(12, 5)}, "FULLY_CONNECTED"),
    Row("product of two tensors", two("MatMul"), (3, 5, 5), _NONE, "BATCH_MATMUL"),
    *(
        Row(f"{n}, two tensors", two(o), IMAGE, _NONE, t)
        for n, o, t in (
            ("add", "Add", "ADD"),
            ("subtract", "Sub", "SUB"),
            ("multiply", "Mul", "MUL"),
            ("divide", "Div", "DIV"),
            ("minimum", "Min", "MINIMUM"),
            ("maximum", "Max", "MAXIMUM"),
        )
    ),
    Row(
        "broadcasting",
        [node("ReduceMean", ["x"], "m", axes=[2, 3], keepdims=1), node("Mul", ["x", "m"])],
        IMAGE,
        _NONE,
        "MUL",
    ),
    *(
        Row(n, [node(o, ["x"], **more)], VECTOR, _NONE, t)
        for n, o, t, more in (
            ("relu", "Relu", "RELU", {}),
            ("leaky relu", "LeakyRelu", "LEAKY_RELU", {}),
            ("elu", "Elu", "ELU", {}),
            ("sigmoid", "Sigmoid", "LOGISTIC", {}),
            ("tanh", "Tanh", "TANH", {}),
            ("hard sigmoid", "HardSigmoid", "", {}),
            ("hard swish", "HardSwish", "HARD_SWISH", {}),
            ("gelu", "Gelu", "GELU", {}),
            ("softmax", "Softmax", "SOFTMAX", {}),
            ("log softmax", "LogSoftmax", "LOG_SOFTMAX", {}),
        )
    ),
    Row("relu6", [node("Clip", ["x", "l", "h"])], VECTOR, {"l": np.float32(0), "h": np.float32(6)}, "RELU6"),
    Row("clip", [node("Clip", ["x", "l", "h"])], VECTOR, {"l": np.float32(-0.3), "h": np.float32(0.5)}, "RELU_N1_TO_1"),
    Row("prelu", [node("PRelu", ["x", "s"])], IMAGE, {"s": real(4, 1, 1)}, "PRELU"),
    Row("maximum pooling", [node("MaxPool", ["x"], kernel_shape=[2, 2])], IMAGE, _NONE, "MAX_POOL_2D"),
    Row("average pooling", [node("AveragePool", ["x"], kernel_shape=[2, 2])], IMAGE, _NONE, "AVERAGE_POOL_2D"),
    Row("global average pooling", [node("GlobalAveragePool", ["x"])], IMAGE, _NONE, "MEAN"),
    Row("global maximum pooling", [node("GlobalMaxPool", ["x"])], IMAGE, _NONE, "REDUCE_MAX"),
    Row("mean", [node("ReduceMean", ["x"], axes=[2, 3])], IMAGE, _NONE, "MEAN"),
    Row("sum", [node("ReduceSum", ["x", "a"])], IMAGE, {"a": ints(1)}, "SUM"),
    Row("largest", [node("ReduceMax", ["x"], axes=[1])], IMAGE, _NONE, "REDUCE_MAX"),
    Row("smallest", [node("ReduceMin", ["x"], axes=[1])], IMAGE, _NONE, "REDUCE_MIN"),
    Row("pad", [node("Pad", ["x", "p"])], IMAGE, {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}, "PAD"),
    Row(
        "pad, mirrored",
        [node("Pad", ["x", "p"], mode="reflect")],
        IMAGE,
        {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)},
        "MIRROR_PAD",
    ),
    Row("concatenation", two("Concat", axis=1), IMAGE, _NONE, "CONCATENATION"),
    Row(
        "concatenation with a constant",
        [node("Concat", ["c", "x"], axis=1)],
        SEQUENCE,
        {"c": np.linspace(-1, 1, 24, dtype=np.float32).reshape(1, 2, 12)},
        "CONCATENATION",
    ),
    Row("split", [helper.make_node("Split", ["x"], ["y", "z"], axis=1)], IMAGE, _NONE, "SPLIT"),
    Row(
        "slice",
        [node("Slice", ["x", "s", "e", "a"])],
        IMAGE,
        {"s": ints(1), "e": ints(4), "a": ints(2)},
        "STRIDED_SLICE",
    ),
    Row("gather", [node("Gather", ["x", "i"], axis=1)], IMAGE, {"i": ints(2, 0, 3)}, "GATHER"),
    Row(
        "transpose", [node("Transpose", ["x"], "t", perm=[0, 2, 1]), node("Relu", ["t"])], SEQUENCE, _NONE, "TRANSPOSE"
    ),
    Row("reshape, flatten", [node("Flatten", ["x"], "f"), node("Relu", ["f"])], IMAGE, _NONE, "RESHAPE"),
    Row(
        "squeeze, unsqueeze",
        [node("Unsqueeze", ["x", "a"], "u"), node("Relu", ["u"], "r"), node("Squeeze", ["r", "a"])],
        SEQUENCE,
        {"a": ints(2)},
        "SQUEEZE",
    ),
    Row("resize, nearest", [node("Resize", ["x", "", "s"], mode="nearest")], IMAGE, _HALF, "RESIZE_NEAREST_NEIGHBOR"),
    Row("resize, bilinear", [node("Resize", ["x", "", "s"], mode="linear")], IMAGE, _HALF, "RESIZE_BILINEAR"),
    Row("depth to space", [node("DepthToSpace", ["x"], blocksize=2)], IMAGE, _NONE, "DEPTH_TO_SPACE"),
    Row("space to depth", [node("SpaceToDepth", ["x"], blocksize=2)], IMAGE, _NONE, "SPACE_TO_DEPTH"),
    Row("argmax", [node("ArgMax", ["x"], axis=1)], VECTOR, _NONE, "ARG_MAX"),
    Row("argmin", [node("ArgMin", ["x"], axis=1)], VECTOR, _NONE, "ARG_MIN"),
    Row("top-k", [helper.make_node("TopK", ["x", "k"], ["y", "i"])], VECTOR, {"k": ints(3)}, "TOPK_V2"),
    Row(
        "batch normalisation",
        [node("BatchNormalization", ["x", "g", "b", "b", "v"])],
        IMAGE,
        {"g": real(4), "b": real(4), "v": np.abs(real(4)) + np.float32(0.5)},
    ),
    Row("layer normalisation", [node("LayerNormalization", ["x", "g"])], SEQUENCE, {"g": real(12)}),
    Row("group normalisation", [node("InstanceNormalization", ["x", "g", "b"])], IMAGE, {"g": real(4), "b": real(4)}),
    Row("L2 normalisation", [node("LpNormalization", ["x"], axis=-1)], SEQUENCE, _NONE, "L2_NORMALIZATION"),
    Row(
        "attention",
        [node("Attention", ["x", "x", "x"], q_num_heads=2, kv_num_heads=2, is_causal=1)],
        SEQUENCE[::-1],
        qdq=False,
    ),
    Row(
        "LSTM",
        _layer("LSTM")[0],
        STEPS,
        _layer("LSTM")[1],
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        qdq=False,
        tflite_float=False,
    ),
    Row("GRU", _layer("GRU")[0], STEPS, _layer("GRU")[1], qdq=False),
    Row(
        "LSTM, both ways",
        *_both_ways("LSTM"),
        "REVERSE_V2 around UNIDIRECTIONAL_SEQUENCE_LSTM; BIDIRECTIONAL_SEQUENCE_LSTM of real numbers",
        qdq=False,
    ),
    Row("GRU, both ways", *_both_ways("GRU"), qdq=False),
)


def quantized(row: Row) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """The row's nodes with a pair of QuantizeLinear and DequantizeLinear on every tensor and constant."""
    constants = {"scale": np.float32(0.05), "zero": np.int8(3), "even": np.float32(0.01), "none": np.int8(0)}
    nodes, renamed = [], {"x": "x_d"}
    outputs = {output for made in row.nodes for output in made.output}

    def pair(name: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q"], name=f"{name}_q"),
            helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_d"], name=f"{name}_d"),
        ]

    nodes += pair("x")
    for made in row.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(made)
        copy.input[:] = [renamed.get(name, name) for name in made.input]
        whole = made.op_type in ("ArgMax", "ArgMin")
        nodes.append(copy)
        for output in made.output if not whole else ():
            if output != "i":
                nodes += pair(output)
                renamed[output] = f"{output}_d"
    for name, values in row.constants.items():
        layers = {made.input[1] for made in row.nodes if made.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")}
        if name in layers and name not in outputs:
            constants[f"{name}_codes"] = np.clip(np.rint(values / 0.01), -127, 127).astype(np.int8)
            nodes.insert(0, helper.make_node("DequantizeLinear", [f"{name}_codes", "even", "none"], [name], name=name))
        else:
            constants[name] = values
    return nodes, constants


_SINCE = {"Attention": 23, "Gelu": 20}


def save(row: Row, path: Path, *, pairs: bool = False) -> Path:
    """The row as an ONNX file of opset 17, or of a later one that it needs."""
    nodes, constants = quantized(row) if pairs else (list(row.nodes), row.constants)
    shown = [name for made in row.nodes for name in made.output if name in ("y", "z", "i")]
    whole = {"i"} | {made.output[0] for made in row.nodes if made.op_type in ("ArgMax", "ArgMin")}
    ends = [name if not pairs or name in whole else f"{name}_d" for name in shown]
    kinds = [TensorProto.INT64 if name in whole else TensorProto.FLOAT for name in ends]
    graph = helper.make_graph(
        nodes,
        row.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *row.shape])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(ends, kinds, strict=True)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = max(_SINCE.get(made.op_type, 17) for made in row.nodes)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


_HEAD = """Written by `tests/unit/compiler/operator_table.py`; every cell is a model that
`tests/agent/runtime/test_operator_table.py` imports, compiles and runs in C and in the simulator. A float model,
ONNX or TFLite, becomes int8, or float32 with `--type float32`; quantised ONNX (QDQ) and TFLite are taken as they
are. A TFLite cell is two files: one of int8 codes, whose bytes are TensorFlow Lite Micro's (NUMERICS.md section 5),
and one of real numbers, run as float32; becoming int8 is the same work as for ONNX."""
_MORE = """Besides: SVDF and streaming variables (TFLite), declared states (`--state OUT=IN`), chains of functions of
one element (Exp, Log, Sqrt, Sin, Erf, Mish, Softplus, ...), squared difference, Sum, Mean, Max and Min of several,
ReduceL1, ReduceL2 and ReduceSumSquare (a division by the norm of the same axis is L2 normalisation), Where, Expand,
Tile, Cast, and the audio front end (compiler/README.md). Tensors have up to four dimensions; more are taken, and
tensors whose batch is merged with another axis, on the way to an operator that has it back: channel and pixel
shuffles, queries, keys and values cut from one product. Attention: no cache, softcap or window; masks that are
booleans, numbers to add or a tensor, grouped heads, `is_causal`. What ONNX computes of constants and of shapes alone
(arithmetic, functions of one element, reductions, products, moves) is folded. int16 activations: NUMERICS.md
section 8."""
_NOT = """`fleetctl check` lists every such node with name, operator, reason and what would help, in one pass. Recurrent
layers with peepholes, a clip, sequence lengths or other activations, or that run backwards and would keep their state;
convolutions over three dimensions; scales found at run time (DynamicQuantizeLinear); control flow (If, Loop, Scan);
indices that are no constants; strings. Of ONNX, and of TFLite:"""


def rendered() -> str:
    """docs/operators.md"""
    lines = ["# What a model may hold", "", _HEAD, ""]
    lines += ["| operator | ONNX | int8 | float32 | quantised ONNX | TFLite |", "| --- | --- | --- | --- | --- | --- |"]
    for row in ROWS:
        names = ", ".join(dict.fromkeys(made.op_type for made in row.nodes))
        quantised = "yes" if row.qdq else "float32 between pairs, on classes with an FPU"
        tflite = f"{row.tflite}{'' if row.tflite_float else ', int8 only'}" if row.tflite else "not in the format"
        cells = (row.name, names, "yes", "yes" if row.float32 else "no", quantised, tflite)
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        _MORE,
        "",
        "## What it may not hold",
        "",
        _NOT,
        "",
        "| ONNX operator (of activations) | what helps |",
        "| --- | --- |",
        *(f"| {operator} | {help} |" for operator, help in sorted(ONNX_HELP.items())),
        "",
        "| TFLite operator | what helps |",
        "| --- | --- |",
    ]
    lines += [f"| {operator} | {help} |" for operator, help in sorted(HELP.items())]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(rendered())
