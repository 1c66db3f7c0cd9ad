"""UNIDIRECTIONAL_SEQUENCE_LSTM gives TensorFlow Lite Micro's bytes over streams; forms it does not run are named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyfleet_compiler import check_model, simulate
from unit.compiler.tflite_models import HOST, Builder, codes, compiled_image, oracle

many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
INFERENCES = 5
_TANH = 4
_OPTIONS = "UnidirectionalSequenceLSTMOptions"


def lstm(
    seed: int,
    *,
    time_major: bool = False,
    extra: dict[int, tuple[int, ...]] | None = None,
    missing: tuple[int, ...] = (),
    ways: tuple[bool, ...] = (False,),
    **changes: Any,
) -> tuple[bytes, np.ndarray]:
    """A model and inputs (INFERENCES, ...); `extra` gives optional inputs a shape, `missing` takes inputs away. One
    layer for each of `ways`, all with the same weights: whether it runs between two REVERSE_V2."""
    rng = np.random.default_rng(seed)
    units, steps, features = (int(rng.integers(1, most)) for most in (9, 6, 12))
    source, shown = float(np.float32(2.0 ** rng.uniform(-9, -2))), float(np.float32(2.0 ** rng.uniform(-8, -6)))
    zero = int(rng.integers(-128, 128))
    # Gates reach a few units, seldom their ends.
    over, back = (2.0 ** rng.uniform(-1, 3) / (scale * 5000.0) for scale in (source, shown))
    built = Builder()
    sizes = (steps, 1) if time_major else (1, steps)
    x_zero = int(rng.integers(-128, 128))
    given = x = built.tensor((1, steps, features), source, x_zero)
    if time_major:
        x = reshape(built, given, built.tensor((steps, 1, features), source, x_zero))
    weights = [float(np.float32(over * 2.0 ** rng.uniform(-1, 1))) for _ in range(4)]
    inputs = [x, *(built.tensor((units, features), s, data=codes(rng, units, features)) for s in weights)]
    inputs += [
        built.tensor((units, units), float(np.float32(back * 2.0 ** rng.uniform(-1, 1))), data=codes(rng, units, units))
        for _ in range(4)
    ]
    inputs += [-1] * 3
    for scale in weights:
        bias = rng.normal(0.0, 0.5, units) / (source * scale)
        inputs.append(built.tensor((units,), source * scale, data=bias.astype(np.int32)))
    inputs += [-1, -1]
    cell_scale = changes.get("cell_scale", 2.0 ** int(rng.integers(-15, -8)))
    inputs += [-1] * 6
    for index, shape in (extra or {}).items():
        inputs[index] = built.tensor(shape, 0.01, data=np.ones(shape, np.int8))
    inputs = [-1 if index in missing else tensor for index, tensor in enumerate(inputs)]
    options = {"fusedActivationFunction": changes.get("activation", _TANH), "timeMajor": time_major}
    options["cellClip"] = changes.get("clip", float(rng.choice([0.0, 0.0, 0.3, 10.0])))
    axis, rows = built.tensor((1,), data=np.array([0 if time_major else 1], np.int32)), []
    for turned in ways:
        hidden = built.tensor((1, units), shown, zero + changes.get("other_zero", 0), kind="i1")
        cell = built.tensor((1, units), cell_scale, kind="i2")
        for state in (hidden, cell):
            built.graph.tensors[state].isVariable = True
        read, y = x, built.tensor((*sizes, units), shown, zero)
        if turned:
            read = built.operator("REVERSE_V2", [x, axis], built.tensor((*sizes, features), source, x_zero))
        given_to = [read, *inputs[1:18], hidden, cell, *inputs[20:]]
        built.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", given_to, y, 3, kind=_OPTIONS, **options)
        if turned:
            y = built.operator("REVERSE_V2", [y, axis], built.tensor((*sizes, units), shown, zero))
        rows.append(y)
    y = rows[0]
    if len(rows) > 1:
        y, units = built.tensor((*sizes, len(rows) * units), shown, zero), len(rows) * units
        built.operator("CONCATENATION", rows, y, 1, kind="ConcatenationOptions", axis=2)
    if time_major:
        y = reshape(built, y, built.tensor((1, steps, units), shown, zero))
    return built.data([given], [y]), codes(rng, INFERENCES, steps, features)


def reshape(built: Builder, source: int, target: int) -> int:
    """A RESHAPE between two tensors."""
    shape = np.array(built.graph.tensors[target].shape, np.int32)
    sizes = built.tensor((len(shape),), data=shape)
    return built.operator("RESHAPE", [source, sizes], target, kind="ReshapeOptions", newShape=shape.tolist())


@many
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_stream_through_an_lstm_is_tflms(tmp_path: Path, seed: int, time_major: bool) -> None:
    data, x = lstm(seed, time_major=time_major)
    (wanted,) = oracle(data, [x])
    image = compiled_image(tmp_path, data)
    np.testing.assert_array_equal(simulate(image, x)[image.outputs[0].name].reshape(INFERENCES, -1), wanted)


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 5, 6])  # of several steps
@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("ways", [(True,), (False, True), (True, False)])
def test_a_layer_backwards_begins_anew(tmp_path: Path, seed: int, time_major: bool, ways: tuple[bool, ...]) -> None:
    """Keras's `go_backwards` and Bidirectional: every inference is TFLM's first, of the layer beside it too."""
    data, x = lstm(seed, time_major=time_major, ways=ways)
    image = compiled_image(tmp_path, data)
    assert image.state_bytes == 0
    plain = lstm(seed, time_major=time_major)[0]
    made = simulate(image, x)[image.outputs[0].name].reshape(*x.shape[:2], -1)
    for row, got in zip(x, made, strict=True):
        parts = []
        for turned in ways:
            whole = oracle(plain, [row[None, ::-1] if turned else row[None]])[0].reshape(len(row), -1)
            parts.append(whole[::-1] if turned else whole)
        np.testing.assert_array_equal(got, np.concatenate(parts, axis=1))


def test_what_it_gives_is_not_stuck_at_its_ends(tmp_path: Path) -> None:
    data, x = lstm(5, clip=0.0, cell_scale=2.0**-12)
    image = compiled_image(tmp_path, data)
    assert len(np.unique(simulate(image, x)[image.outputs[0].name])) > 20


@pytest.mark.parametrize("power", [-28, -20, -15, -12, -9, -4, 0])
def test_every_scale_of_the_cell_is_tflms(tmp_path: Path, power: int) -> None:
    data, x = lstm(7, cell_scale=2.0**power)
    image = compiled_image(tmp_path, data)
    wanted = oracle(data, [x])[0]
    np.testing.assert_array_equal(simulate(image, x)[image.outputs[0].name].reshape(INFERENCES, -1), wanted)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"extra": {9: (1,)}}, "has peepholes"),
        ({"extra": {16: (1, 1)}}, "has a projection"),
        ({"extra": {21: (1,)}}, "has layer normalisation"),
        ({"missing": (1, 5, 12)}, "couples input and forget gate"),
        ({"missing": (3,)}, "is missing"),
        ({"extra": {2: (1, 1)}}, "has weights"),
        ({"extra": {13: (1,)}}, "has a bias"),
        ({"activation": 1}, "activation other than tanh"),
        ({"cell_scale": 0.001}, "a cell of scale"),
        ({"cell_scale": 2.0**-29}, "a cell of scale"),
        ({"cell_scale": 2.0}, "a cell of scale"),
        ({"other_zero": 1}, "another scale than its state"),
        ({"clip": float("nan")}, "clips its cell"),
        ({"clip": 1e-9}, "less than one step"),
    ],
)
def test_other_forms_are_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    (tmp_path / "m.tflite").write_bytes(lstm(5, **changes)[0])
    (problem,) = check_model(tmp_path / "m.tflite", HOST).problems
    assert problem.operator == "UNIDIRECTIONAL_SEQUENCE_LSTM"
    assert reason in problem.reason
    assert problem.help
