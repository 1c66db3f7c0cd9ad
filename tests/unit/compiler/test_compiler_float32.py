"""Float32 images: every operator near ONNX Runtime, whole models, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from tinyfleet_compiler import CompileOptions, DatasetError, ModelError, check_model, compile_model, load_device_class
from tinyfleet_compiler.dataset import to_device_order, to_source_order
from tinyfleet_compiler.image import Image, read_image
from tinyfleet_compiler.importers.unary import MAKERS
from tinyfleet_compiler.importers.unary_float import FORMS
from tinyfleet_compiler.operators import Element, OpCode
from tinyfleet_compiler.simulate import simulate
from unit.compiler import recurrent_models
from unit.compiler.onnx_models import node, save_model, save_samples, small_cnn
from unit.compiler.recurrent_models import in_onnxruntime

M4 = load_device_class("cortex-m4")
FLOAT = CompileOptions(type="float32", golden_vectors=1)
RNG = np.random.default_rng(5)


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def compiled(path: Path) -> Image:
    return read_image(
        compile_model(path, M4, name="m", version="1", calibration=None, evaluation=None, options=FLOAT).image
    )


def near_onnxruntime(path: Path, image: Image, bound: float, samples: int = 3) -> None:
    """Largest difference at most `bound` float32 steps at the size of the output's largest value."""
    session = onnxruntime.InferenceSession(str(path))
    (source,), (result,) = image.inputs, image.outputs
    x = RNG.normal(0.0, 1.5, size=(samples, *source.source_shape)).astype(np.float32)
    got = to_source_order(simulate(image, to_device_order(x, source.source_layout))[result.name], result.source_layout)
    wanted = np.concatenate([session.run(None, {source.name: row[None]})[0] for row in x])
    step = np.spacing(np.float32(np.abs(wanted[np.isfinite(wanted)]).max()))
    np.testing.assert_allclose(got.reshape(samples, -1), wanted.reshape(samples, -1), rtol=0, atol=bound * float(step))


