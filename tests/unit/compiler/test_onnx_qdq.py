"""ONNX models that come quantised: each layer, fed ONNX Runtime's own tensors, agrees with it within one step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from tinyfleet_compiler import check_model, compile_model, load_device_class, read_image, simulate
from tinyfleet_compiler.compile_graph import Compiled, Identity, compile_graph
from tinyfleet_compiler.dataset import to_device_order, to_source_order
from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.kernels.int8 import KERNELS
from tinyfleet_compiler.load_model import load_graph
from tinyfleet_compiler.operators import OpCode
from tinyfleet_compiler.quantize.taken import QuantizedGraph
from unit.compiler.onnx_models import node, save_model, small_cnn

SHARED = Path(os.environ.get("TINYFLEET_SHARED", Path(__file__).resolve().parents[4] / "shared"))
KWS = SHARED / "models" / "kws_digits"
EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "digits"
M4, M0 = load_device_class("cortex-m4"), load_device_class("cortex-m0plus")
INT8, UINT8 = QuantType.QInt8, QuantType.QUInt8


class Samples(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, x: np.ndarray) -> None:
        self._rows: Iterator[dict[str, np.ndarray]] = iter([{"x": row[None]} for row in x])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rows, None)


def quantized(path: Path, x: np.ndarray, **options: Any) -> Path:
    """ONNX Runtime's own static quantisation, after the clean-up it asks for."""
    clean, out = path.with_suffix(".clean.onnx"), path.with_suffix(".q.onnx")
    quant_pre_process(str(path), str(clean), skip_symbolic_shape=True)
    model = onnx.load(clean)
    if (name := model.graph.input[0].name) != "x":
        for one in model.graph.node:
            one.input[:] = ["x" if i == name else i for i in one.input]
        model.graph.input[0].name = "x"
        onnx.save(model, clean)
    quantize_static(str(clean), str(out), Samples(x), **{"activation_type": INT8, "weight_type": INT8} | options)
    return out


