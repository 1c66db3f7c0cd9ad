"""Every kind of operator between QuantizeLinear and DequantizeLinear pairs: within one step of ONNX Runtime, which is
fed and asked layer by layer, with graph optimisation off."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tinyfleet_compiler import check_model, compile_model, load_device_class, read_image, simulate
from tinyfleet_compiler.operators import OpCode
from unit.compiler.onnx_models import node, save_model
from unit.compiler.test_onnx_qdq import compiled_from, largest_steps, random_input, tensors_of, weights

Case = tuple[list[onnx.NodeProto], dict[str, Any], tuple[int, ...], OpCode]
IMAGE = (3, 7, 6)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def in_pairs(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, Any], x: np.ndarray) -> Path:
    """The model with a pair of its own, on the range seen, around every activation and every weight of a layer."""
    names = [n.output[0] for n in nodes]
    ends = ("N", *x.shape[1:])
    plain = save_model(path.with_suffix(".float.onnx"), nodes, ends, constants, outputs=names)
    seen = dict(zip(names, ort.InferenceSession(str(plain)).run(names, {"x": x}), strict=True)) | {"x": x}
    made: list[onnx.NodeProto] = []
    known, now = dict(constants), dict[str, str]()

    def pair(name: str) -> None:
        low, high = min(float(seen[name].min()), 0.0), max(float(seen[name].max()), 0.0)
        scale = np.float32(max(high - low, 1e-3) / 255)
        known[f"{name}/s"], known[f"{name}/z"] = scale, np.int8(round(-128 - low / float(scale)))
        made.append(node("QuantizeLinear", [name, f"{name}/s", f"{name}/z"], f"{name}/q"))
        made.append(node("DequantizeLinear", [f"{name}/q", f"{name}/s", f"{name}/z"], f"{name}/d"))
        now[name] = f"{name}/d"

    def weight(name: str) -> None:
        scale = np.float32(np.abs(known[name]).max() / 127)
        known[name] = np.rint(known[name] / scale).astype(np.int8)
        known[f"{name}/s"] = scale
        made.append(node("DequantizeLinear", [name, f"{name}/s"], f"{name}/d"))
        now[name] = f"{name}/d"

    pair("x")
    for one in nodes:
        if one.op_type in ("Conv", "ConvTranspose", "Gemm"):
            weight(one.input[1])
        copy = onnx.NodeProto()
        copy.CopyFrom(one)
        copy.input[:] = [now.get(name, name) for name in one.input]
        made.append(copy)
        pair(one.output[0])
    return save_model(path, made, ends, known, outputs=[now[names[-1]]])


def window(**attributes: Any) -> list[onnx.NodeProto]:
    return [node("AveragePool", ["x"], kernel_shape=[3, 3], strides=[2, 2], **attributes)]


RELU = node("Relu", ["x"], "r")
RESIZE = {"coordinate_transformation_mode": "half_pixel"}
NEAREST = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
TWICE = {"s": np.array([1, 1, 2, 2], np.float32)}
CASES: dict[str, Case] = {
    "quotient": ([node("Mul", ["x", "x"], "m"), node("Add", ["m", "one"], "p"), node("Div", ["x", "p"])],
                 {"one": np.ones((1, 3, 1, 1), np.float32)}, IMAGE, OpCode.DIV),
    "difference": ([RELU, node("Sub", ["r", "x"])], {}, IMAGE, OpCode.SUB),
    "minimum": ([RELU, node("Min", ["r", "x"])], {}, IMAGE, OpCode.MINIMUM),
    "maximum": ([RELU, node("Max", ["r", "x"])], {}, IMAGE, OpCode.MAXIMUM),
    "product": ([RELU, node("MatMul", ["r", "x"])], {}, (4, 6, 6), OpCode.BATCH_MATMUL),
    "largest": ([node("ReduceMax", ["x"], axes=[2], keepdims=1)], {}, IMAGE, OpCode.REDUCE_MAX),
    "smallest": ([node("ReduceMin", ["x"], axes=[3], keepdims=1)], {}, IMAGE, OpCode.REDUCE_MIN),
    "mean": ([node("ReduceMean", ["x"], axes=[3], keepdims=1)], {}, IMAGE, OpCode.REDUCE_SUM),
    "slopes": ([node("PRelu", ["x", "s"])], {"s": np.abs(weights(3, 1, 1))}, IMAGE, OpCode.PRELU),
    "average pool": (window(), {}, IMAGE, OpCode.DEPTHWISE_CONV_2D),
    "average pool with its pads": (window(pads=[1, 1, 1, 1], count_include_pad=1), {}, IMAGE, OpCode.DEPTHWISE_CONV_2D),
    "largest of a plane": ([node("GlobalMaxPool", ["x"])], {}, IMAGE, OpCode.MAX_POOL_2D),
    "layer normalisation": ([node("LayerNormalization", ["x", "g", "b"], axis=-1)],
                            {"g": np.ones(12, np.float32), "b": np.zeros(12, np.float32)}, (5, 12), OpCode.NORMALIZE),
    "slice": ([node("Slice", ["x", "a", "b", "c", "d"])],
              {"a": ints(1), "b": ints(5), "c": ints(2), "d": ints(2)}, IMAGE, OpCode.STRIDED_COPY),
    "pad": ([node("Pad", ["x", "p"])], {"p": ints(0, 0, 1, 2, 0, 0, 0, 1)}, IMAGE, OpCode.PAD),
    "depth to space": ([node("DepthToSpace", ["x"], blocksize=2)], {}, (8, 4, 5), OpCode.STRIDED_COPY),
    "bilinear": ([node("Resize", ["x", "", "s"], mode="linear", **RESIZE)], TWICE, IMAGE, OpCode.RESIZE_BILINEAR),
    "nearest": ([node("Resize", ["x", "", "s"], mode="nearest", **NEAREST)], TWICE, IMAGE, OpCode.GATHER),
    "gather": ([node("Gather", ["x", "i"], axis=2)], {"i": ints(2, 0, 1)}, IMAGE, OpCode.GATHER),
    "transposed convolution": ([node("ConvTranspose", ["x", "w"], strides=[2, 2])],
                               {"w": weights(3, 4, 2, 2)}, IMAGE, OpCode.TRANSPOSE_CONV_2D),
    **{name.lower(): ([node(name, ["x"])], {}, IMAGE, OpCode.LUT_INT8)
       for name in ("HardSwish", "HardSigmoid", "Elu", "Erf", "Tanh", "Softplus", "LeakyRelu")},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_layer_is_within_a_step(tmp_path: Path, case: str) -> None:
    nodes, constants, shape, code = CASES[case]
    x = random_input(*shape)
    path = in_pairs(tmp_path / "m.onnx", nodes, constants, x)
    steps = largest_steps(path, x)
    assert len(steps) == len(nodes)
    assert max(steps.values()) <= 1, steps
    assert code in {op.code for op in compiled_from(path).ops}


def test_a_log_softmax_in_finer_steps_than_its_kernel_s_runs_over_float32(tmp_path: Path) -> None:
    x = random_input(12)
    path = in_pairs(tmp_path / "m.onnx", [node("LogSoftmax", ["x"], axis=-1)], {}, x)
    m4, m0 = load_device_class("cortex-m4"), load_device_class("cortex-m0plus")
    image = read_image(compile_model(path, m4, name="m", version="1", calibration=None).image)
    assert [op.code for op in image.ops] == [OpCode.DEQUANTIZE, OpCode.LOG_SOFTMAX_F32, OpCode.QUANTIZE]
    steps = simulate(image, {"x": x})[image.outputs[0].name].astype(int) - tensors_of(path, x)["y"]
    assert np.abs(steps).max() <= 1
    (problem,) = check_model(path, m0).problems
    assert "finer steps than the 1/16" in problem.reason


@pytest.mark.parametrize("operator", ["Sum", "Max"])
def test_three_operands_are_joined_over_float32(tmp_path: Path, operator: str) -> None:
    """The tensor between the two steps has no parameters in the file."""
    x = random_input(*IMAGE)
    nodes = [RELU, node("Tanh", ["x"], "t"), node(operator, ["r", "x", "t"])]
    path = in_pairs(tmp_path / "m.onnx", nodes, {}, x)
    m4 = load_device_class("cortex-m4")
    image = read_image(compile_model(path, m4, name="m", version="1", calibration=None).image)
    ours = np.moveaxis(simulate(image, {"x": np.moveaxis(x, 1, -1)})[image.outputs[0].name], -1, 1)
    assert np.abs(ours - tensors_of(path, x)["y"].astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("dims", "perm", "last", "code"),
    [
        ((1, 2, 4, 4, 6), (0, 2, 1, 3, 4), (1, 8, 4, 6), OpCode.GATHER),
        ((1, 2, 2, 2, 4, 6), (0, 1, 4, 2, 5, 3), (1, 2, 8, 12), OpCode.STRIDED_COPY),
    ],
)
def test_shuffles_of_more_than_four_dimensions(
    tmp_path: Path, dims: tuple[int, ...], perm: tuple[int, ...], last: tuple[int, ...], code: OpCode
) -> None:
    """With pairs between the steps, as they are the same for every element."""
    x = random_input(8, 4, 6)[:1]
    nodes = [node("Reshape", ["x", "d"], "w"), node("Transpose", ["w"], "t", perm=perm), node("Reshape", ["t", "l"])]
    path = in_pairs(tmp_path / "m.onnx", nodes, {"d": ints(*dims), "l": ints(*last)}, x)
    image = read_image(
        compile_model(path, load_device_class("cortex-m0plus"), name="m", version="1", calibration=None).image
    )
    assert code in {op.code for op in image.ops}
    (output,) = simulate(image, {"x": np.moveaxis(x, 1, -1)}).values()
    np.testing.assert_array_equal(np.moveaxis(output, -1, 1), tensors_of(path, x)["y"])
