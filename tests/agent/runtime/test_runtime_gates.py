"""LSTM and GRU in C: the simulator's bytes over streams, hostile records."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.bend import assert_refused, assert_safe
from agent.runtime.images import ImageBuilder, Io, Op
from agent.runtime.rig import Model
from agent.runtime.test_runtime_kernels import EXAMPLES
from agent.runtime.test_runtime_state import entry
from tinyfleet_compiler import compile_model, read_image, simulate
from tinyfleet_compiler.layout import GATES
from tinyfleet_compiler.numerics import quantize
from tinyfleet_compiler.operators import Element, OpCode, OpFlag
from unit.compiler import recurrent_models
from unit.compiler.recurrent_models import HOST as ONNX_HOST
from unit.compiler.recurrent_models import constant_start, starting
from unit.compiler.test_compiler_recurrent import last_row, sequence
from unit.compiler.test_tflite_lstm import lstm
from unit.compiler.tflite_models import compiled_image

FEATURES, UNITS, STEPS = 5, 3, 2


@pytest.mark.parametrize("ways", [(False,), (False, True)])
@pytest.mark.parametrize("seed", range(12))
def test_a_stream_gives_the_simulators_bytes(tmp_path: Path, seed: int, ways: tuple[bool, ...]) -> None:
    data, x = lstm(seed, ways=ways)
    image = compiled_image(tmp_path, data)
    model = Model(image.data)
    assert model.golden() == "OK"
    got = np.stack([model.run(row) for row in x])
    np.testing.assert_array_equal(got, simulate(image, x)[image.outputs[0].name].reshape(len(x), -1))


@pytest.mark.parametrize("power", [-28, -15, -12, 0])
def test_every_scale_of_the_cell_gives_the_simulators_bytes(tmp_path: Path, power: int) -> None:
    data, x = lstm(5, cell_scale=2.0**power)
    image = compiled_image(tmp_path, data)
    model = Model(image.data)
    got = np.stack([model.run(row) for row in x])
    np.testing.assert_array_equal(got, simulate(image, x)[image.outputs[0].name].reshape(len(x), -1))


@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
@pytest.mark.parametrize(
    "make", [sequence, last_row, *(partial(recurrent_models.torch_both_ways, outputs=(one,)) for one in "yz")]
)
def test_onnx_layers_give_the_simulators_bytes(tmp_path: Path, operator: str, make: Any) -> None:
    x = np.random.default_rng(9).normal(0.0, 1.0, (16, 12, 6)).astype(np.float32)
    np.savez(tmp_path / "c.npz", x=x)
    source = make(tmp_path / "m.onnx", operator)
    made = compile_model(source, ONNX_HOST, name="m", version="v1", calibration=tmp_path / "c.npz")
    built = read_image(made.image)
    model, given = Model(built.data), built.inputs[0]
    assert model.golden() == "OK"
    codes = quantize(x, given.scale, given.zero_point)
    got = np.stack([model.run(row) for row in codes])
    np.testing.assert_array_equal(got, simulate(built, x)[built.outputs[0].name].reshape(len(x), -1))


FORMS = pytest.mark.parametrize(
    ("operator", "attributes"), [("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 0})]
)


@FORMS
@pytest.mark.parametrize("direction", recurrent_models.WAYS)
def test_layers_that_begin_with_tensors_or_constants(
    tmp_path: Path, operator: str, attributes: dict[str, Any], direction: str
) -> None:
    """Golden vectors are inferences of the simulator, every operator's output among them."""
    inputs = recurrent_models.given(operator, ways=recurrent_models.WAYS[direction])
    attributes = attributes | {"direction": direction}
    given = recurrent_models.compiled(tmp_path, starting(tmp_path / "g.onnx", operator, **attributes), inputs)
    assert OpCode.STATE_WRITE in {op.code for op in given.ops}
    fixed = constant_start(tmp_path / "f.onnx", operator, **attributes)
    for built in (given, recurrent_models.compiled(tmp_path, fixed, {"x": inputs["x"]})):
        assert Model(built.data).golden() == "OK"