def tensors_of(path: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    """Codes (int8) that ONNX Runtime gives for every quantised tensor, by the name of the real one; no optimisation."""
    model = onnx.load(path)
    codes = {one.output[0]: one.input[0] for one in model.graph.node if one.op_type == "QuantizeLinear"}
    kinds = {one.name: one.data_type for one in model.graph.initializer}
    for one in model.graph.node:
        if one.op_type == "QuantizeLinear" and one.output[0] not in {o.name for o in model.graph.output}:
            kind = kinds.get(one.input[2], TensorProto.INT8)
            model.graph.output.append(helper.make_tensor_value_info(one.output[0], kind, None))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rows = [dict(zip(codes.values(), session.run(list(codes), {"x": row[None]}), strict=True)) for row in x]
    shift = {np.dtype(np.uint8): 128, np.dtype(np.int8): 0}
    stacked = {name: np.concatenate([row[name] for row in rows]) for name in codes.values()}
    return {name: (a.astype(np.int16) - shift[a.dtype]).astype(np.int8) for name, a in stacked.items()}


def compiled_from(path: Path) -> Compiled:
    graph = load_graph(path)
    assert isinstance(graph, QuantizedGraph)
    return compile_graph(graph, {}, "as-imported", Identity("q", "v1", "host"), golden_vectors=1)


def largest_steps(path: Path, x: np.ndarray) -> dict[str, int]:
    """Layer by layer, how far ours is from ONNX Runtime when fed its tensors. Every quantised tensor is compared."""
    compiled, theirs = compiled_from(path), tensors_of(path, x)
    image, plan, steps = compiled.image, compiled.plan, {}
    arena = np.zeros((len(x), image.arena_bytes), np.int8)

    by_root: dict[str, np.ndarray] = {}
    for name, array in theirs.items():
        shape, root = compiled.graph.shapes.get(name), compiled.graph.root(name)
        # A flattened tensor may lie in another order than the file's, its reader's columns turned to fit.
        if shape is not None and (name == root or (root not in theirs and len(shape) > 1)):
            turned = np.moveaxis(array, 1, -1) if array.shape[1:] != shape else array
            by_root[root] = np.ascontiguousarray(turned).reshape(len(x), -1)
    for op, record in zip(compiled.ops, image.ops, strict=True):
        for name in op.inputs:
            if (given := by_root.get(name)) is not None:
                arena[:, plan.offsets[name] : plan.offsets[name] + given.shape[1]] = given
        ours = KERNELS[record.code](image, record, arena).reshape(len(x), -1)
        arena[:, plan.offsets[op.output] : plan.offsets[op.output] + ours.shape[1]] = ours
        if (wanted := by_root.get(op.output)) is not None:
            steps[op.output] = int(np.abs(ours.astype(int) - wanted.astype(int)).max())
    return steps


def random_input(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(24, *shape)).astype(np.float32)


def assert_within_one_step(path: Path, x: np.ndarray, compared: int) -> None:
    steps = largest_steps(path, x)
    assert len(steps) >= compared
    assert max(steps.values()) <= 1, steps


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("activations", [INT8, UINT8])
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_a_network_in_every_form(tmp_path: Path, form: QuantFormat, activations: QuantType, per_channel: bool) -> None:
    x = random_input(2, 8, 6)
    path = quantized(
        small_cnn(tmp_path / "m.onnx"),
        x,
        quant_format=form,
        activation_type=activations,
        per_channel=per_channel,
    )
    if form == QuantFormat.QDQ:
        assert_within_one_step(path, x, 5)
    graph = compiled_from(path).graph
    assert sum(type(one).__name__ in ("Conv", "Gemm") for one in graph.nodes) == 4


def weights(*shape: int, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


CASES: dict[str, tuple[Callable[[], tuple[list[onnx.NodeProto], dict[str, Any]]], tuple[int, ...]]] = {
    "strided and dilated": (
        lambda: ([node("Conv", ["x", "w", "b"], strides=[2, 1], dilations=[1, 2], pads=[1, 2, 1, 2])],
                 {"w": weights(5, 3, 3, 3), "b": weights(5)}), (3, 9, 8)),
    "grouped": (lambda: ([node("Conv", ["x", "w"], group=2)], {"w": weights(6, 2, 2, 2)}), (4, 6, 5)),
    "one-dimensional": (
        lambda: ([node("Conv", ["x", "w"], pads=[1, 1])], {"w": weights(4, 3, 3)}), (3, 12)),
    "conv and relu6": (
        lambda: ([node("Conv", ["x", "w"], "c"), node("Clip", ["c", "lo", "hi"])],
                 {"w": weights(4, 3, 3, 3) * 6, "lo": np.float32(0), "hi": np.float32(6)}), (3, 8, 8)),
    "sigmoid and mul": (
        lambda: ([node("Sigmoid", ["x"], "s"), node("Mul", ["x", "s"])], {}), (3, 5, 5)),
    "add and mul": (
        lambda: ([node("Mul", ["x", "x"], "m"), node("Add", ["m", "x"], "a"), node("Mul", ["a", "m"])], {}), (4, 5, 6)),
    "constant operands": (
        lambda: ([node("Mul", ["x", "g"], "m"), node("Add", ["m", "h"])],
                 {"g": weights(1, 4, 1, 1), "h": weights(1, 4, 1, 1, seed=3)}), (4, 5, 6)),
    "average of everything": (lambda: ([node("GlobalAveragePool", ["x"])], {}), (6, 7, 7)),
    "max pool": (lambda: ([node("Conv", ["x", "w"], "c"), node("MaxPool", ["c"], kernel_shape=[2, 2], strides=[2, 2])],
                          {"w": weights(5, 3, 1, 1)}), (3, 8, 6)),
    "concat": (
        lambda: ([node("Relu", ["x"], "r"), node("Mul", ["x", "x"], "m"), node("Concat", ["r", "m", "x"], axis=1)], {}),
        (2, 5, 5)),
    "concat with a constant": (
        lambda: ([node("Conv", ["x", "w"], "a"), node("Concat", ["c", "a"], axis=2)],
                 {"w": weights(3, 2, 1, 1), "c": weights(1, 3, 2, 5)}), (2, 5, 5)),
    "reshape, transpose, gemm": (
        lambda: ([node("Conv", ["x", "k"], "c"), node("Transpose", ["c"], "t", perm=[0, 2, 3, 1]),
                  node("Flatten", ["t"], "f"), node("Gemm", ["f", "w", "b"], transB=1)],
                 {"k": weights(2, 3, 1, 1), "w": weights(5, 40), "b": weights(5)}), (3, 4, 5)),
    "matmul and bias": (
        lambda: ([node("MatMul", ["x", "w"], "m"), node("Add", ["m", "b"])], {"w": weights(10, 7), "b": weights(7)}),
        (6, 10)),
    "softmax": (lambda: ([node("Softmax", ["x"], axis=-1)], {}), (12,)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_operators(tmp_path: Path, case: str) -> None:
    make, shape = CASES[case]
    nodes, constants = make()
    x = random_input(*shape)
    model = save_model(tmp_path / "m.onnx", nodes, ("N", *shape), constants)
    for activations in (INT8, UINT8):
        path = quantized(model, x, activation_type=activations, per_channel=False)
        assert_within_one_step(path, x, 1)


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_the_example_model(tmp_path: Path, version: str) -> None:
    source = onnx.load(EXAMPLES / f"digits_{version}.onnx")
    path = tmp_path / "m.onnx"
    onnx.save(source, path)
    x = np.load(EXAMPLES / "calibration.npz")["x"][:40]
    assert_within_one_step(quantized(path, x, per_channel=True), x, 4)


@pytest.mark.skipif(not KWS.is_dir(), reason=f"no study models at {KWS}; set TINYFLEET_SHARED")
@pytest.mark.parametrize("version", ["v1", "v4"])
def test_keyword_spotting(tmp_path: Path, version: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes((KWS / f"kws_{version}.onnx").read_bytes())
    stored = np.load(KWS / "calibration.npz")
    x = (stored["x_v1"] if version == "v1" else stored["x"])[:40].astype(np.float32)
    assert_within_one_step(quantized(path, x, per_channel=True), x, 10)


# ---- what stands in the way


def pair(name: str, scale: str = "s", zero: str = "z") -> list[onnx.NodeProto]:
    return [
        node("QuantizeLinear", [name, scale, zero], f"{name}_q"),
        node("DequantizeLinear", [f"{name}_q", scale, zero], f"{name}_d"),
    ]


GRID: dict[str, Any] = {"s": np.float32(0.1), "z": np.int8(3)}


def problems(path: Path) -> str:
    return "; ".join(f"{p.node} {p.reason}" for p in check_model(path, M0).problems)


@pytest.mark.parametrize(
    ("nodes", "constants", "word"),
    [
        ([*pair("x"), node("Conv", ["x_d", "w"])], {"w": weights(2, 3, 1, 1)}, "not quantised"),
        ([*pair("x"), node("Relu", ["x_d"], "r"), node("Mul", ["r", "x_d"])], {}, "not quantised"),
        ([node("Relu", ["x"], "r"), *pair("r"), node("Relu", ["r_d"])], {}, "x is not quantised"),
        ([node("DynamicQuantizeLinear", ["x"], "d"), node("Relu", ["d"])], {}, "at run time"),
        ([node("DequantizeLinear", ["x", "s", "z"])], {}, "nothing quantised"),
        (pair("x", "s0"), {"s0": np.float32(0)}, "not positive"),
        (pair("x", "nan"), {"nan": np.array(np.nan, np.float32)}, "NaN"),
        (pair("x", "tiny"), {"tiny": np.float32(1e-30)}, "scale 1e-30"),
        (pair("x", "many", "zeros"), {"many": np.ones(3, np.float32), "zeros": np.zeros(3, np.int8)}, "3 scales"),
        (pair("x", "s", "z16"), {"z16": np.int16(0)}, "int16"),
    ],
)
def test_what_cannot_be_taken_is_listed(
    tmp_path: Path, nodes: list[onnx.NodeProto], constants: dict[str, Any], word: str
) -> None:
    last = nodes[-1].output[0]
    path = save_model(tmp_path / "m.onnx", nodes, (1, 3, 4, 4), GRID | constants, outputs=(last,))
    assert word in problems(path)
    with pytest.raises(ModelError):
        compile_model(path, M0, name="q", version="v1", calibration=None)


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    nodes = [
        *pair("x"),
        node("Conv", ["x_d", "w"], "a"),
        *pair("a"),
        node("Sin", ["a_d"], "b"),
        node("Mul", ["b", "b"], "c"),
        node("Conv", ["c", "w2"]),
    ]
    constants = GRID | {"w": weights(2, 3, 1, 1), "w2": weights(2, 2, 3, 3)}
    path = save_model(tmp_path / "m.onnx", nodes, (1, 3, 4, 4), constants)
    assert len(check_model(path, M0).problems) >= 2


def test_weights_with_a_zero_point_import_exactly(tmp_path: Path) -> None:
    """uint8 weights around 128 and int8 weights around 5: the same codes, with the zero point taken off."""
    x, real = random_input(3, 5, 6), np.random.default_rng(4).integers(-100, 100, (4, 3, 2, 2))
    for kind, zero in ((np.uint8, 128), (np.int8, 5)):
        codes = (real + zero).astype(kind)
        nodes = [
            *pair("x"),
            node("DequantizeLinear", ["c", "ws", "wz"], "w"),
            node("Conv", ["x_d", "w"], "y"),
            node("QuantizeLinear", ["y", "s", "z"], "y_q"),
            node("DequantizeLinear", ["y_q", "s", "z"], "y_d"),
        ]
        constants = GRID | {"c": codes, "ws": np.float32(0.004), "wz": kind(zero)}
        path = save_model(tmp_path / "m.onnx", nodes, (1, 3, 5, 6), constants, outputs=("y_d",))
        block = compiled_from(path).ops[0].weights
        assert block is not None
        np.testing.assert_array_equal(block.rows.reshape(4, 2, 2, 3), real.transpose(0, 2, 3, 1))
        assert_within_one_step(path, x, 1)


def test_weights_that_leave_int8_stay_real_numbers(tmp_path: Path) -> None:
    """uint8 codes 0 .. 255 around 100 take 9 bits: the layer runs over float32, without an FPU it is listed."""
    x, codes = random_input(3, 5, 6), np.random.default_rng(4).integers(0, 256, (4, 3, 2, 2)).astype(np.uint8)
    nodes = [*pair("x"), node("DequantizeLinear", ["c", "ws", "wz"], "w"), node("Conv", ["x_d", "w"], "y"), *pair("y")]
    constants = GRID | {"c": codes, "ws": np.float32(0.004), "wz": np.uint8(100)}
    path = save_model(tmp_path / "m.onnx", nodes, (1, 3, 5, 6), constants, outputs=("y_d",))
    assert "weights that are not quantised" in problems(path)
    image = read_image(compile_model(path, M4, name="q", version="v1", calibration=None).image)
    assert OpCode.CONV_2D_F32 in {op.code for op in image.ops}
    out = image.outputs[0]
    got = simulate(image, to_device_order(x, image.inputs[0].source_layout))[out.name].astype(int)
    wanted = to_device_order(tensors_of(path, x)["y"], out.source_layout)
    assert np.abs(got - wanted).max() <= 1


@pytest.mark.parametrize("foreign", [1.0, 3.7])
def test_biases_are_taken_or_brought_to_the_layer_s_scale(tmp_path: Path, foreign: float) -> None:
    scale, bias = np.float32(0.1 * 0.02 * foreign), np.array([1000, -777, 3], np.int32)
    nodes = [
        *pair("x"),
        node("DequantizeLinear", ["c", "ws"], "w"),
        node("DequantizeLinear", ["b", "bs", "bz"], "bias", axis=0),
        node("Gemm", ["x_d", "w", "bias"], "y", transB=1),
        node("QuantizeLinear", ["y", "s", "z"], "y_q"),
        node("DequantizeLinear", ["y_q", "s", "z"], "y_d"),
    ]
    codes = np.random.default_rng(5).integers(-127, 128, (3, 8)).astype(np.int8)
    constants = GRID | {"c": codes, "ws": np.float32(0.02), "b": bias, "bs": scale, "bz": np.int32(0)}
    model = save_model(tmp_path / "m.onnx", nodes, (1, 8), constants, outputs=("y_d",))
    loaded = onnx.load(model)
    loaded.graph.initializer.append(numpy_helper.from_array(np.int8(0), "wz"))
    loaded.graph.node[2].input.append("wz")
    onnx.save(loaded, model)
    block = compiled_from(model).ops[0].weights
    assert block is not None
    folded = block.biases + 3 * codes.astype(np.int64).sum(axis=1)
    np.testing.assert_array_equal(folded, np.round(bias * foreign))


def test_integer_inputs_and_a_compile_without_calibration(tmp_path: Path) -> None:
    x = random_input(2, 8, 6)
    path = quantized(small_cnn(tmp_path / "m.onnx"), x, per_channel=True)
    result = compile_model(path, M4, name="q", version="v1", calibration=None)
    assert result.report["fits"]["flash"]
    model = onnx.load(path)
    first = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "x")
    model.graph.node.remove(first)
    for one in model.graph.node:
        one.input[:] = ["x" if name == first.output[0] else name for name in one.input]
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT8
    whole = tmp_path / "integer.onnx"
    onnx.save(model, whole)
    graph = load_graph(whole)
    assert isinstance(graph, QuantizedGraph)
    assert graph.input_types == {"x": "int8"}
    assert compile_model(whole, M4, name="q", version="v1", calibration=None).image == result.image


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_qgemm_counts_channels_as_its_weights_lie_and_adds_before_its_factor(
    tmp_path: Path, turned: bool, alpha: float
) -> None:
    """Square weights with a scale per output: the wrong axis would not be noticed by its size."""
    rng, kernel = np.random.default_rng(8), np.linspace(0.005, 0.05, 6).astype(np.float32)
    operands = ["x_q", "s", "z", "w", "ws", "wz", "b", "s", "z"]
    gemm = node("QGemm", operands, "y_q", domain="com.microsoft", alpha=alpha, transB=int(turned))
    nodes = [pair("x")[0], gemm, node("DequantizeLinear", ["y_q", "s", "z"], "y")]
    codes, bias = rng.integers(-127, 128, (6, 6)).astype(np.int8), rng.integers(-300, 300, 6).astype(np.int32)
    constants = GRID | {"w": codes, "ws": kernel, "wz": np.zeros(6, np.int8), "b": bias}
    path = save_model(tmp_path / "m.onnx", nodes, (1, 6), constants)
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    x = random_input(6)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])
    image = compiled_from(path).image
    out = image.outputs[0]
    got = (simulate(image, x)[out.name].astype(int) - out.zero_point) * out.scale
    assert np.abs(got - wanted).max() <= 1.01 * out.scale


@pytest.mark.parametrize("activations", [INT8, UINT8])
@pytest.mark.parametrize("axis", [1, -1])
def test_joins_of_onnx_runtime_s_own_form(tmp_path: Path, activations: QuantType, axis: int) -> None:
    """QLinearConcat: every tensor has a scale of its own."""
    x = random_input(2, 5, 4)
    nodes = [node("Conv", ["x", "w"], "a"), node("Conv", ["x", "v"], "b"), node("Concat", ["a", "x", "b"], axis=axis)]
    model = save_model(
        tmp_path / "m.onnx", nodes, ("N", 2, 5, 4), {"w": weights(2, 2, 1, 1) * 3, "v": weights(2, 2, 1, 1)}
    )
    path = quantized(model, x, quant_format=QuantFormat.QOperator, activation_type=activations)
    assert "QLinearConcat" in {one.op_type for one in onnx.load(path).graph.node}
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])
    image = compiled_from(path).image
    (output,) = image.outputs
    codes = simulate(image, {"x": np.moveaxis(x, 1, -1)})[output.name].astype(int)
    got = np.moveaxis((codes - output.zero_point) * output.scale, -1, 1)
    assert np.abs(got - wanted).max() <= 1.01 * output.scale


