"""Reductions against NUMERICS.md: random shapes, apart and overlapping, hostile records."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime import elementwise
from agent.runtime.bend import assert_refused, assert_safe
from agent.runtime.images import ImageBuilder, Io, Op
from agent.runtime.rig import Model
from agent.runtime.test_runtime_kernels import EXAMPLES, SEEDS, ZERO_POINT, activation, check, random_int8
from tinyfleet_compiler.build_reduce import mean_multiplier
from tinyfleet_compiler.numerics import quantize_multiplier
from tinyfleet_compiler.operators import OpCode

CODES = [OpCode.REDUCE_SUM, OpCode.REDUCE_MAX, OpCode.REDUCE_MIN, OpCode.ARG_MAX, OpCode.ARG_MIN]


@st.composite
def reductions(draw: Any) -> tuple[OpCode, dict[str, Any]]:
    code = draw(st.sampled_from(CODES))
    op: dict[str, Any] = draw(activation()) if code not in (OpCode.ARG_MAX, OpCode.ARG_MIN) else {}
    op = {"activation_min": -128, "activation_max": 127} | op
    op |= {"outer": draw(st.integers(1, 5)), "count": draw(st.integers(1, 20)), "inner": draw(st.integers(1, 5))}
    real = draw(st.floats(0.01, 4.0))
    op["multiplier"], op["shift"] = (
        mean_multiplier(real, op["count"]) if draw(st.booleans()) else quantize_multiplier(real / op["count"])
    )
    zero = draw(ZERO_POINT)
    return code, op | {"input_zero_point": zero, "output_zero_point": draw(ZERO_POINT)}


@EXAMPLES
@given(reductions(), SEEDS)
def test_reductions(case: Any, seed: int) -> None:
    code, op = case
    x = random_int8(seed, op["outer"] * op["count"] * op["inner"])
    distance = 1 - op["count"] if op["inner"] == 1 else 0
    check(Op(code, op), x, elementwise.reduction(code, op, x), distance)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("inner", [1, 3])
def test_one_byte_nearer_than_legal_gives_other_bytes(code: OpCode, inner: int) -> None:
    op: dict[str, Any] = {"outer": 6, "count": 4, "inner": inner, "input_zero_point": 0, "output_zero_point": 0}
    op |= {"activation_min": -128, "activation_max": 127}
    op["multiplier"], op["shift"] = quantize_multiplier(0.5)
    x = random_int8(5, 24 * inner)
    if code is OpCode.ARG_MIN:  # indices are small numbers: only among larger ones do they do harm
        x[:] = 127
        x[3 * inner], x[5 * inner], x[inner + 1] = 0, 100, 100
    if code is OpCode.REDUCE_MAX:  # larger than what it is written over
        x[0] = 127
    if code is OpCode.ARG_MAX:  # indices are small numbers: only among smaller ones do they do harm
        x[:] = -128
        x[3 * inner], x[5 * inner], x[inner + 1] = 0, -126, -126
    right = elementwise.reduction(code, op, x)
    legal = 1 - 4 if inner == 1 else 0
    for distance, same in ((legal, True), (legal - 1, False)):
        values = op | {"input": 0, "output": -distance, "overlap_bytes": distance}
        arena = max(x.size, right.size - distance)
        image = ImageBuilder(arena, [Io(0, (x.size,))], [Io(-distance, (right.size,))], [Op(code, values)])
        assert (Model(image.build()).run(x) == right).all() == same


@pytest.mark.parametrize("count", [1, 2, 3, 7, 49, 64, 1000])
@pytest.mark.parametrize("ratio", [0.2, 1.0, 3.7])
def test_means_are_within_one_step_of_real_ones(count: int, ratio: float) -> None:
    x = random_int8(count, 8, count, 3)
    op: dict[str, Any] = {"outer": 8, "count": count, "inner": 3, "input_zero_point": 9, "output_zero_point": -4}
    op |= {"activation_min": -128, "activation_max": 127}
    op["multiplier"], op["shift"] = mean_multiplier(ratio, count)
    got = elementwise.reduction(OpCode.REDUCE_SUM, op, x.ravel()).reshape(8, 3)
    real = np.clip((x.mean(axis=1, dtype=np.float64) - 9) * ratio - 4, -128, 127)
    assert np.abs(got - real).max() <= 1.0


def image(code: OpCode = OpCode.REDUCE_SUM) -> ImageBuilder:
    op = Op(code, {"outer": 2, "count": 3, "inner": 4, "multiplier": 2**30, "shift": -1, "output": 24})
    return ImageBuilder(32, [Io(0, (24,))], [Io(24, (8,))], [op])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("outer", 0),
        ("outer", 3),
        ("outer", 0xFFFFFFFF),
        ("count", 0),
        ("count", 4),
        ("count", 0x00800001),
        ("count", 0xFFFFFFFF),
        ("inner", 0),
        ("inner", 5),
        ("inner", 0xFFFFFFFF),
        ("input", 1),
        ("output", 25),
        ("output", 8),
        ("flags", 1),
        ("multiplier", -1),
        ("shift", -32),
    ],
)
def test_a_bent_field_is_refused(name: str, value: int) -> None:
    for code in CODES:
        assert_refused(image(code), name, value)


def test_an_index_fits_its_byte() -> None:
    builder = ImageBuilder(258, [Io(0, (257,))], [Io(257, (1,))], [])
    for count, status in ((256, "OK"), (257, "LAYOUT")):
        op = Op(OpCode.ARG_MAX, {"outer": 1, "count": count, "inner": 1, "multiplier": 0, "shift": 0, "output": 257})
        builder.ops = [op]
        assert Model(builder.build()).status == status


@EXAMPLES
@given(st.sampled_from(CODES), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255))))
def test_whatever_opens_runs_safely(code: OpCode, changes: list[tuple[int, int]]) -> None:
    assert Model(image(code).build()).status == "OK"
    assert_safe(image(code).build(), changes)
