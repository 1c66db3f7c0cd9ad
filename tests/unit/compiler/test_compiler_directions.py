"""ONNX LSTM and GRU that run backwards, and both ways: near ONNX Runtime's float, nothing kept between inferences."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tinyfleet_compiler import check_model, compile_model, read_image, simulate
from tinyfleet_compiler.image import Image
from tinyfleet_compiler.options import CompileOptions
from unit.compiler.onnx_models import node, save_model
from unit.compiler.recurrent_models import (
    FEATURES,
    HOST,
    STEPS,
    UNITS,
    WAYS,
    compiled,
    constant_start,
    constants,
    given,
    in_onnxruntime,
    layer,
    starting,
    torch_both_ways,
)
from unit.compiler.test_compiler_recurrent import assert_near

LEAST_SNR_DB = 32.0
"""Of int8 against float; the forward layers of these models have 35 to 43 dB."""
FORMS = pytest.mark.parametrize(
    ("operator", "attributes"), [("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 0})]
)
BACKWARDS = pytest.mark.parametrize("direction", ["reverse", "bidirectional"])


def snr_db(image: Image, inputs: dict[str, np.ndarray], wanted: list[np.ndarray]) -> list[float]:
    """Of every output, in dB."""
    codes, found = simulate(image, inputs), []
    for out, real in zip(image.outputs, wanted, strict=True):
        made = (codes[out.name].astype(np.float64) - out.zero_point) * out.scale
        error = made.reshape(-1) - real.reshape(-1)
        found.append(float(10.0 * np.log10((real.astype(np.float64) ** 2).sum() / (error**2).sum())))
    return found


@FORMS
@BACKWARDS
@pytest.mark.parametrize("steps", [1, STEPS])
def test_layers_begin_with_inputs_and_give_their_ends_out(
    tmp_path: Path, operator: str, attributes: dict[str, Any], direction: str, steps: int
) -> None:
    model = starting(tmp_path / "m.onnx", operator, steps=steps, direction=direction, **attributes)
    inputs = given(operator, steps=steps, ways=WAYS[direction])
    image, wanted = compiled(tmp_path, model, inputs), in_onnxruntime(model, inputs)
    assert_near(image, inputs, wanted)
    assert min(snr_db(image, inputs, wanted)) >= LEAST_SNR_DB


@FORMS
@BACKWARDS
def test_layers_begin_with_constants(tmp_path: Path, operator: str, attributes: dict[str, Any], direction: str) -> None:
    inputs = {"x": given(operator)["x"]}
    model = constant_start(tmp_path / "m.onnx", operator, direction=direction, **attributes)
    image = compiled(tmp_path, model, inputs)
    assert image.state_bytes == 0
    assert_near(image, inputs, in_onnxruntime(model, inputs))


@FORMS
@BACKWARDS
def test_over_float32_they_are_near_to_the_last_bits(
    tmp_path: Path, operator: str, attributes: dict[str, Any], direction: str
) -> None:
    model = starting(tmp_path / "m.onnx", operator, direction=direction, **attributes)
    inputs = given(operator, ways=WAYS[direction])
    options = CompileOptions(type="float32")
    image = read_image(compile_model(model, HOST, name="m", version="1", calibration=None, options=options).image)
    made = simulate(image, inputs)
    for out, wanted in zip(image.outputs, in_onnxruntime(model, inputs), strict=True):
        np.testing.assert_allclose(made[out.name].reshape(-1), wanted.reshape(-1), rtol=0, atol=2e-6)


@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_two_layers_both_ways_as_pytorch_exports_them(tmp_path: Path, operator: str) -> None:
    x = given(operator)["x"]
    model = torch_both_ways(tmp_path / "m.onnx", operator)
    image = compiled(tmp_path, model, {"x": x})
    assert image.state_bytes == 0
    wanted = onnxruntime.InferenceSession(model).run(None, {"x": x})
    assert_near(image, {"x": x}, wanted)
    assert min(snr_db(image, {"x": x}, wanted)) >= LEAST_SNR_DB


@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_a_layer_backwards_is_the_layer_over_turned_rows(tmp_path: Path, operator: str) -> None:
    """Byte for byte: Y in the order of the input, Y_h what the layer gives last, that is the first row of Y."""
    x = given(operator)["x"]
    images = []
    for direction in ("forward", "reverse"):
        made = layer(operator, ("y", "h"), "x w r b", direction=direction)
        outputs = {"outputs": ("y", "h")}
        path = save_model(tmp_path / "m.onnx", [made], (STEPS, 1, FEATURES), constants(operator, 0), **outputs)
        images.append(compiled(tmp_path, path, {"x": x if direction == "forward" else x[:, ::-1]}))
    plain, turned = (simulate(image, part) for image, part in zip(images, (x, x[:, ::-1]), strict=True))
    np.testing.assert_array_equal(turned["y"], plain["y"][:, ::-1])
    np.testing.assert_array_equal(turned["h"], plain["h"])
    np.testing.assert_array_equal(turned["h"].reshape(len(x), -1), turned["y"][:, 0].reshape(len(x), -1))


@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_the_batch_may_come_first(tmp_path: Path, operator: str) -> None:
    """layout = 1, which ONNX Runtime does not run: the bytes of layout = 0 behind a transpose."""
    x, images = {"x": given(operator)["x"]}, []
    for first in (0, 1):
        made = layer(operator, ("y", "h"), "t w r b", direction="bidirectional", layout=first)
        turn = node("Transpose", ["x"], "t", perm=[0, 1, 2] if first else [1, 0, 2])
        path = save_model(
            tmp_path / "m.onnx",
            [turn, made],
            ("N", STEPS, FEATURES),
            constants(operator, 0, ways=2),
            outputs=("y", "h"),
        )
        images.append(compiled(tmp_path, path, x))
    second, first = (simulate(image, x["x"]) for image in images)
    for name in ("y", "h"):
        np.testing.assert_array_equal(first[name].reshape(-1), second[name].reshape(-1))


@BACKWARDS
@pytest.mark.parametrize("steps", [1, STEPS])
@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_what_runs_backwards_keeps_nothing(tmp_path: Path, operator: str, direction: str, steps: int) -> None:
    """A state that it begins with is refused, of one step an inference too."""
    model = starting(tmp_path / "m.onnx", operator, steps=steps, direction=direction)
    pairs = (("h_next", "h"), ("c_next", "c"))[: 2 if operator == "LSTM" else 1]
    (problem,) = check_model(model, HOST, states=pairs).problems
    assert problem.operator == operator
    assert "runs backwards and begins with state 'h'" in problem.reason
    assert problem.help


def test_nor_does_it_on_a_detour(tmp_path: Path) -> None:
    """The state is cut and changed before the layer reads it, and another tensor feeds it."""
    nodes = [
        node("Slice", ["h", "i1", "i2", "i0"], "one"),
        node("Tanh", ["one"], "begin"),
        layer("GRU", ("y", "end"), "x w r b  begin", direction="reverse"),
        node("Concat", ["end", "end"], "h_next", axis=0),
    ]
    numbers = constants("GRU", 0) | {f"i{i}": np.array([i]) for i in range(3)}
    inputs: dict[str, Any] = {"x": (STEPS, 1, FEATURES), "h": (2, 1, UNITS)}
    model = save_model(tmp_path / "m.onnx", nodes, (), numbers, inputs=inputs, outputs=("y", "h_next"))
    assert not check_model(model, HOST).problems
    (problem,) = check_model(model, HOST, states=(("h_next", "h"),)).problems
    assert "begins with state 'h'" in problem.reason


def test_a_state_elsewhere_is_no_matter(tmp_path: Path) -> None:
    """A forward layer that streams, and one over its rows that runs both ways within each inference."""
    more = {f"{name}2": array for name, array in constants("GRU", 1, UNITS, ways=2).items()}
    nodes = [
        layer("GRU", ("rows", "h_next"), "x w r b  h"),
        node("Squeeze", ["rows", "i1"], "s"),
        layer("GRU", ("y",), "s w2 r2 b2", direction="bidirectional"),
    ]
    numbers = constants("GRU", 0) | more | {"i1": np.array([1])}
    inputs: dict[str, Any] = {"x": (STEPS, 1, FEATURES), "h": (1, 1, UNITS)}
    model = save_model(tmp_path / "m.onnx", nodes, (), numbers, inputs=inputs, outputs=("y", "h_next"))
    image = compiled(tmp_path, model, {"x": given("GRU")["x"]}, states=(("h_next", "h"),))
    assert image.state_bytes == 3 * UNITS


ORDER = "t w r b"


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "reason"),
    [
        ("LSTM", ORDER, {"direction": "sideways"}, "runs sideways"),
        ("LSTM", ORDER, {"direction": "reverse"}, "has W (2,"),
        ("LSTM", ORDER, {"clip": 1.0}, "has a clip"),
        ("LSTM", ORDER + " lengths", {}, "sequence lengths"),
        ("LSTM", ORDER + "    p", {}, "peepholes"),
        ("LSTM", ORDER, {"activations": ["Sigmoid", "Tanh", "Tanh"]}, "has activations Sigmoid, Tanh, Tanh"),
        ("LSTM", ORDER, {"activations": ["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Relu", "Tanh"]}, "Relu"),
        ("LSTM", "t w1 r b", {}, "has W (1,"),
        ("LSTM", "t w r1 b", {}, "has W"),
        ("LSTM", "t w r b1", {}, "has W"),
        ("LSTM", "t r w b", {}, "has W"),
        ("LSTM", ORDER + "  one_state one_state", {}, "begins with"),
        ("GRU", ORDER + "  t", {}, "begins with"),
        ("GRU", ORDER + "  flat", {}, "begins with"),
        ("GRU", ORDER + "  two_states", {}, "beyond 1"),
        ("GRU", ORDER, {"activations": ["Sigmoid", "Tanh"]}, "has activations Sigmoid, Tanh"),
        ("GRU", ORDER + " lengths", {}, "sequence lengths"),
    ],
)
def test_other_forms_are_named(
    tmp_path: Path, operator: str, inputs: str, attributes: dict[str, Any], reason: str
) -> None:
    both = constants(operator, 0, ways=2)
    more = both | {f"{name}1": array[:1] for name, array in both.items()}
    more |= {"lengths": np.array([STEPS], np.int32), "one_state": np.ones((1, 1, UNITS), np.float32)}
    more |= {"p": np.ones((2, 3 * UNITS), np.float32), "two_states": np.full((2, 1, UNITS), 2.0, np.float32)}
    more["first"] = np.random.default_rng(0).normal(size=(STEPS * FEATURES, 2 * UNITS)).astype(np.float32)
    nodes = [
        node("Transpose", ["x"], "t", perm=[1, 0, 2]),
        node("Flatten", ["x"], "f"),
        node("MatMul", ["f", "first"], "flat"),
        layer(operator, ("y",), inputs, **{"direction": "bidirectional"} | attributes),
    ]
    path = save_model(tmp_path / "m.onnx", nodes, ("N", STEPS, FEATURES), more)
    (problem,) = check_model(path, HOST).problems
    assert problem.operator == operator
    assert reason in problem.reason
    assert problem.help