IMAGE, VECTOR = (3, 8, 6), (12,)
F32 = np.float32
CASES: list[tuple[str, Any, dict[str, Any], tuple[int, ...], OpCode, float]] = [
    ("Conv", {"pads": [1, 1, 1, 1]}, {"w": weights(4, 3, 3, 3), "b": weights(4)}, IMAGE, OpCode.CONV_2D_F32, 4),
    ("Conv", {"strides": [2, 2], "dilations": [2, 1]}, {"w": weights(2, 3, 3, 2)}, IMAGE, OpCode.CONV_2D_F32, 4),
    ("Conv", {"group": 3}, {"w": weights(6, 1, 3, 3)}, IMAGE, OpCode.DEPTHWISE_CONV_2D_F32, 4),
    ("Conv", {"group": 2}, {"w": weights(4, 2, 3, 3)}, (4, 6, 6), OpCode.CONV_2D_F32, 4),
    ("ConvTranspose", {"strides": [2, 2]}, {"w": weights(3, 2, 3, 3)}, IMAGE, OpCode.TRANSPOSE_CONV_2D_F32, 4),
    ("Gemm", {"transB": 1}, {"w": weights(5, 12), "b": weights(5)}, VECTOR, OpCode.FULLY_CONNECTED_F32, 4),
    (
        "MaxPool",
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0]},
        {},
        IMAGE,
        OpCode.MAX_POOL_2D_F32,
        0,
    ),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, {}, IMAGE, OpCode.AVERAGE_POOL_2D_F32, 2),
    ("AveragePool", {"kernel_shape": [2, 2], "count_include_pad": 1}, {}, IMAGE, OpCode.AVERAGE_POOL_2D_F32, 2),
    ("Softmax", {"axis": -1}, {}, VECTOR, OpCode.SOFTMAX_F32, 4),
    ("LogSoftmax", {"axis": -1}, {}, VECTOR, OpCode.LOG_SOFTMAX_F32, 4),
    ("Add", {}, {"c": weights(3, 1, 1)}, IMAGE, OpCode.ADD_F32, 0),
    ("Sub", {}, {"c": weights(1, 8, 1)}, IMAGE, OpCode.SUB_F32, 0),
    ("Mul", {}, {"c": weights(3, 8, 6)}, IMAGE, OpCode.MUL_F32, 0),
    ("Div", {}, {"c": np.abs(weights(3, 1, 6)) + F32(0.1)}, IMAGE, OpCode.DIV_F32, 0),
    ("Min", {}, {"c": weights(3, 1, 1)}, IMAGE, OpCode.MINIMUM_F32, 0),
    ("Max", {}, {"c": weights(3, 1, 6)}, IMAGE, OpCode.MAXIMUM_F32, 0),
    ("ReduceMean", {"axes": [2, 3], "keepdims": 1}, {}, IMAGE, OpCode.REDUCE_SUM_F32, 4),
    ("ReduceSum", {}, {"axes": np.array([1])}, VECTOR, OpCode.REDUCE_SUM_F32, 4),
    ("ReduceMax", {"axes": [1], "keepdims": 1}, {}, IMAGE, OpCode.REDUCE_MAX_F32, 0),
    ("ReduceMin", {"axes": [2], "keepdims": 1}, {}, IMAGE, OpCode.REDUCE_MIN_F32, 0),
    ("PRelu", {}, {"s": weights(3, 1, 1)}, IMAGE, OpCode.PRELU_F32, 0),
    ("Relu", {}, {}, VECTOR, OpCode.UNARY_F32, 0),
    ("Clip", {}, {"l": F32(-0.5), "h": F32(0.7)}, VECTOR, OpCode.UNARY_F32, 0),
    ("Transpose", {"perm": [0, 1, 3, 2]}, {}, IMAGE, OpCode.STRIDED_COPY_F32, 0),
    (
        "Slice",
        {},
        {"s": np.array([7]), "e": np.array([0]), "a": np.array([2]), "t": np.array([-2])},
        IMAGE,
        OpCode.STRIDED_COPY_F32,
        0,
    ),
    ("DepthToSpace", {"blocksize": 2}, {}, (8, 3, 2), OpCode.STRIDED_COPY_F32, 0),
    ("SpaceToDepth", {"blocksize": 2}, {}, IMAGE, OpCode.STRIDED_COPY_F32, 0),
    ("Pad", {}, {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1]), "v": F32(0.3)}, IMAGE, OpCode.PAD_F32, 0),
    ("Gather", {"axis": 1}, {"i": np.array([2, 0, 0])}, IMAGE, OpCode.GATHER, 0),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[4].name}")
def test_operator(tmp_path: Path, case: Any) -> None:
    operator, attributes, constants, shape, code, bound = case
    operands = ["x", *constants]
    if operator in ("Sub", "Div"):  # a constant on the right would become a sum or a product
        operands.reverse()
    made = node(operator, operands, **attributes)
    path = save_model(tmp_path / "m.onnx", [made], [1, *shape], constants, opset=13)
    image = compiled(path)
    assert code in [op.code for op in image.ops]
    near_onnxruntime(path, image, bound)


@pytest.mark.parametrize(("mode", "code"), [("linear", OpCode.RESIZE_BILINEAR_F32), ("nearest", OpCode.GATHER)])
def test_resize(tmp_path: Path, mode: str, code: OpCode) -> None:
    made = node("Resize", ["x", "", "s"], mode=mode, coordinate_transformation_mode="half_pixel")
    path = save_model(tmp_path / "m.onnx", [made], [1, *IMAGE], {"s": np.array([1, 1, 1.5, 2], F32)}, opset=13)
    image = compiled(path)
    assert [op.code for op in image.ops] == [code]
    near_onnxruntime(path, image, 4)


def test_arg_max(tmp_path: Path) -> None:
    image = compiled(save_model(tmp_path / "m.onnx", [node("ArgMax", ["x"], axis=1)], [1, *VECTOR]))
    x = np.round(RNG.normal(0, 2, size=(50, *VECTOR))).astype(np.float32)  # with ties
    np.testing.assert_array_equal(simulate(image, x)["y"][:, 0], x.argmax(axis=1))


def two_inputs(*nodes: Any, **constants: np.ndarray) -> tuple[list[Any], dict[str, np.ndarray]]:
    """x and a function of it, so that both operands are activations."""
    return [node("Tanh", ["x"], "a"), *nodes], constants


