"""Element-wise kernels against NUMERICS.md over random shapes, apart and in place; hostile records are refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime import elementwise
from agent.runtime.bend import assert_refused, assert_safe
from agent.runtime.images import ImageBuilder, Io, Op
from agent.runtime.rig import Model
from agent.runtime.test_runtime_kernels import EXAMPLES, SEEDS, ZERO_POINT, activation, check, random_int8
from tinyfleet_compiler import numerics
from tinyfleet_compiler.operators import OpCode


@EXAMPLES
@given(st.integers(1, 60), SEEDS)
def test_lut_int8(size: int, seed: int) -> None:
    x, table = random_int8(seed, size), random_int8(seed + 1, 256)
    check(Op(OpCode.LUT_INT8, {"size": size}, constant=table), x, table[x.astype(int) + 128], 0)


@EXAMPLES
@given(st.integers(1, 6), st.integers(1, 9), ZERO_POINT, ZERO_POINT, activation(), st.floats(0.01, 3.0), SEEDS)
def test_prelu(
    rows: int, count: int, zero_in: int, zero_out: int, limits: dict[str, int], real: float, seed: int
) -> None:
    op: dict[str, Any] = {"slope_count": count, "size": rows * count, **limits}
    op |= {"input_zero_point": zero_in, "output_zero_point": zero_out}
    op["multiplier"], op["shift"] = numerics.quantize_multiplier(real)
    op["slope_multiplier"], op["slope_shift"] = numerics.quantize_multiplier(real / 100)
    x, slopes = random_int8(seed, rows * count), random_int8(seed + 1, count)
    check(Op(OpCode.PRELU, op, constant=slopes), x, elementwise.prelu(op, x, slopes), 0)


def lut_image() -> ImageBuilder:
    op = Op(OpCode.LUT_INT8, {"size": 8, "overlap_bytes": 0}, constant=random_int8(1, 256))
    return ImageBuilder(8, [Io(0, (8,))], [Io(0, (8,))], [op])


def prelu_image() -> ImageBuilder:
    values = {"size": 8, "slope_count": 4, "multiplier": 2**30, "slope_multiplier": 2**30, "overlap_bytes": 0}
    op = Op(OpCode.PRELU, values | {"shift": 1, "slope_shift": -3}, constant=random_int8(1, 4))
    return ImageBuilder(8, [Io(0, (8,))], [Io(0, (8,))], [op])


@pytest.mark.parametrize(
    ("builder", "name", "value"),
    [
        (lut_image, "table", 0xFFFFFFFF),
        (lut_image, "table", -1),
        (lut_image, "size", 0),
        (lut_image, "size", 9),
        (lut_image, "size", 0xFFFFFFFF),
        (lut_image, "input", 1),
        (lut_image, "flags", 1),
        (lut_image, "overlap_bytes", 1),
        (prelu_image, "slopes", 0xFFFFFFFF),
        (prelu_image, "slope_count", 0),
        (prelu_image, "slope_count", 0xFFFFFFFF),
        (prelu_image, "size", 9),
        (prelu_image, "multiplier", -1),
        (prelu_image, "slope_multiplier", -1),
        (prelu_image, "shift", 31),
        (prelu_image, "slope_shift", -32),
        (prelu_image, "activation_min", 127),
    ],
)
def test_a_bent_field_is_refused(builder: Any, name: str, value: int) -> None:
    image = builder()
    if name == "activation_min":
        image.ops[0].values["activation_max"] = 0
    assert_refused(image, name, value)


@pytest.mark.parametrize("builder", [lut_image, prelu_image])
def test_good_images_open(builder: Any) -> None:
    assert Model(builder().build()).status == "OK"


@EXAMPLES
@given(st.sampled_from([lut_image, prelu_image]), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255))))
def test_whatever_opens_runs_safely(builder: Any, changes: list[tuple[int, int]]) -> None:
    assert_safe(builder().build(), changes)
