"""Operators over two operands against NUMERICS.md: random shapes and broadcasting, in place, hostile records."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime import elementwise
from agent.runtime.bend import assert_refused, assert_safe
from agent.runtime.images import ImageBuilder, Io, Op
from agent.runtime.rig import Model
from agent.runtime.test_runtime_kernels import EXAMPLES, SEEDS, ZERO_POINT, activation, check, random_int8, simulated
from tinyfleet_compiler import layout
from tinyfleet_compiler.broadcast import broadcast_walk
from tinyfleet_compiler.numerics import quantize_multiplier
from tinyfleet_compiler.operators import OpCode, OpFlag

CODES = [OpCode.ADD_BROADCAST, OpCode.SUB, OpCode.MUL, OpCode.DIV, OpCode.MINIMUM, OpCode.MAXIMUM]
CODES += [OpCode.SQUARED_DIFFERENCE]


def multipliers(code: OpCode, a: float, b: float, y: float, swapped: bool) -> dict[str, int]:
    """For scales a, b, y as NUMERICS.md section 2 has them."""
    t = 2 * max(a, b)
    above, below = (b, a) if swapped else (a, b)
    reals = {
        OpCode.MUL: (0, 0, a * b / y),
        OpCode.DIV: (0, 0, above / (below * y)),
        OpCode.MINIMUM: (a / y, b / y, 0),
        OpCode.MAXIMUM: (a / y, b / y, 0),
        OpCode.SQUARED_DIFFERENCE: (a / t, b / t, t * t / 2**14 / y),
    }.get(code, (a / t, b / t, t / (2**20 * y)))
    op = {}
    for name, real in zip(("input", "input_b", "output"), reals, strict=True):
        op[f"{name}_multiplier"], op[f"{name}_shift"] = quantize_multiplier(real)
    return op


@st.composite
def operands(draw: Any) -> tuple[OpCode, dict[str, Any], int, int, tuple[float, float, float]]:
    """(code, record fields, elements of a, elements of b, scales)."""
    code = draw(st.sampled_from(CODES))
    out = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple))
    shapes = [tuple(1 if draw(st.integers(0, 3)) == 0 else size for size in out) for _ in range(2)]
    out = tuple(int(d) for d in np.broadcast_shapes(*shapes))
    walk = broadcast_walk(shapes[0], shapes[1], out)
    scales = tuple(draw(st.floats(0.01, 0.5)) for _ in range(3))
    swapped = code in (OpCode.SUB, OpCode.DIV) and draw(st.booleans())
    op: dict[str, Any] = draw(activation()) | multipliers(code, *scales, swapped)
    op |= {f"{name}_zero_point": draw(ZERO_POINT) for name in ("input", "input_b", "output")}
    op |= {"dims": walk.dims, "repeats": walk.repeats, "repeats_b": walk.repeats_b, "reserved": 0}
    op["flags"] = OpFlag.SWAPPED if swapped else OpFlag.NONE
    return code, op, int(np.prod(shapes[0])), int(np.prod(shapes[1])), scales


@EXAMPLES
@given(operands(), SEEDS)
def test_with_a_constant(case: Any, seed: int) -> None:
    code, op, size_a, size_b, _ = case
    a, b = random_int8(seed, size_a), random_int8(seed + 1, size_b)
    expected = elementwise.binary(code, op, a, b)
    op["flags"] |= OpFlag.CONSTANT_B
    whole = size_a == expected.size
    check(Op(code, op, constant=b), a, expected, 0 if whole else None)


@EXAMPLES
@given(operands(), st.booleans(), SEEDS)
def test_two_tensors(case: Any, in_place: bool, seed: int) -> None:
    """Both operands are parts of the model's input; in place the output takes the bytes of one that is whole."""
    code, op, size_a, size_b, _ = case
    a, b = random_int8(seed, size_a), random_int8(seed + 1, size_b)
    expected = elementwise.binary(code, op, a, b)
    output = size_a + size_b
    if in_place and expected.size == size_b:
        output = size_a
    elif in_place and expected.size == size_a:
        output = 0
    op |= {"input": 0, "input_b": size_a, "output": output, "overlap_bytes": 0}
    arena = max(size_a + size_b, output + expected.size)
    out = [Io(output, (expected.size,))]
    model = Model(ImageBuilder(arena, [Io(0, (size_a + size_b,))], out, [Op(code, op)]).build())
    both = np.concatenate([a, b])
    assert model.status == "OK"
    np.testing.assert_array_equal(model.run(both), expected)
    np.testing.assert_array_equal(simulated(model.image, both), expected)