MODELS: dict[str, tuple[tuple[list[Any], dict[str, np.ndarray]], tuple[int, ...], float]] = {
    "product": (two_inputs(node("MatMul", ["x", "a"], "y")), (2, 5, 5), 8),
    "product, scaled": (
        two_inputs(node("MatMul", ["x", "a"], "p"), node("Mul", ["p", "f"], "y"), f=np.float32(0.3)), (5, 5), 8,
    ),
    "product, transposed": (
        two_inputs(node("Transpose", ["a"], "t", perm=[0, 2, 1]), node("MatMul", ["x", "t"], "y")), (4, 7), 8,
    ),
    "product by a batch": (([node("MatMul", ["x", "c"], "y")], {"c": weights(2, 5, 3)}), (2, 4, 5), 8),
    "layer norm": (([node("LayerNormalization", ["x", "g", "b"])], {"g": weights(7), "b": weights(7)}), (4, 7), 16),
    "group norm": (
        ([node("GroupNormalization", ["x", "g", "b"], num_groups=2)], {"g": weights(4), "b": weights(4)}),
        (4, 3, 5), 16,
    ),
    "instance norm": (
        ([node("InstanceNormalization", ["x", "g", "b"])], {"g": weights(3), "b": weights(3)}), IMAGE, 16,
    ),
    "length": (([node("LpNormalization", ["x"], axis=-1, p=2)], {}), (4, 7), 8),
    "grouped transposed convolution": (
        ([node("ConvTranspose", ["x", "w"], group=2, strides=[2, 2])], {"w": weights(4, 3, 3, 3)}), (4, 5, 4), 8,
    ),
    "squares of differences": (two_inputs(node("Sub", ["x", "a"], "d"), node("Mul", ["d", "d"], "y")), IMAGE, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_written_out(tmp_path: Path, name: str) -> None:
    (nodes, constants), shape, bound = MODELS[name]
    image = compiled(save_model(tmp_path / "m.onnx", nodes, [1, *shape], constants, opset=21))
    near_onnxruntime(tmp_path / "m.onnx", image, bound)


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(tmp_path: Path, largest: int) -> None:
    made = onnx.helper.make_node("TopK", ["x", "k"], ["y", "i"], axis=-1, largest=largest)
    path = save_model(tmp_path / "m.onnx", [made], [1, 3, 9], {"k": np.array([4])}, outputs=("y", "i"))
    model = onnx.load(path)
    model.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(model, path)
    x = np.round(RNG.normal(0, 2, size=(20, 3, 9))).astype(np.float32)  # with ties
    got = simulate(compiled(path), x)
    keys = -x if largest else x
    order = np.argsort(keys, axis=-1, kind="stable")[..., :4]
    np.testing.assert_array_equal(got["y"], np.take_along_axis(x, order, -1))
    np.testing.assert_array_equal(got["i"], order)


def test_arg_min(tmp_path: Path) -> None:
    image = compiled(save_model(tmp_path / "m.onnx", [node("ArgMin", ["x"], axis=1)], [1, *VECTOR]))
    x = np.round(RNG.normal(0, 2, size=(50, *VECTOR))).astype(np.float32)
    np.testing.assert_array_equal(simulate(image, x)["y"][:, 0], x.argmin(axis=1))


RECURRENT = pytest.mark.parametrize(
    ("operator", "attributes"), [("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 0})]
)


@RECURRENT
def test_recurrent_layers(tmp_path: Path, operator: str, attributes: dict[str, Any]) -> None:
    """From inputs, from constants, and as a stream: the floats of ONNX Runtime but for the last bits."""
    inputs = recurrent_models.given(operator)
    model = recurrent_models.starting(tmp_path / "g.onnx", operator, **attributes)
    image = compiled(model)
    for got, wanted in zip(simulate(image, inputs).values(), in_onnxruntime(model, inputs), strict=True):
        np.testing.assert_allclose(got.reshape(wanted.shape), wanted, rtol=0, atol=2e-6)
    fixed = recurrent_models.constant_start(tmp_path / "f.onnx", operator, **attributes)
    wanted = in_onnxruntime(fixed, {"x": inputs["x"]})[0]
    np.testing.assert_allclose(
        simulate(compiled(fixed), inputs["x"])["y"].reshape(wanted.shape), wanted, rtol=0, atol=2e-6
    )
    pairs = (("h_next", "h"), ("c_next", "c"))[: 2 if operator == "LSTM" else 1]
    step = recurrent_models.starting(tmp_path / "s.onnx", operator, steps=1, **attributes)
    options = CompileOptions(type="float32", golden_vectors=1, states=pairs)
    built = read_image(compile_model(step, M4, name="m", version="1", calibration=None, options=options).image)
    assert built.state_bytes == 4 * len(pairs) * recurrent_models.UNITS
    zero = {name: np.zeros_like(x[:1]) for name, x in inputs.items()} | {"x": inputs["x"][:1]}
    stream = simulate(built, inputs["x"][0][:, None])["y"]
    np.testing.assert_array_equal(stream.reshape(-1), simulate(image, zero)["y"].reshape(-1))


def test_two_tensors(tmp_path: Path) -> None:
    nodes = [node("Tanh", ["x"], "a"), node("Sub", ["a", "x"], "s"), node("Add", ["x", "s"], "t")]
    nodes += [node("ReduceMax", ["t"], "m", axes=[2, 3], keepdims=1), node("Mul", ["m", "t"])]
    path = save_model(tmp_path / "m.onnx", nodes, [1, *IMAGE], opset=13)
    image = compiled(path)
    assert {OpCode.SUB_F32, OpCode.ADD_F32, OpCode.MUL_F32} <= {op.code for op in image.ops}
    near_onnxruntime(path, image, 8)


def test_joins(tmp_path: Path) -> None:
    nodes = [node("Tanh", ["x"], "a"), node("Concat", ["a", "x", "a"], axis=1)]
    path = save_model(tmp_path / "m.onnx", nodes, [1, *IMAGE])
    near_onnxruntime(path, compiled(path), 4)


@pytest.mark.parametrize("operator", sorted(MAKERS))
def test_function_of_one_element(tmp_path: Path, operator: str) -> None:
    assert operator in FORMS, f"{operator} has a table but no float32 kernel: add it to unary_float.FORMS"
    constants = {"e": F32(3.0)} if operator == "Pow" else {}
    path = save_model(tmp_path / "m.onnx", [node(operator, ["x", *constants])], [1, 200], constants, opset=20)
    image = compiled(path)
    if operator not in ("Sqrt", "Log"):  # ONNX Runtime gives NaN below zero
        near_onnxruntime(path, image, 5)
    assert len(image.ops) == 1


def test_small_model(tmp_path: Path) -> None:
    path = small_cnn(tmp_path / "m.onnx")
    evaluation = save_samples(tmp_path / "e.npz", (2, 8, 6), y=np.zeros(32, np.int64))
    result = compile_model(path, M4, name="m", version="1", calibration=None, evaluation=evaluation, options=FLOAT)
    image = read_image(result.image)
    near_onnxruntime(path, image, 16)
    assert {t.element for t in (*image.inputs, *image.outputs)} == {Element.FLOAT32}
    assert result.report["accuracy"]["agreement"] == 1.0
    assert result.report["accuracy"]["float"] == result.report["accuracy"]["quantized"]
    assert (result.report["inputs"][0]["type"], result.report["estimator"]) == ("float32", "float32")
    assert result.report["params"] == 6 * 19 + 6 * 10 + 6 * 7 + 4 * 73


def test_a_class_without_fpu_is_told_what_helps(tmp_path: Path) -> None:
    path, small = small_cnn(tmp_path / "m.onnx"), load_device_class("cortex-m0plus")
    with pytest.raises(ModelError, match="FPU") as caught:
        compile_model(path, small, name="m", version="1", calibration=None, evaluation=None, options=FLOAT)
    assert "--calibration" in caught.value.problems[0].help
    report = check_model(path, small, type="float32")
    assert not report.fits
    assert "FPU" in report.problems[0].reason
    assert check_model(path, M4, type="float32").fits


def test_without_type_the_error_names_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="--type float32"):
        compile_model(small_cnn(tmp_path / "m.onnx"), M4, name="m", version="1", calibration=None, evaluation=None)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="int8, float32"):
        CompileOptions(type="float16")