@pytest.mark.parametrize("activations", [INT8, UINT8])
@pytest.mark.parametrize("value", ["", "v"])
def test_pads_of_onnx_runtime_s_own_form(tmp_path: Path, activations: QuantType, value: str) -> None:
    """It pads codes with a code, also where the codes were moved first."""
    x = random_input(2, 5, 4) + 1
    nodes = [
        node("Conv", ["x", "w"], "c"),
        node("Transpose", ["c"], "t", perm=[0, 1, 3, 2]),
        node("Pad", ["t", "p", value]),
    ]
    constants = {"w": weights(2, 2, 1, 1), "p": np.array([0, 0, 1, 0, 0, 0, 0, 2]), "v": np.float32(0.7)}
    model = save_model(tmp_path / "m.onnx", nodes, ("N", 2, 5, 4), constants)
    path = quantized(model, x, quant_format=QuantFormat.QOperator, activation_type=activations, reduce_range=True)
    assert next(one for one in onnx.load(path).graph.node if one.op_type == "Pad").input[0].endswith("quantized")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])
    (output,) = (image := compiled_from(path).image).outputs
    codes = simulate(image, {"x": np.moveaxis(x, 1, -1)})[output.name].astype(int)
    got = np.moveaxis((codes - output.zero_point) * output.scale, -1, 1)
    assert np.abs(got - wanted).max() <= 1.01 * output.scale


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_clipped_codes_are_fewer_bits(tmp_path: Path, kind: Any) -> None:
    """Codes of 4 bits, as QuantizeLinear, Clip, DequantizeLinear: the bounds are codes, too."""
    low, high, zero = (kind(v) for v in ((-8, 7, 1) if kind == np.int8 else (0, 15, 5)))
    nodes = [
        node("QuantizeLinear", ["x", "s4", "z4"], "q"),
        node("Clip", ["q", "low", "high"], "n"),
        node("Transpose", ["n"], "t", perm=[0, 1, 3, 2]),
        node("DequantizeLinear", ["t", "s4", "z4"], "d"),
        node("Sigmoid", ["d"], "y"),
        *pair("y"),
    ]
    constants = {"s4": np.float32(0.2), "z4": zero, "low": low, "high": high, "s": np.float32(1 / 256), "z": np.int8(0)}
    path = save_model(tmp_path / "m.onnx", nodes, (1, 3, 4, 5), constants, outputs=("y_d",))
    x = random_input(3, 4, 5)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])
    (output,) = (image := compiled_from(path).image).outputs
    codes = simulate(image, {"x": to_device_order(x, image.inputs[0].source_layout)})[output.name].astype(int)
    got = to_source_order((codes - output.zero_point) * output.scale, output.source_layout)
    assert np.abs(got - wanted).max() <= 1.01 * output.scale


def test_a_broken_join_is_named(tmp_path: Path) -> None:
    join = node("QLinearConcat", ["s", "z", "x_q", "s"], "y", domain="com.microsoft", axis=1)
    assert "qlinearconcat_y" in problems(save_model(tmp_path / "m.onnx", [pair("x")[0], join], (1, 6), GRID))
