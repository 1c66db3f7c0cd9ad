"""ONNX LSTM and GRU: quantised near ONNX Runtime's float, in the layouts exporters write; other forms are named."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tinyfleet_compiler import CompileOptions, check_model, compile_model, read_image, simulate
from tinyfleet_compiler.image import Image
from tinyfleet_compiler.operators import OpCode
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
    torch_stack,
)

MEAN_LSB, MOST_LSB = 1.0, 8.0
"""Of the outputs' own scale, against float."""


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


def assert_near(image: Image, inputs: dict[str, np.ndarray], wanted: list[np.ndarray]) -> None:
    codes = simulate(image, inputs)
    for out, real in zip(image.outputs, wanted, strict=True):
        made = (codes[out.name].astype(np.float64) - out.zero_point) * out.scale
        apart = np.abs(made.reshape(len(real), -1) - real.reshape(len(real), -1)) / out.scale
        assert apart.mean() <= MEAN_LSB, out.name
        assert apart.max() <= MOST_LSB, out.name


RESETS = pytest.mark.parametrize(
    ("operator", "attributes"), [("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 0})]
)


@RESETS
@pytest.mark.parametrize("steps", [1, STEPS])
def test_layers_begin_with_inputs_and_give_their_ends_out(
    tmp_path: Path, operator: str, attributes: dict[str, Any], steps: int
) -> None:
    model, inputs = starting(tmp_path / "m.onnx", operator, steps=steps, **attributes), given(operator, steps=steps)
    image = compiled(tmp_path, model, inputs)
    assert [t.shape for t in image.inputs] == [x.shape[1:] for x in inputs.values()]
    assert_near(image, inputs, in_onnxruntime(model, inputs))


@RESETS
def test_layers_begin_with_constants(tmp_path: Path, operator: str, attributes: dict[str, Any]) -> None:
    inputs = {"x": given(operator)["x"]}
    model = constant_start(tmp_path / "m.onnx", operator, **attributes)
    image = compiled(tmp_path, model, inputs)
    assert image.state_bytes == 0
    assert_near(image, inputs, in_onnxruntime(model, inputs))


@RESETS
@pytest.mark.parametrize("steps", [1, 3])
def test_a_stream_gives_what_the_whole_gives(
    tmp_path: Path, operator: str, attributes: dict[str, Any], steps: int
) -> None:
    """Linked states stay in the layer: pieces of a sequence, one after the other, are the sequence byte for byte."""
    model = starting(tmp_path / "m.onnx", operator, steps=steps, **attributes)
    whole = starting(tmp_path / "w.onnx", operator, steps=STEPS, **attributes)
    pairs = (("h_next", "h"), ("c_next", "c"))[: 2 if operator == "LSTM" else 1]
    x = given(operator, 4)["x"]
    pieces = x.reshape(4, STEPS // steps, steps, FEATURES)
    image = compiled(tmp_path, model, {"x": pieces.reshape(-1, steps, FEATURES)}, states=pairs)
    assert image.state_bytes == 3 * UNITS
    assert {op.code for op in image.ops} == {OpCode[operator]}
    batch = compiled(tmp_path, whole, {"x": x}, states=pairs)
    out = image.outputs[0]
    assert (out.scale, out.zero_point) == (batch.outputs[0].scale, batch.outputs[0].zero_point)
    for row in range(4):
        got = simulate(image, pieces[row])["y"].reshape(STEPS, UNITS)
        np.testing.assert_array_equal(got, simulate(batch, x[row : row + 1])["y"].reshape(STEPS, UNITS))
        want = in_onnxruntime(
            whole, {"x": x[row : row + 1]} | {p[1]: np.zeros((1, 1, UNITS), np.float32) for p in pairs}
        )
        real = (got.astype(np.float64) - out.zero_point) * out.scale
        apart = np.abs(real - want[0].reshape(STEPS, UNITS)) / out.scale
        assert apart.max() <= MOST_LSB


@pytest.mark.parametrize("sized_by", [("x", "i0"), ("t0", "i1")])
@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_two_layers_as_pytorch_exports_them(tmp_path: Path, operator: str, sized_by: tuple[str, str]) -> None:
    x = given(operator)["x"]
    model = torch_stack(tmp_path / "m.onnx", operator, sized_by=sized_by)
    image = compiled(tmp_path, model, {"x": x})
    assert image.state_bytes == 0
    session = onnxruntime.InferenceSession(model)
    assert_near(image, {"x": x}, [session.run(None, {"x": x})[0]])


@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_states_of_two_layers_in_one_tensor(tmp_path: Path, operator: str) -> None:
    """(layers, N, units) is cut and joined along its first axis; the batch is the second."""
    shown = torch_stack(tmp_path / "m.onnx", operator, shown=True)
    rng, names = np.random.default_rng(4), ("h", "c")[: 2 if operator == "LSTM" else 1]
    inputs = {"x": given(operator)["x"]} | {n: rng.uniform(-0.8, 0.8, (24, 2, UNITS)).astype(np.float32) for n in names}
    image = compiled(tmp_path, shown, inputs)
    session = onnxruntime.InferenceSession(shown)
    moved = {name: x if name == "x" else np.ascontiguousarray(x.transpose(1, 0, 2)) for name, x in inputs.items()}
    y, *ends = session.run(None, moved)
    assert_near(image, inputs, [y, *(end.transpose(1, 0, 2) for end in ends)])


@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_the_batch_may_come_first(tmp_path: Path, operator: str) -> None:
    """layout = 1, which ONNX Runtime does not run: the bytes of layout = 0 between two transposes."""
    x = {"x": given(operator)["x"]}
    nodes = [layer(operator, ("rows", "h"), "x w r b", layout=1), node("Squeeze", ["rows", "two"], "y")]
    first = save_model(
        tmp_path / "1.onnx", nodes, ("N", STEPS, FEATURES), constants(operator, 0) | {"two": np.array([2])}
    )
    image, other = compiled(tmp_path, first, x), compiled(tmp_path, sequence(tmp_path / "0.onnx", operator), x)
    np.testing.assert_array_equal(simulate(image, x["x"])["y"], simulate(other, x["x"])["y"])


def test_layers_around_may_keep_the_batch_second(tmp_path: Path) -> None:
    """A model that is time first throughout: a dense layer, an activation and a softmax on (T, N, F)."""
    x = {"x": given("GRU")["x"]}
    dense = np.random.default_rng(1).normal(0.0, 0.5, (UNITS, 3)).astype(np.float32)
    nodes = [
        node("Tanh", ["x"], "b0"),
        layer("GRU", ("rows",), "b0 w r b"),
        node("Squeeze", ["rows", "one"], "s"),
        node("MatMul", ["s", "g"], "m"),
        node("Add", ["m", "bias"], "a"),
        node("Softmax", ["a"], "y", axis=-1),
    ]
    more = {"one": np.array([1]), "g": dense, "bias": np.ones(3, np.float32)}
    model = save_model(tmp_path / "m.onnx", nodes, ("time", 1, FEATURES), constants("GRU", 0) | more)
    (problem,) = check_model(model, HOST).problems
    assert "--dim time=SIZE" in problem.help
    image = compiled(tmp_path, model, x, dims={"time": STEPS})
    assert_near(image, x, in_onnxruntime(model, x))


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("name", ["", "gru", "end0/rows"])
def test_names_may_be_missing_or_given_twice(tmp_path: Path, name: str, direction: str) -> None:
    """Each of the layers has a state of its own to begin with: the bytes of a file with two names."""
    ways, images = WAYS[direction], []
    for names in (("one", "other"), (name, name)):
        nodes, numbers = [], {}
        for i in (0, 1):
            numbers |= {f"{part}{i}": array for part, array in constants("GRU", i, ways=ways).items()}
            nodes.append(layer("GRU", ("", f"end{i}"), f"x w{i} r{i} b{i}  h{i}", direction=direction))
            nodes[-1].name = names[i]
        nodes.append(node("Concat", ["end0", "end1"], "y", axis=2))
        inputs: dict[str, Any] = {"x": (STEPS, 1, FEATURES)} | dict.fromkeys(("h0", "h1"), (ways, 1, UNITS))
        model = save_model(tmp_path / "m.onnx", nodes, (), numbers, inputs=inputs)
        found = given("GRU", ways=ways)
        x = {"x": found["x"], "h0": found["h"], "h1": -found["h"]}
        images.append(compiled(tmp_path, model, x))
    named, bare = (simulate(image, x)["y"] for image in images)
    np.testing.assert_array_equal(bare, named)


ORDER = "t w r b"


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "reason"),
    [
        ("LSTM", ORDER, {"clip": 1.0}, "has a clip"),
        ("LSTM", ORDER, {"input_forget": 1}, "couples its gates"),
        ("LSTM", ORDER, {"activations": ["Relu", "Tanh", "Tanh"]}, "has activations Relu"),
        ("LSTM", ORDER, {"hidden_size": 5}, "has W"),
        ("LSTM", ORDER + "  one_state long", {}, "begins with"),
        ("LSTM", ORDER + "  t one_state", {}, "one tensor and one constant"),
        ("LSTM", "x w r b", {}, "as a batch of"),
        ("GRU", ORDER, {"activations": ["Sigmoid", "Relu"]}, "has activations Sigmoid, Relu"),
        ("GRU", ORDER + "  two_state", {}, "beyond 1"),
        ("GRU", ORDER + "  t", {}, "begins with"),
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
    more |= {"two_state": 2 * more["one_state"], "long": np.ones((1, 1, UNITS + 1), np.float32)}
    path = save_model(tmp_path / "m.onnx", nodes, ("N", STEPS, FEATURES), constants(operator, 0) | more)
    (problem,) = check_model(path, HOST).problems
    assert problem.operator == operator
    assert reason in problem.reason
    assert problem.help


def test_other_operators_do_not_read_a_moved_batch(tmp_path: Path) -> None:
    nodes = [node("Transpose", ["x"], "t", perm=[1, 0, 2]), node("GlobalMaxPool", ["t"])]
    (problem,) = check_model(save_model(tmp_path / "m.onnx", nodes, ("N", 4, 5)), HOST).problems
    assert problem.operator == "GlobalMaxPool"
    assert "batch is not its first axis" in problem.reason
