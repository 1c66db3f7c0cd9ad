"""Quantised models with operators that nobody quantised: float32 kernels between QUANTIZE and DEQUANTIZE, or a list."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tinyfleet_compiler import CompileOptions, ModelError, check_model, compile_model, load_device_class, read_image
from tinyfleet_compiler.dataset import to_device_order
from tinyfleet_compiler.image import Image
from tinyfleet_compiler.operators import Element, OpCode
from tinyfleet_compiler.simulate import simulate
from unit.compiler.onnx_models import node, save_model
from unit.compiler.test_onnx_qdq import GRID, pair, random_input, weights

M4, M0 = load_device_class("cortex-m4"), load_device_class("cortex-m0plus")


def compiled(path: Path) -> Image:
    return read_image(compile_model(path, M4, name="m", version="1", calibration=None).image)


def without_optimisation(path: Path, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options)
    return np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])


CASES: dict[str, tuple[list[Any], dict[str, Any], str, list[OpCode]]] = {
    "a layer": (
        [*pair("x"), node("Conv", ["x_d", "w"], "c"), *pair("c")],
        {"w": weights(2, 3, 3, 3)},
        "c_d",
        [OpCode.DEQUANTIZE, OpCode.CONV_2D_F32, OpCode.QUANTIZE],
    ),
    "two operands": (
        [*pair("x"), node("Sin", ["x_d"], "r"), node("Mul", ["r", "x_d"], "m"), *pair("m"), node("Relu", ["m_d"])],
        {},
        "y",
        [],
    ),
    "a normalised exponential": (
        [*pair("x"), node("Exp", ["x_d"], "e"), node("ReduceSum", ["e", "a"], "s1"), node("Div", ["e", "s1"], "d"),
         *pair("d")],
        {"a": np.array([1])},
        "d_d",
        [OpCode.DEQUANTIZE, OpCode.EXPONENTIAL_F32, OpCode.REDUCE_SUM_F32, OpCode.DIV_F32, OpCode.QUANTIZE],
    ),
    "a float input": (
        [node("Mul", ["x", "x"], "r"), *pair("r"), node("Relu", ["r_d"])],
        {},
        "y",
        [OpCode.MUL_F32, OpCode.QUANTIZE, OpCode.RESCALE],
    ),
    "what is written out": (
        [node("LayerNormalization", ["x", "g"], "n", axis=1), node("LpNormalization", ["n"], "l", axis=1, p=2),
         node("Sub", ["l", "h"], "d"), node("Mul", ["d", "d"], "s2"), node("MatMul", ["s2", "l"], "m"),
         node("Mul", ["m", "h"], "f"), *pair("f")],
        {"g": 1 + np.abs(weights(3, 4, 4)), "h": np.float32(0.3)},
        "f_d",
        [],
    ),
    "a float output": ([*pair("x"), node("Sqrt", ["x_d"])], {}, "y", [OpCode.DEQUANTIZE, OpCode.UNARY_F32]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_islands(tmp_path: Path, case: str) -> None:
    nodes, constants, output, codes = CASES[case]
    path = save_model(tmp_path / "m.onnx", nodes, (1, 3, 4, 4), GRID | constants, outputs=(output,))
    image, x = compiled(path), np.abs(random_input(3, 4, 4)) + 0.1
    if codes:
        assert [op.code for op in image.ops] == codes
    (result,) = image.outputs
    got = next(iter(simulate(image, to_device_order(x, image.inputs[0].source_layout)).values()))
    real = got if result.element is Element.FLOAT32 else (got.astype(float) - result.zero_point) * result.scale
    wanted = to_device_order(without_optimisation(path, x), result.source_layout)
    assert np.abs(real - wanted).max() <= (1e-6 if result.element is Element.FLOAT32 else 1.01 * result.scale)
    assert len(np.unique(got)) > 4


@pytest.mark.parametrize("case", [name for name in CASES if name != "two operands"])
def test_without_an_fpu_they_are_listed(tmp_path: Path, case: str) -> None:
    nodes, constants, output, _ = CASES[case]
    path = save_model(tmp_path / "m.onnx", nodes, (1, 3, 4, 4), GRID | constants, outputs=(output,))
    report = check_model(path, M0)
    assert not report.fits
    assert all("not quantised" in p.reason and "FPU" in p.help for p in report.problems if p.operator != "Conv")
    with pytest.raises(ModelError, match="no FPU"):
        compile_model(path, M0, name="m", version="1", calibration=None)


BOTH: dict[str, tuple[list[Any], tuple[str, ...], int]] = {
    "a float operator": ([node("Mul", ["x", "x"], "m"), *pair("m"), node("Relu", ["m_d"]), node("Sin", ["m"], "b")],
                         ("y", "b"), 1),
    "under another name": ([node("Mul", ["x", "x"], "m"), node("Identity", ["m"], "n"), *pair("m"),
                            node("Relu", ["m_d"]), node("Sin", ["n"], "b")], ("y", "b"), 1),
    "the other name is quantised": ([node("Mul", ["x", "x"], "m"), node("Identity", ["m"], "n"), *pair("n"),
                                     node("Relu", ["n_d"]), node("Sin", ["m"], "b")], ("y", "b"), 1),
    "an input": ([*pair("x"), node("Relu", ["x_d"]), node("Sin", ["x"], "b")], ("y", "b"), 1),
    "a layer": ([*pair("x"), node("Conv", ["x_d", "w"], "c"), *pair("c"), node("Sigmoid", ["c_d"], "s1"), *pair("s1"),
                 node("Sin", ["c"], "b")], ("s1_d", "b"), 1),
    "an output": ([*pair("x"), node("Mul", ["x_d", "x_d"], "m"), *pair("m"), node("Sigmoid", ["m_d"], "s1"),
                   *pair("s1")], ("s1_d", "m"), 1),
    "what is made of both": ([*pair("x"), node("Mul", ["x_d", "x_d"], "m"), *pair("m"), node("Sigmoid", ["m_d"], "r"),
                              node("Add", ["m", "r"])], ("y",), 1),
    "two grids": ([node("Mul", ["x", "x"], "m"), *pair("m"), node("Relu", ["m_d"]),
                   node("QuantizeLinear", ["m", "s2", "z2"], "q2"), node("DequantizeLinear", ["q2", "s2", "z2"], "d2"),
                   node("Sin", ["m"], "b")], ("y", "d2", "b"), 2),
}  # fmt: skip
"""Tensors that are read by QuantizeLinear and as they are: nodes, outputs, how many QUANTIZE that takes."""
BOTH_CONSTANTS = GRID | {"w": 3 * weights(2, 3, 3, 3), "s2": np.float32(0.03), "z2": np.uint8(120)}


@pytest.mark.parametrize("case", BOTH)
def test_a_tensor_that_is_read_quantised_and_as_it_is(tmp_path: Path, case: str) -> None:
    """Its grid ends at 12.4, where its values do not: who reads them must not see that."""
    nodes, outputs, rounded = BOTH[case]
    path = save_model(tmp_path / "m.onnx", nodes, (1, 3, 4, 4), BOTH_CONSTANTS, outputs=outputs)
    image, x = compiled(path), 3 * random_input(3, 4, 4)
    assert [op.code for op in image.ops].count(OpCode.QUANTIZE) == rounded
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options)
    rows = [session.run(None, {"x": row[None]}) for row in x]
    got = simulate(image, to_device_order(x, image.inputs[0].source_layout))
    for result, parts in zip(image.outputs, zip(*rows, strict=True), strict=True):
        wanted = to_device_order(np.concatenate(parts), result.source_layout)
        codes = got[result.name]
        if result.element is Element.FLOAT32:
            np.testing.assert_allclose(codes, wanted, rtol=1e-5, atol=0.03 if case == "what is made of both" else 1e-5)
        else:
            assert (
                np.abs((codes.astype(float) - result.zero_point) * result.scale - wanted).max() <= 1.01 * result.scale
            )


def test_sizes_are_no_numbers_of_a_tensor(tmp_path: Path) -> None:
    """A Shape beside the pair: all stays integers."""
    nodes = [
        *pair("x"),
        node("Shape", ["x"], "n"),
        node("Relu", ["x_d"], "r"),
        *pair("r"),
        node("Reshape", ["r_d", "n"]),
    ]
    path = save_model(tmp_path / "m.onnx", nodes, (1, 3, 4, 4), GRID)
    assert check_model(path, M0).fits


def test_a_tflite_model_keeps_its_float_operators(tmp_path: Path) -> None:
    """codes -> DEQUANTIZE -> TANH, MUL -> QUANTIZE -> ADD of codes, against numpy."""
    tflite = pytest.importorskip("unit.compiler.tflite_models")
    b = tflite.Builder()
    x = b.tensor((1, 6), 0.05, 3, name="x")
    real, bent, product = (b.tensor((1, 6), kind="f4", name=name) for name in ("real", "bent", "product"))
    back, y = b.tensor((1, 6), 0.02, -4, name="back"), b.tensor((1, 6), 0.1, 1, name="y")
    b.operator("DEQUANTIZE", [x], real)
    b.operator("TANH", [real], bent)
    b.operator("MUL", [bent, real], product, kind="MulOptions")
    b.operator("QUANTIZE", [product], back)
    b.operator("ADD", [back, x], y, kind="AddOptions")
    path = tmp_path / "m.tflite"
    path.write_bytes(b.data([x], [y]))
    image = compiled(path)
    wanted = [OpCode.DEQUANTIZE, OpCode.EXPONENTIAL_F32, OpCode.MUL_F32, OpCode.QUANTIZE, OpCode.ADD]
    assert [op.code for op in image.ops] == wanted
    codes = np.random.default_rng(1).integers(-128, 128, (40, 6)).astype(np.int8)
    got = simulate(image, codes)["y"].astype(float)
    values = (codes.astype(float) - 3) * 0.05
    inside = np.clip(np.round(np.tanh(values) * values / 0.02) - 4, -128, 127)
    sums = np.clip(((inside + 4) * 0.02 + values) / 0.1 + 1, -128, 127)
    assert np.abs(got - sums).max() <= 1.0
    report = check_model(path, M0)
    assert [p.operator for p in report.problems] == ["DEQUANTIZE", "TANH", "MUL"]
    assert "FPU" in report.problems[0].help


def test_a_float_tflite_model_as_float32(tmp_path: Path) -> None:
    tflite = pytest.importorskip("unit.compiler.tflite_models")
    rng, b = np.random.default_rng(2), tflite.Builder()
    w, bias = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    x, h, y = (b.tensor(shape, kind="f4", name=name) for shape, name in (((1, 6), "x"), ((1, 4), "h"), ((1, 4), "y")))
    b.operator(
        "FULLY_CONNECTED", [x, b.tensor((4, 6), data=w), b.tensor((4,), data=bias)], h, kind="FullyConnectedOptions"
    )
    b.operator("LOGISTIC", [h], y)
    path = tmp_path / "m.tflite"
    path.write_bytes(b.data([x], [y]))
    options = CompileOptions(type="float32")
    image = read_image(compile_model(path, M4, name="m", version="1", calibration=None, options=options).image)
    values = rng.normal(size=(9, 6)).astype(np.float32)
    wanted = 1 / (1 + np.exp(-(values.astype(np.float64) @ w.T + bias)))
    assert np.abs(simulate(image, values)["y"] - wanted).max() <= 2e-7
    (tflm,) = tflite.oracle(path.read_bytes(), [values])
    assert np.abs(simulate(image, values)["y"] - tflm).max() <= 3e-7


def test_a_quantised_model_is_not_made_float(tmp_path: Path) -> None:
    nodes, constants, output, _ = CASES["a layer"]
    path = save_model(tmp_path / "m.onnx", nodes, (1, 3, 4, 4), GRID | constants, outputs=(output,))
    options = CompileOptions(type="float32")
    with pytest.raises(ModelError, match="is quantised"):
        compile_model(path, M4, name="m", version="1", calibration=None, options=options)
