"""ONNX LSTM and GRU: quantised near ONNX Runtime's float, in the layouts exporters write; other forms are named."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from tinyfleet_compiler import CompileOptions, check_model, compile_model, load_device_class, read_image, simulate
from unit.compiler.onnx_models import node, save_model

HOST = load_device_class("host")
MEAN_LSB, MOST_LSB = 1.0, 8.0
"""Of the outputs' own scale, against float."""
STEPS, FEATURES, UNITS = 12, 6, 8


def layer(operator: str, outputs: tuple[str, ...], inputs: str = "t w r b", **attributes: Any) -> onnx.NodeProto:
    attributes = {"hidden_size": UNITS} | attributes
    if operator == "GRU":
        attributes = {"linear_before_reset": 1} | attributes
    return helper.make_node(operator, inputs.split(" "), list(outputs), name=operator.lower(), **attributes)


def constants(operator: str, seed: int) -> dict[str, np.ndarray]:
    rng, gates = np.random.default_rng(seed), 4 if operator == "LSTM" else 3
    return {
        "w": rng.normal(0.0, 0.5, (1, gates * UNITS, FEATURES)).astype(np.float32),
        "r": rng.normal(0.0, 0.3, (1, gates * UNITS, UNITS)).astype(np.float32),
        "b": rng.normal(0.0, 0.3, (1, 2 * gates * UNITS)).astype(np.float32),
    }


def sequence(path: Path, operator: str, seed: int = 0) -> Path:
    """What PyTorch writes with batch_first: all rows of the output."""
    nodes = [
        node("Transpose", ["x"], "t", perm=[1, 0, 2]),
        layer(operator, ("rows",)),
        node("Squeeze", ["rows", "one"], "s"),
        node("Transpose", ["s"], "y", perm=[1, 0, 2]),
    ]
    more = {"one": np.array([1], np.int64)}
    return save_model(path, nodes, ("N", STEPS, FEATURES), constants(operator, seed) | more)


def last_row(path: Path, operator: str, seed: int = 0) -> Path:
    """The last hidden state, and a dense layer behind it."""
    nodes = [
        node("Transpose", ["x"], "t", perm=[1, 0, 2]),
        layer(operator, ("", "h")),
        node("Squeeze", ["h", "zero"], "s"),
        node("Gemm", ["s", "g"], "y"),
    ]
    dense = np.random.default_rng(seed).normal(0.0, 0.5, (UNITS, 3)).astype(np.float32)
    more = {"zero": np.array([0], np.int64), "g": dense}
    return save_model(path, nodes, ("N", STEPS, FEATURES), constants(operator, seed) | more)


def distances(tmp_path: Path, model: Path) -> np.ndarray:
    """|image - float| of every output, in steps of its scale."""
    x = np.random.default_rng(9).normal(0.0, 1.0, (64, STEPS, FEATURES)).astype(np.float32)
    np.savez(tmp_path / "c.npz", x=x)
    options = CompileOptions(estimator="min-max")
    made = compile_model(model, HOST, name="m", version="v1", calibration=tmp_path / "c.npz", options=options)
    image = read_image(made.image)
    assert image.state_bytes == 0
    out = image.outputs[0]
    wanted = onnxruntime.InferenceSession(model).run(None, {"x": x})[0].reshape(len(x), -1)
    codes = simulate(image, x)[out.name].reshape(len(x), -1)
    real = (codes.astype(np.float64) - out.zero_point) * out.scale
    return np.abs(real - wanted) / out.scale


@pytest.mark.parametrize("make", [sequence, last_row])
@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_stays_near_float(tmp_path: Path, make: Any, operator: str, seed: int) -> None:
    apart = distances(tmp_path, make(tmp_path / "m.onnx", operator, seed))
    assert apart.mean() <= MEAN_LSB
    assert apart.max() <= MOST_LSB


@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_samples_do_not_meet(tmp_path: Path, operator: str) -> None:
    model = sequence(tmp_path / "m.onnx", operator)
    x = np.random.default_rng(9).normal(0.0, 1.0, (4, STEPS, FEATURES)).astype(np.float32)
    np.savez(tmp_path / "c.npz", x=x)
    image = read_image(compile_model(model, HOST, name="m", version="v1", calibration=tmp_path / "c.npz").image)
    name = image.outputs[0].name
    turned = simulate(image, x[::-1])[name][::-1]
    np.testing.assert_array_equal(simulate(image, x)[name], turned)


ORDER = "t w r b"


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "reason"),
    [
        ("LSTM", ORDER, {"direction": "reverse"}, "runs reverse"),
        ("LSTM", ORDER, {"clip": 1.0}, "has a clip"),
        ("LSTM", ORDER, {"input_forget": 1}, "couples its gates"),
        ("LSTM", ORDER, {"activations": ["Relu", "Tanh", "Tanh"]}, "has activations Relu"),
        ("LSTM", ORDER, {"hidden_size": 5}, "has W"),
        ("LSTM", ORDER + "  one_state", {}, "begins with a state"),
        ("LSTM", "x w r b", {}, "as a batch of"),
        ("GRU", ORDER, {"linear_before_reset": 0}, "resets before the product"),
        ("GRU", ORDER, {"activations": ["Sigmoid", "Relu"]}, "has activations Sigmoid, Relu"),
        ("GRU", ORDER + "  one_state", {}, "begins with a state"),
    ],
)
def test_other_forms_are_named(
    tmp_path: Path, operator: str, inputs: str, attributes: dict[str, Any], reason: str
) -> None:
    nodes = [
        node("Transpose", ["x"], "t", perm=[1, 0, 2]),
        layer(operator, ("rows",), inputs, **attributes),
        node("Squeeze", ["rows", "one"], "y"),
    ]
    more = {"one": np.array([1], np.int64), "one_state": np.ones((1, 1, UNITS), np.float32)}
    path = save_model(tmp_path / "m.onnx", nodes, ("N", STEPS, FEATURES), constants(operator, 0) | more)
    (problem,) = check_model(path, HOST).problems
    assert problem.operator == operator
    assert reason in problem.reason
    assert problem.help


def test_other_operators_do_not_read_a_moved_batch(tmp_path: Path) -> None:
    nodes = [node("Transpose", ["x"], "t", perm=[1, 0, 2]), node("Relu", ["t"])]
    (problem,) = check_model(save_model(tmp_path / "m.onnx", nodes, ("N", 4, 5)), HOST).problems
    assert problem.operator == "Relu"
    assert "batch is not its first axis" in problem.reason
