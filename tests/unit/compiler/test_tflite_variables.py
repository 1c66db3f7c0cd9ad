"""Resource variables of TFLite models: streams give TensorFlow Lite Micro's bytes; wrong uses are named."""

from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyfleet_compiler import check_model, simulate
from unit.compiler.tflite_models import HOST, Builder, codes, compiled_image, oracle, schema

many = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Streaming(Builder):
    """A builder with resource variables."""

    def handle(self, name: str) -> int:
        made = self.tensor((), kind="i4", name=f"handle/{name}")
        self.graph.tensors[made].type = schema.TensorType.RESOURCE
        return self.operator("VAR_HANDLE", [], made, kind="VarHandleOptions", container="", sharedName=name)

    def read(self, handle: int, shape: Any, q: Any) -> int:
        return self.operator("READ_VARIABLE", [handle], self.tensor(shape, *q), kind="ReadVariableOptions")

    def assign(self, handle: int, value: int) -> None:
        self.operator("ASSIGN_VARIABLE", [handle, value], -1, kind="AssignVariableOptions")
        self.graph.operators[-1].outputs = []

    def initialise(self, name: str, value: np.ndarray, q: Any) -> None:
        """CALL_ONCE of a second graph that assigns a constant."""
        other = Streaming.__new__(Streaming)
        other.model, other.graph = self.model, schema.SubGraphT()
        other.graph.tensors, other.graph.operators = [], []
        other.assign(other.handle(name), other.tensor(value.shape, *q, data=value))
        other.graph.inputs, other.graph.outputs = [], []
        self.model.subgraphs.append(other.graph)
        self.operator("CALL_ONCE", [], -1, kind="CallOnceOptions", initSubgraphIndex=len(self.model.subgraphs) - 1)
        self.graph.operators[-1].outputs = []


def ring(seed: int, initial: bool) -> tuple[bytes, np.ndarray]:
    """concat(variable, x) -> conv; the last rows go back into the variable."""
    rng = np.random.default_rng(seed)
    rows, new, width, channels = 5, int(rng.integers(1, 4)), int(rng.integers(1, 5)), int(rng.integers(1, 4))
    q = float(np.float32(2.0 ** rng.uniform(-7, 0))), int(rng.integers(-128, 128))
    built = Streaming()
    x = built.tensor((1, new, width, channels), *q)
    if initial:
        built.initialise("ring", codes(rng, 1, rows, width, channels), q)
    handle = built.handle("ring")
    held = built.read(handle, (1, rows, width, channels), q)
    window = built.tensor((1, rows + new, width, channels), *q)
    built.operator("CONCATENATION", [held, x], window, 2, kind="ConcatenationOptions", axis=1)
    begin = built.tensor((4,), data=np.array([0, new, 0, 0], np.int32))
    size = built.tensor((4,), data=np.array([1, rows, width, channels], np.int32))
    last = built.operator("SLICE", [window, begin, size], built.tensor((1, rows, width, channels), *q), 2)
    built.assign(handle, last)
    weights = np.float32(2.0 ** rng.uniform(-9, -5, 3))
    w = built.tensor((3, rows + new, 1, channels), weights, data=codes(rng, 3, rows + new, 1, channels))
    b = built.tensor((3,), weights * q[0], data=rng.integers(-9999, 9999, 3).astype(np.int32))
    y = built.tensor((1, 1, width, 3), q[0] * 2, int(rng.integers(-128, 128)))
    built.operator("CONV_2D", [window, w, b], y, 3, kind="Conv2DOptions", padding=1, strideH=1, strideW=1)
    return built.data([x], [y]), codes(rng, 9, new, width, channels)


@many
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_ring_buffer_streams_as_in_tflm(tmp_path: Path, seed: int, initial: bool) -> None:
    data, x = ring(seed, initial)
    image = compiled_image(tmp_path, data)
    (wanted,) = oracle(data, [x])
    assert [t.name for t in image.inputs] == ["t0"]
    np.testing.assert_array_equal(simulate(image, x)[image.outputs[0].name].reshape(9, -1), wanted)


@many
@given(st.integers(0, 2**32 - 1))
def test_a_variable_that_is_read_and_written_several_times(tmp_path: Path, seed: int) -> None:
    """Reads before the first assignment give the old value, later ones the new one; the last assignment stays."""
    rng = np.random.default_rng(seed)
    shape, q = (
        (1, int(rng.integers(1, 9))),
        (float(np.float32(2.0 ** rng.uniform(-7, 0))), int(rng.integers(-128, 128))),
    )
    built = Streaming()
    x, handle = built.tensor(shape, *q), built.handle("v")
    first, again = built.read(handle, shape, q), built.read(handle, shape, q)
    middle = built.operator("MAXIMUM", [first, x], built.tensor(shape, *q))
    built.assign(handle, middle)
    late = built.read(handle, shape, q)
    options = {"kind": "AddOptions"}
    last = built.operator("ADD", [late, again], built.tensor(shape, *q), 2, **options)
    built.assign(handle, last)
    y = built.operator("ADD", [last, x], built.tensor(shape, *q), 2, **options)
    data, sent = built.data([x], [y]), codes(rng, 8, shape[1])
    (wanted,) = oracle(data, [sent])
    image = compiled_image(tmp_path, data)
    np.testing.assert_array_equal(simulate(image, sent)[image.outputs[0].name], wanted)


def test_what_a_variable_begins_with_comes_from_the_file(tmp_path: Path) -> None:
    image = compiled_image(tmp_path, ring(7, True)[0])
    (state,) = image.states
    assert len(set(image.initial_state[: state.size_bytes].tolist())) > 1
    (state,) = (plain := compiled_image(tmp_path, ring(7, False)[0])).states
    assert (plain.initial_state[: state.size_bytes] == state.fill).all()


def reasons(folder: Path, data: bytes) -> str:
    (folder / "m.tflite").write_bytes(data)
    return " ".join(problem.reason for problem in check_model(folder / "m.tflite", HOST).problems)


def small(second: Any = (0.5, 0)) -> tuple[Streaming, int, int, int]:
    built = Streaming()
    x, handle = built.tensor((1, 4), 0.5, 0), built.handle("v")
    held = built.read(handle, (1, 4), (0.5, 0))
    y = built.operator("ADD", [held, x], built.tensor((1, 4), *second), 2, kind="AddOptions")
    return built, x, handle, y


def test_a_variable_that_changes_scale_is_refused(tmp_path: Path) -> None:
    built, x, handle, y = small((0.25, 0))
    built.assign(handle, y)
    assert "differ" in reasons(tmp_path, built.data([x], [y]))


def test_an_initialiser_that_computes_is_refused(tmp_path: Path) -> None:
    built, x, _, y = small()
    built.initialise("v", np.zeros((1, 4), np.int8), (0.5, 0))
    built.graph.operators.insert(0, built.graph.operators.pop())
    good = built.data([x], [y])
    assert reasons(tmp_path, good) == ""
    adding = copy(built.graph.operators[-1])
    adding.inputs, adding.outputs = [0, 1], [1]
    built.model.subgraphs[1].operators.append(adding)
    assert "its initialiser runs ADD" in reasons(tmp_path, built.data([x], [y]))


@pytest.mark.parametrize("index", [0, 2, -1, 99])
def test_an_initialiser_that_is_not_there_is_refused(tmp_path: Path, index: int) -> None:
    built, x, _, y = small()
    built.initialise("v", np.zeros((1, 4), np.int8), (0.5, 0))
    built.graph.operators[-1].builtinOptions.initSubgraphIndex = index
    assert "which is not there" in reasons(tmp_path, built.data([x], [y]))