@FORMS
def test_a_layer_keeps_its_states(tmp_path: Path, operator: str, attributes: dict[str, Any]) -> None:
    x = recurrent_models.given(operator, steps=1)["x"]
    pairs = (("h_next", "h"), ("c_next", "c"))[: 2 if operator == "LSTM" else 1]
    source = starting(tmp_path / "m.onnx", operator, steps=1, **attributes)
    built = recurrent_models.compiled(tmp_path, source, {"x": x}, states=pairs)
    model, io = Model(built.data), built.inputs[0]
    got = np.stack([model.run(row) for row in quantize(x, io.scale, io.zero_point)])
    np.testing.assert_array_equal(got, simulate(built, x)[built.outputs[0].name].reshape(len(x), -1))
    assert len(np.unique(got[:, 0])) > 4


def anew(code: OpCode) -> ImageBuilder:
    """The layer below in scratch: it begins anew with every inference."""
    kept = image()
    gru = code is OpCode.GRU
    fields = {"hidden": 0xFFFFFFFF, "cell": 0xFFFFFFFF, "scratch": 20, "scratch_bytes": 3 * UNITS}
    fields |= {"cell_power": -15} if gru else {}
    gates = GATES - 1 if gru else GATES
    table = np.arange(gates * UNITS * (8 + FEATURES + UNITS), dtype=np.int8)
    op = Op(code, kept.ops[0].values | fields, constant=table)
    return ImageBuilder(32, kept.inputs, kept.outputs, [op])


@pytest.mark.parametrize("code", [OpCode.LSTM, OpCode.GRU])
@pytest.mark.parametrize(
    ("name", "value"),
    [("scratch_bytes", 8), ("scratch", 21), ("scratch", 14), ("hidden", 0), ("cell", 0), ("units", 4)],
)
def test_a_layer_without_room_is_refused(code: OpCode, name: str, value: int) -> None:
    assert Model(anew(code).build()).status == "OK"
    assert_refused(anew(code), name, value)


def test_every_place_to_begin_from_is_checked() -> None:
    given, reset = int(OpFlag.GIVEN_START), int(OpFlag.RESET_FIRST)
    assert_refused(image(), "flags", given)  # it keeps its state
    assert_refused(anew(OpCode.LSTM), "flags", given)  # the table is too short
    assert_refused(anew(OpCode.LSTM), "flags", reset)
    assert_refused(anew(OpCode.GRU), "flags", reset)  # the scratch is too short


@pytest.mark.parametrize(("name", "value"), [("cell_power", -14), ("cell_clip", 1)])
def test_a_gru_keeps_q15(name: str, value: int) -> None:
    assert_refused(anew(OpCode.GRU), name, value)


def image() -> ImageBuilder:
    fields = {"features": FEATURES, "units": UNITS, "steps": STEPS, "hidden": 0, "cell": 4}
    fields |= {"gate_multipliers": [2**30] * 2 * GATES, "gate_shifts": [-1] * 2 * GATES, "cell_power": -12}
    fields |= {"output_multiplier": 2**30, "output_shift": -22, "cell_clip": 0}
    table = np.arange(GATES * UNITS * (8 + FEATURES + UNITS), dtype=np.int8)
    op = Op(OpCode.LSTM, fields | {"input": 0, "output": 12}, constant=table)
    states = entry(0, UNITS), entry(4, 2 * UNITS, Element.INT16)
    return ImageBuilder(20, [Io(0, (STEPS, FEATURES))], [Io(12, (STEPS, UNITS))], [op], states=states)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("features", value) for value in (0, 0xFFFFFFFF, 0x40000001)],
        *[(name, value) for name in ("units", "steps") for value in (0, 0xFFFF)],
        ("features", 6),
        ("units", 4),
        ("steps", 3),
        *[(name, value) for name in ("hidden", "cell") for value in (2, 12, 0xFFFFFFFC)],
        ("table", 8),
        ("table", 0xFFFFFFF0),
        ("gate_multipliers", -1),
        ("gate_shifts", 31),
        ("gate_shifts", -32),
        ("output_multiplier", -1),
        ("output_shift", 31),
        ("cell_power", 1),
        ("cell_power", -29),
        ("cell_clip", -1),
        ("output", 8),
    ],
)
def test_a_bent_record_is_refused(name: str, value: int) -> None:
    assert Model(image().build()).status == "OK"
    assert_refused(image(), name, value)


def test_every_gate_is_checked() -> None:
    for index in range(2 * GATES):
        assert_refused(image(), "gate_multipliers", -1, index)


@EXAMPLES
@given(st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255))))
def test_whatever_opens_runs_safely(changes: list[tuple[int, int]]) -> None:
    assert_safe(image().build(), changes)
