"""Kernels that move bytes against NUMERICS.md, over random shapes, apart and at the smallest legal overlap."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.images import ImageBuilder, Io, Op
from agent.runtime.reference import round_shift
from agent.runtime.rig import Model
from agent.runtime.test_runtime_kernels import EXAMPLES, SEEDS, check, random_int8, simulated
from tinyfleet_compiler.errors import ImageError
from tinyfleet_compiler.image import read_image
from tinyfleet_compiler.operators import OpCode, OpFlag

FOUR = st.tuples(*[st.integers(1, 4)] * 4)
PADS = st.tuples(*[st.integers(0, 2)] * 4)


def copy_distance(sources: list[int]) -> int:
    """SPEC section 6: max over output elements i of (i + 1) - low(i); -1 stands for an element that is no copy."""
    steps = []
    for i in range(len(sources)):
        later = [s for s in sources[i + 1 :] if s >= 0]
        if later:
            steps.append(i + 1 - min(later))
    return max(steps, default=-2 * len(sources))


@EXAMPLES
@given(FOUR, PADS, PADS, st.integers(-128, 127), SEEDS)
def test_pad(dims: tuple[int, ...], before: tuple[int, ...], after: tuple[int, ...], value: int, seed: int) -> None:
    x = random_int8(seed, *dims)
    widths = list(zip(before, after, strict=True))
    sources = np.pad(np.arange(x.size).reshape(dims), widths, constant_values=-1)
    op = {"dims": dims, "before": before, "after": after, "input_zero_point": value}
    expected = np.pad(x, widths, constant_values=value)
    check(Op(OpCode.PAD, op), x, expected, copy_distance(sources.ravel().tolist()))


@EXAMPLES
@given(FOUR, st.tuples(*[st.integers(1, 3)] * 4), st.tuples(*[st.booleans()] * 4), SEEDS)
def test_strided_copy(shape: tuple[int, ...], steps: tuple[int, ...], turned: tuple[bool, ...], seed: int) -> None:
    """Slices with any steps, forward and backward."""
    x = random_int8(seed, *shape)
    cuts = tuple(slice(None, None, -s if back else s) for s, back in zip(steps, turned, strict=True))
    index = np.arange(x.size).reshape(shape)
    part = index[cuts]
    strides = [
        int(part.take(1, axis).ravel()[0] - part.take(0, axis).ravel()[0]) if n > 1 else 0
        for axis, n in enumerate(part.shape)
    ]
    op = {"start": int(part.ravel()[0]), "dims": part.shape, "strides": strides}
    check(Op(OpCode.STRIDED_COPY, op), x, x[cuts], copy_distance(part.ravel().tolist()))


@EXAMPLES
@given(st.integers(1, 4), st.lists(st.integers(1, 9), min_size=2, max_size=4), SEEDS)
def test_concat(outer: int, lengths: list[int], seed: int) -> None:
    """All operands stand one after the other in the model's single input."""
    parts = [random_int8(seed + i, outer, length) for i, length in enumerate(lengths)]
    x = np.concatenate([p.ravel() for p in parts])
    starts = np.cumsum([0, *(p.size for p in parts)]).tolist()
    op: dict[str, Any] = {"outer": outer, "lengths": [*lengths, 0, 0, 0][:4], "input": 0, "output": x.size}
    op["inputs_more"] = [*starts[1:-1], 0, 0, 0][:3]
    image = ImageBuilder(2 * x.size, [Io(0, (x.size,))], [Io(x.size, (x.size,))], [Op(OpCode.CONCAT, op)]).build()
    expected = np.concatenate(parts, axis=1).ravel()
    model = Model(image)
    assert model.status == "OK"
    np.testing.assert_array_equal(model.run(x), expected)
    np.testing.assert_array_equal(model.step_outputs(x)[0], expected)
    np.testing.assert_array_equal(simulated(image, x), expected)


@EXAMPLES
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.booleans(), SEEDS)
def test_concat_with_a_constant(outer: int, length: int, constant_length: int, swapped: bool, seed: int) -> None:
    x, constant = random_int8(seed, outer, length), random_int8(seed + 1, outer, constant_length)
    expected = np.concatenate([constant, x] if swapped else [x, constant], axis=1).ravel()
    flags = OpFlag.CONSTANT_B | (OpFlag.SWAPPED if swapped else OpFlag.NONE)
    op = {"outer": outer, "lengths": (length, constant_length, 0, 0), "input": 0, "output": x.size, "flags": int(flags)}
    made = [Op(OpCode.CONCAT, op, constant=constant)]
    image = ImageBuilder(x.size + expected.size, [Io(0, (x.size,))], [Io(x.size, (expected.size,))], made).build()
    model = Model(image)
    assert model.status == "OK"
    np.testing.assert_array_equal(model.run(x.ravel()), expected)
    np.testing.assert_array_equal(simulated(image, x.ravel()), expected)


