"""LOG_SOFTMAX in C and in the simulator: one set of bytes, within one step of real logarithms; hostile records."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.bend import assert_refused, assert_safe
from agent.runtime.images import ImageBuilder, Io, Op
from agent.runtime.rig import Model
from agent.runtime.test_runtime_kernels import EXAMPLES, SEEDS, check, random_int8, softmax_values
from tinyfleet_compiler.numerics import quantize_multiplier
from tinyfleet_compiler.operators import OpCode

STEP = 1 / 16


def values(scale: float, rows: int, columns: int) -> dict[str, int]:
    """Record fields as NUMERICS.md section 3 has them."""
    op = softmax_values(scale, rows, columns) | {"input_zero_point": 3, "output_zero_point": 127}
    reverse = 2.0 ** (31 - op["left_shift"]) / op["multiplier"]
    op["reverse_multiplier"], op["reverse_shift"] = quantize_multiplier(reverse)
    return op


def expected(op: dict[str, int], x: np.ndarray, scale: float) -> np.ndarray:
    """Real logarithms in output steps, (rows, columns) float."""
    d = (x.astype(float) - x.max(axis=1, keepdims=True)) * scale
    real = d - np.log(np.exp(d).sum(axis=1, keepdims=True))
    return np.asarray(np.clip(real / STEP + op["output_zero_point"], -128, 127))


@EXAMPLES
@given(st.floats(1e-3, 1.0), st.integers(1, 3), st.integers(1, 40), SEEDS)
def test_log_softmax(scale: float, rows: int, columns: int, seed: int) -> None:
    op = values(scale, rows, columns)
    x = random_int8(seed, rows, columns)
    model = Model(image(op).build())
    got = model.run(x).reshape(rows, columns)
    assert np.abs(got - expected(op, x, scale)).max() <= 1.0
    check(Op(OpCode.LOG_SOFTMAX, op), x, got, 0)


@pytest.mark.parametrize("columns", [1, 2, 255, 256, 1023, 4095])
def test_many_equal_classes(columns: int) -> None:
    op = values(0.1, 1, columns)
    x = np.full((1, columns), 7, np.int8)
    got = Model(image(op).build()).run(x).reshape(1, columns)
    assert np.abs(got - expected(op, x, 0.1)).max() <= 1.0
    check(Op(OpCode.LOG_SOFTMAX, op), x, got, 0)


def image(op: dict[str, int] | None = None) -> ImageBuilder:
    fields: dict[str, Any] = dict(op or values(0.1, 2, 5))
    size = fields["rows"] * fields["columns"]
    record = Op(OpCode.LOG_SOFTMAX, fields | {"overlap_bytes": 0})
    return ImageBuilder(size, [Io(0, (size,))], [Io(0, (size,))], [record])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows", 0),
        ("rows", 3),
        ("columns", 0),
        ("columns", 6),
        ("columns", 0xFFFFFFFF),
        ("reverse_multiplier", -1),
        ("reverse_shift", 31),
        ("reverse_shift", -32),
        ("flags", 1),
        ("overlap_bytes", 1),
    ],
)
def test_a_bent_field_is_refused(name: str, value: int) -> None:
    assert_refused(image(), name, value)


@EXAMPLES
@given(st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255))))
def test_whatever_opens_runs_safely(changes: list[tuple[int, int]]) -> None:
    assert_safe(image().build(), changes)