@pytest.mark.parametrize(("code", "swapped"), [*((c, False) for c in CODES), (OpCode.SUB, True), (OpCode.DIV, True)])
def test_within_one_step_of_real_numbers(code: OpCode, swapped: bool) -> None:
    a, b = (grid.ravel().astype(np.int8) for grid in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    scales, zeros = (0.031, 0.017, 0.043), (3, -7, 5)
    op: dict[str, Any] = {"dims": (1, 1, a.size), "repeats": 0, "repeats_b": 0, "reserved": 0}
    op |= multipliers(code, *scales, swapped) | {"flags": OpFlag.SWAPPED if swapped else 0}
    op |= {"input_zero_point": zeros[0], "input_b_zero_point": zeros[1], "output_zero_point": zeros[2]}
    image = ImageBuilder(2 * a.size, [Io(0, (2 * a.size,))], [Io(0, (a.size,))], [Op(code, op)])
    image.ops[0].values |= {"input_b": a.size, "overlap_bytes": 0}
    got = Model(image.build()).run(np.concatenate([a, b])).astype(int)
    left, right = (a - float(zeros[0])) * scales[0], (b - float(zeros[1])) * scales[1]
    if swapped:
        left, right = right, left
    functions = {OpCode.ADD_BROADCAST: np.add, OpCode.SUB: np.subtract, OpCode.MUL: np.multiply, OpCode.DIV: np.divide}
    functions |= {OpCode.MINIMUM: np.minimum, OpCode.MAXIMUM: np.maximum}
    functions |= {OpCode.SQUARED_DIFFERENCE: lambda a, b: np.square(a - b)}
    with np.errstate(divide="ignore", invalid="ignore"):
        real = np.nan_to_num(functions[code](left, right), nan=0.0, posinf=1e9, neginf=-1e9)
    assert np.abs(got - np.clip(real / scales[2] + zeros[2], -128, 127)).max() <= 1.0


def rows_image() -> ImageBuilder:
    """(3, 4) minus (4,): 12 bytes at 0, 4 at 12, the output over the first."""
    op: dict[str, Any] = {"dims": (1, 3, 4), "repeats": 0, "repeats_b": 2, "reserved": 0, "input_b": 12}
    op |= multipliers(OpCode.SUB, 0.1, 0.1, 0.1, False) | {"overlap_bytes": 0, "input_b_zero_point": 0}
    return ImageBuilder(16, [Io(0, (16,))], [Io(0, (12,))], [Op(OpCode.SUB, op)])


def constant_image() -> ImageBuilder:
    builder = rows_image()
    builder.ops[0].values["flags"] = OpFlag.CONSTANT_B
    del builder.ops[0].values["input_b"]
    builder.ops[0].constant = random_int8(1, 4)
    return builder


@pytest.mark.parametrize(
    ("builder", "name", "index", "value"),
    [
        (rows_image, "input_b", 0, 13),
        (rows_image, "input_b", 0, 8),  # shares bytes with the output, and is broadcast
        (rows_image, "input_b", 0, 0xFFFFFFFF),
        (constant_image, "input_b", 0, 0xFFFFFFFF),
        (constant_image, "input_b", 0, -1),
        (rows_image, "dims", 1, 0),
        (rows_image, "dims", 0, 0xFFFFFFFF),
        (rows_image, "dims", 2, 0x80000000),
        (rows_image, "dims", 1, 4),
        (rows_image, "repeats", 0, 4),  # repeats, but the output lies over it
        (rows_image, "repeats", 0, 8),
        (rows_image, "repeats_b", 0, 0),  # 12 bytes from 12 on leave the arena
        (rows_image, "repeats_b", 0, 10),
        (rows_image, "reserved", 0, 1),
        (constant_image, "repeats_b", 0, 255),
        (rows_image, "overlap_bytes", 0, 1),
        (rows_image, "overlap_bytes", 0, layout.NO_OVERLAP),
        (rows_image, "flags", 0, 2),
        (rows_image, "output_multiplier", 0, -1),
        (rows_image, "input_shift", 0, 31),
        (rows_image, "input_b_shift", 0, -32),
    ],
)
def test_a_bent_field_is_refused(builder: Any, name: str, index: int, value: int) -> None:
    assert_refused(builder(), name, value, index)


@EXAMPLES
@given(st.sampled_from([rows_image, constant_image]), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255))))
def test_whatever_opens_runs_safely(builder: Any, changes: list[tuple[int, int]]) -> None:
    assert Model(builder().build()).status == "OK"
    assert_safe(builder().build(), changes)