def resample(code: OpCode, x: np.ndarray, shape: tuple[int, int], table: Any, flags: int = 0) -> Op:
    fields = dict(zip(("in_h", "in_w", "in_c", "out_h", "out_w"), (*x.shape, *shape), strict=True))
    return Op(code, fields | {"flags": flags}, constant=np.array(table, np.int16))


@EXAMPLES
@given(FOUR, st.data(), SEEDS)
def test_gather(shape: tuple[int, ...], data: Any, seed: int) -> None:
    x = random_int8(seed, *shape[:3])
    rows = data.draw(st.lists(st.integers(0, shape[0] - 1), min_size=1, max_size=6))
    columns = data.draw(st.lists(st.integers(0, shape[1] - 1), min_size=1, max_size=6))
    op = resample(OpCode.GATHER, x, (len(rows), len(columns)), [*rows, *columns])
    check(op, x, x[rows][:, columns], None)
    same = resample(OpCode.GATHER, x, (shape[0], len(columns)), columns, OpFlag.SAME_ROWS)
    check(same, x, x[:, columns], None)


def places(data: Any, size: int) -> list[tuple[int, int]]:
    """(whole, fraction) pairs inside an axis of `size`."""
    found = data.draw(st.lists(st.integers(0, (size - 1) * 2048), min_size=1, max_size=6))
    return [divmod(p, 2048) for p in found]


@EXAMPLES
@given(FOUR, st.data(), SEEDS)
def test_resize_bilinear(shape: tuple[int, ...], data: Any, seed: int) -> None:
    x = random_int8(seed, *shape[:3])
    rows, columns = places(data, shape[0]), places(data, shape[1])
    expected = np.empty((len(rows), len(columns), shape[2]), np.int8)
    real = np.empty(expected.shape)
    for oy, ox, c in np.ndindex(*expected.shape):
        (y, fy), (z, fx) = rows[oy], columns[ox]
        total, exact = 0, 0.0
        for dy, dx in np.ndindex(2, 2):
            weight = (fy if dy else 2048 - fy) * (fx if dx else 2048 - fx)
            q = int(x[min(y + dy, shape[0] - 1), min(z + dx, shape[1] - 1), c])
            total, exact = total + weight * q, exact + weight / 2.0**22 * q
        expected[oy, ox, c], real[oy, ox, c] = round_shift(total, 22), exact
    assert np.abs(expected - real).max() <= 0.5
    check(resample(OpCode.RESIZE_BILINEAR, x, expected.shape[:2], [*rows, *columns]), x, expected, None)


X = random_int8(1, 3, 4, 2)
PAD = {"dims": (1, 3, 4, 2), "before": (0, 1, 0, 0), "after": (0, 0, 1, 0)}
COPY = {"start": 0, "dims": (1, 1, 3, 8), "strides": (0, 0, 8, 1)}
CONCAT = {"outer": 2, "lengths": (3, 4, 5, 0), "inputs_more": (6, 14, 0)}
JOINED = {"outer": 2, "lengths": (3, 4, 0, 0), "flags": int(OpFlag.CONSTANT_B | OpFlag.SWAPPED)}
GATHER = {"in_h": 3, "in_w": 4, "in_c": 2, "out_h": 2, "out_w": 3}
TABLE = np.array([0, 2, 0, 3, 1], np.int16)
PLACES = np.array([0, 2047, 1, 9, 0, 3, 2, 2, 3, 0], np.int16)


@pytest.mark.parametrize(
    ("code", "good", "table", "bad"),
    [
        (OpCode.PAD, PAD, None, {"dims": (1, 3, 4, 0)}),
        (OpCode.PAD, PAD, None, {"dims": (65536, 65536, 65536, 65536)}),
        (OpCode.PAD, PAD, None, {"before": (65535, 65535, 65535, 65535)}),
        (OpCode.PAD, PAD, None, {"after": (0, 0, 200, 0)}),
        (OpCode.PAD, PAD, None, {"flags": 1}),
        (OpCode.STRIDED_COPY, COPY, None, {"start": 1}),
        (OpCode.STRIDED_COPY, COPY, None, {"start": 0xFFFFFFFF}),
        (OpCode.STRIDED_COPY, COPY, None, {"dims": (1, 0, 3, 8)}),
        (OpCode.STRIDED_COPY, COPY, None, {"dims": (2**31, 2**31, 4, 1)}),
        (OpCode.STRIDED_COPY, COPY, None, {"strides": (0, 0, -8, 1)}),
        (OpCode.STRIDED_COPY, COPY, None, {"strides": (0, 0, 2**31 - 1, -(2**31))}),
        (OpCode.STRIDED_COPY, COPY, None, {"strides": (0, 0, 1000, 1)}),
        (OpCode.CONCAT, CONCAT, None, {"lengths": (3, 0, 5, 0)}),
        (OpCode.CONCAT, CONCAT, None, {"lengths": (0, 4, 5, 0)}),
        (OpCode.CONCAT, CONCAT, None, {"lengths": (3, 0xFFFFFFFF, 0xFFFFFFFF, 4)}),
        (OpCode.CONCAT, CONCAT, None, {"outer": 0}),
        (OpCode.CONCAT, CONCAT, None, {"outer": 0xFFFFFFFF}),
        (OpCode.CONCAT, CONCAT, None, {"inputs_more": (6, 0xFFFFFFF0, 0)}),
        (OpCode.CONCAT, CONCAT, None, {"inputs_more": (6, 30, 0)}),
        (OpCode.CONCAT, CONCAT, None, {"flags": int(OpFlag.SWAPPED)}),
        (OpCode.CONCAT, CONCAT, None, {"flags": int(OpFlag.CONSTANT_B)}),
        (OpCode.CONCAT, CONCAT, None, {"flags": int(OpFlag.REVERSED)}),
        (OpCode.CONCAT, JOINED, X, {"inputs_more": (0xFFFFFFF0, 0, 0)}),
        (OpCode.CONCAT, JOINED, X, {"lengths": (3, 0x7FFFFFFF, 0, 0)}),
        (OpCode.CONCAT, JOINED, X, {"lengths": (3, 4, 1, 0)}),
        (OpCode.GATHER, GATHER, TABLE, {"table": 8}),
        (OpCode.GATHER, GATHER, TABLE, {"table": 0xFFFFFFF0}),
        (OpCode.GATHER, GATHER, TABLE, {"out_h": 0xFFFFFFFF}),
        (OpCode.GATHER, GATHER, TABLE, {"in_c": 0}),
        (OpCode.GATHER, GATHER, TABLE, {"in_w": 3}),
        (OpCode.GATHER, GATHER, TABLE, {"in_h": 2}),
        (OpCode.GATHER, GATHER, TABLE, {"flags": int(OpFlag.SAME_ROWS)}),
        (OpCode.GATHER, GATHER, TABLE * -1, {}),
        (OpCode.RESIZE_BILINEAR, GATHER, PLACES, {"in_h": 2, "in_w": 3}),
        (OpCode.RESIZE_BILINEAR, GATHER, PLACES, {"flags": int(OpFlag.SAME_ROWS)}),
        (OpCode.RESIZE_BILINEAR, GATHER, PLACES + 2046, {}),
        (OpCode.RESIZE_BILINEAR, GATHER, -PLACES, {}),
    ],
)
def test_broken_records_are_refused(code: OpCode, good: dict[str, Any], table: Any, bad: dict[str, Any]) -> None:
    """By the runtime at open and by the compiler's reader, with everything else as it should be."""

    def image(values: dict[str, Any], constant: Any) -> bytes:
        op = Op(code, {"input": 0, "output": 24} | values, constant=constant)
        return ImageBuilder(80, [Io(0, (24,))], [Io(24, (16,))], [op]).build()

    whole = {OpCode.GATHER: TABLE, OpCode.CONCAT: table}.get(code, PLACES) if table is not None else None
    assert Model(image(good, whole)).status == "OK"
    read_image(image(good, whole))
    broken = image(good | bad, table)
    assert Model(broken).status == "LAYOUT"
    with pytest.raises(ImageError):
        read_image(broken)


def test_one_element_nearer_than_legal_gives_other_bytes() -> None:
    x = random_int8(5, 4, 6)
    padded = np.pad(x, ((1, 1), (2, 1)))
    sources = np.pad(np.arange(24).reshape(4, 6), ((1, 1), (2, 1)), constant_values=-1).ravel().tolist()
    legal = copy_distance(sources)
    for distance, same in ((legal, True), (legal - 1, False)):
        op = {"dims": (1, 1, 4, 6), "before": (0, 0, 1, 2), "after": (0, 0, 1, 1), "overlap_bytes": distance}
        builder = ImageBuilder(distance + 24, [Io(distance, (24,))], [Io(0, (54,))], [])
        builder.ops = [Op(OpCode.PAD, op | {"input": distance, "output": 0})]
        builder.arena_bytes = max(distance + 24, 54)
        assert (Model(builder.build()).run(x) == padded.ravel()).all() == same
