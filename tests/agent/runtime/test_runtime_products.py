"""BATCH_MATMUL, TOP_K, NORMALIZE and their kin against NUMERICS.md in plain integers: random records, hostile ones."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.bend import assert_refused, assert_safe
from agent.runtime.images import ImageBuilder, Io, Op
from agent.runtime.reference import finish, rescale
from agent.runtime.rig import Model
from agent.runtime.test_runtime_kernels import EXAMPLES, SEEDS, ZERO_POINT, activation, check, random_int8, simulated
from tinyfleet_compiler.numerics import quantize_multiplier
from tinyfleet_compiler.operators import OpCode, OpFlag


def dense_steps(sizes: Any, order: Any) -> list[int]:
    """Steps of axes that lie in memory in `order`, outermost first."""
    steps = [0] * len(sizes)
    unit = 1
    for axis in reversed(order):
        steps[axis] = unit
        unit *= sizes[axis]
    return steps


@st.composite
def products(draw: Any) -> dict[str, Any]:
    dims, depth = draw(st.tuples(*[st.integers(1, 3)] * 4)), draw(st.integers(1, 5))
    op: dict[str, Any] = {"dims": dims, "depth": depth}
    orders = [draw(st.permutations(range(4))) for _ in range(3)]
    op["steps"] = dense_steps((*dims[:3], depth), orders[0])
    op["steps_b"] = dense_steps((*dims[:2], dims[3], depth), orders[1])
    op["output_steps"] = dense_steps(dims, orders[2])
    for axis in range(2):  # a batch of one repeats
        if draw(st.booleans()):
            op["steps_b"][axis] = 0
    op["multiplier"], op["shift"] = quantize_multiplier(draw(st.floats(0.0005, 0.2)))
    op |= {"input_zero_point": draw(ZERO_POINT), "input_b_zero_point": draw(ZERO_POINT)}
    return op | {"output_zero_point": draw(ZERO_POINT)} | draw(activation())


def product(op: dict[str, Any], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    y = np.zeros(math.prod(op["dims"]), np.int8)
    for at in np.ndindex(*op["dims"]):
        start_a = sum(i * s for i, s in zip(at[:3], op["steps"], strict=False))
        start_b = sum(i * s for i, s in zip((at[0], at[1], at[3]), op["steps_b"], strict=False))
        total = sum(
            (int(a[start_a + k * op["steps"][3]]) - op["input_zero_point"])
            * (int(b[start_b + k * op["steps_b"][3]]) - op["input_b_zero_point"])
            for k in range(op["depth"])
        )
        place = sum(i * s for i, s in zip(at, op["output_steps"], strict=True))
        y[place] = finish(rescale(total, op["multiplier"], op["shift"]), op)
    return y


@EXAMPLES
@given(products(), st.booleans(), SEEDS)
def test_batch_matmul(op: dict[str, Any], constant: bool, seed: int) -> None:
    """Any order of axes in memory, repeated batches, the second operand in the arena or in the image."""
    outer, inner, rows, columns = op["dims"]
    a = random_int8(seed, outer * inner * rows * op["depth"])
    b = random_int8(seed + 1, outer * inner * columns * op["depth"])
    expected = product(op, a, b)
    if constant:
        check(Op(OpCode.BATCH_MATMUL, op | {"flags": OpFlag.CONSTANT_B}, constant=b), a, expected, None)
        return
    x = np.concatenate([a, b])
    op |= {"input": 0, "input_b": a.size, "output": x.size}
    image = ImageBuilder(
        x.size + expected.size,
        [Io(0, (x.size,))],
        [Io(x.size, (expected.size,))],
        [Op(OpCode.BATCH_MATMUL, op)],
    ).build()
    model = Model(image)
    assert model.status == "OK"
    np.testing.assert_array_equal(model.run(x), expected)
    np.testing.assert_array_equal(simulated(image, x), expected)


@EXAMPLES
@given(st.integers(1, 4), st.integers(1, 12), st.integers(0, 11), st.booleans(), st.booleans(), SEEDS)
def test_top_k(rows: int, columns: int, less: int, smallest: bool, indices: bool, seed: int) -> None:
    x = (random_int8(seed, rows, columns) // 60).astype(np.int8)  # many equal values
    k = max(1, columns - less)
    order = [sorted(range(columns), key=lambda c, row=row: (row[c] if smallest else -int(row[c]), c)) for row in x]
    picked = np.array(order)[:, :k]
    expected = (picked - 128).astype(np.int8) if indices else np.take_along_axis(x, picked, 1)
    code = OpCode.TOP_K_INDICES if indices else OpCode.TOP_K
    distance = max((r + 1) * k - r * columns for r in range(rows))
    check(Op(code, {"rows": rows, "columns": columns, "k": k, "smallest": int(smallest)}), x, expected, distance)


@st.composite
def normalizations(draw: Any) -> dict[str, Any]:
    op: dict[str, Any] = {name: draw(st.integers(1, 4)) for name in ("outer", "count", "groups", "run")}
    epsilon = draw(st.sampled_from([0, 1, 77, 1 << 20, 1 << 40, (1 << 62) - 1]))
    op |= {"epsilon": (epsilon & 0xFFFFFFFF, epsilon >> 32), "centred": draw(st.integers(0, 1))}
    op["multiplier"], op["shift"] = quantize_multiplier(draw(st.floats(1e-5, 1e-2)))
    return op | {"input_zero_point": draw(ZERO_POINT), "output_zero_point": draw(ZERO_POINT)} | draw(activation())


def normalized(op: dict[str, Any], x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """NUMERICS.md section 2 for x (outer, count, groups, run)."""
    y = np.zeros(x.shape, np.int8)
    n = op["count"] * op["run"]
    for o, g in np.ndindex(op["outer"], op["groups"]):
        values = [[int(q) - op["input_zero_point"] for q in row] for row in x[o, :, g]]
        flat = [v for row in values for v in row]
        total = sum(flat) if op["centred"] else 0
        w = max(n * sum(v * v for v in flat) - total * total + (op["epsilon"][1] << 32 | op["epsilon"][0]), 1)
        e = -((32 - w.bit_length()) // 2)  # 4^e * [2^30, 2^32) holds w
        m = w >> 2 * e if e >= 0 else w << -2 * e
        assert 1 << 30 <= m < 1 << 32
        inverse = (1 << 62) // math.isqrt(m << 32)
        for c, j in np.ndindex(op["count"], op["run"]):
            right = 30 + e
            real = ((n * values[c][j] - total) * inverse + (1 << (right - 1))) >> right
            factor, addend = (int(v) for v in table[:, g, j])
            scaled = ((real * factor + (1 << 14)) >> 15) + addend
            y[o, c, g, j] = finish(rescale(scaled, op["multiplier"], op["shift"]), op)
    return y


@EXAMPLES
@given(normalizations(), SEEDS)
def test_normalize(op: dict[str, Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = random_int8(seed, op["outer"], op["count"], op["groups"], op["run"])
    if seed % 3 == 0:
        x[:] = x.flat[0]  # no variance at all
    table = rng.integers(-32767, 32768, (2, op["groups"], op["run"])).astype(np.int32)
    record = Op(OpCode.NORMALIZE, op, constant=table.reshape(-1))
    check(record, x, normalized(op, x, table), 0 if op["count"] == 1 else None)


def test_normalize_is_within_one_step_of_real_numbers() -> None:
    rng = np.random.default_rng(3)
    for n in (2, 16, 96, 1000):
        x, gamma, beta = random_int8(n, 4, n), rng.normal(1, 0.3, n), rng.normal(0, 0.5, n)
        grid, scale = np.abs(gamma).max() / 32767, 8 / 255
        table = np.stack([np.rint(gamma / grid), np.rint(beta / (grid / 2))]).astype(np.int32)
        op: dict[str, Any] = {"outer": 4, "count": 1, "groups": 1, "run": n, "centred": 1}
        epsilon = round(1e-5 * n * n / 0.02**2)
        op |= {"epsilon": (epsilon & 0xFFFFFFFF, epsilon >> 32), "input_zero_point": 11, "output_zero_point": -3}
        op |= {"activation_min": -128, "activation_max": 127}
        op["multiplier"], op["shift"] = quantize_multiplier(grid / 2 / scale)
        real = x.astype(np.float64) * 0.02
        real = (real - real.mean(1, keepdims=True)) / np.sqrt(real.var(1, keepdims=True) + 1e-5) * gamma + beta
        wanted = np.clip(np.rint(real / scale) - 3, -128, 127)
        got = normalized(op, x.reshape(4, 1, 1, n), table.reshape(2, 1, n)).reshape(4, n)
        assert np.abs(got - wanted).max() <= 1


def matmul_image() -> ImageBuilder:
    op: dict[str, Any] = {"dims": (1, 1, 2, 3), "depth": 4, "steps": (0, 0, 4, 1), "steps_b": (0, 0, 1, 3)}
    op |= {
        "output_steps": (0, 0, 3, 1),
        "multiplier": 2**30,
        "shift": -9,
        "input_b": 8,
        "input_b_zero_point": 0,
        "output": 20,
    }
    return ImageBuilder(26, [Io(0, (20,))], [Io(20, (6,))], [Op(OpCode.BATCH_MATMUL, op)])


def top_k_image() -> ImageBuilder:
    op = {"rows": 2, "columns": 5, "k": 2, "smallest": 0, "output": 12}
    return ImageBuilder(16, [Io(0, (10,))], [Io(12, (4,))], [Op(OpCode.TOP_K, op)])


def normalize_image() -> ImageBuilder:
    op: dict[str, Any] = {"outer": 1, "count": 2, "groups": 2, "run": 3, "epsilon": (1, 0), "centred": 1}
    op |= {"multiplier": 2**30, "shift": -9, "output": 12}
    table = np.ones(12, np.int32)
    return ImageBuilder(24, [Io(0, (12,))], [Io(12, (12,))], [Op(OpCode.NORMALIZE, op, constant=table)])


def l2_image(rows: int = 2, columns: int = 5, zero_point: int = 0) -> ImageBuilder:
    op: dict[str, Any] = {"rows": rows, "columns": columns, "input_zero_point": zero_point, "overlap_bytes": 0}
    size = rows * columns
    return ImageBuilder(size, [Io(0, (size,))], [Io(0, (size,))], [Op(OpCode.L2_NORMALIZE, op)])


@EXAMPLES
@given(st.integers(1, 4), st.one_of(st.integers(1, 70), st.just(8000)), ZERO_POINT, st.integers(0, 7), SEEDS)
def test_l2_normalize(rows: int, columns: int, zero_point: int, quiet: int, seed: int) -> None:
    """Within one step of real numbers; of quiet rows with few bits, and of zero."""
    x = (random_int8(seed, rows, columns) >> quiet).astype(np.int8)
    x[0, : columns // 2] = zero_point
    image = l2_image(rows, columns, zero_point).build()
    got = Model(image).run(x)
    np.testing.assert_array_equal(got, simulated(image, x.reshape(-1)))
    real = x.astype(float) - zero_point
    length = np.sqrt(np.square(real).sum(axis=1, keepdims=True))
    wanted = np.clip(128 * real / np.maximum(length, 1e-9), -128, 127)
    assert np.abs(got.reshape(rows, columns) - wanted).max() <= 1.0


_CASES: list[tuple[Any, str, int, int]] = [
    (matmul_image, "depth", 0, 0),
    (matmul_image, "depth", 40000, 0),
    (matmul_image, "dims", 0, 2),
    (matmul_image, "dims", 60000, 3),
    (matmul_image, "steps", 2**31, 2),
    (matmul_image, "steps", 24, 2),
    (matmul_image, "steps_b", 24, 2),
    (matmul_image, "output_steps", 4, 2),
    (matmul_image, "input_b", 12, 0),
    (matmul_image, "shift", 31, 0),
    (matmul_image, "flags", 64, 0),
    (matmul_image, "multiplier", -1, 0),
    (top_k_image, "k", 6, 0),
    (top_k_image, "k", 0, 0),
    (top_k_image, "smallest", 2, 0),
    (top_k_image, "rows", 2**31, 0),
    (top_k_image, "columns", 0xFFFFFFFF, 0),
    (l2_image, "rows", 3, 0),
    (l2_image, "rows", 0, 0),
    (l2_image, "columns", 2**15 + 1, 0),
    (l2_image, "columns", 0xFFFFFFFF, 0),
    (l2_image, "overlap_bytes", 1, 0),
    (normalize_image, "run", 0, 0),
    (normalize_image, "count", 70000, 0),
    (normalize_image, "run", 2**31, 0),
    (normalize_image, "groups", 0xFFFFFFFF, 0),
    (normalize_image, "epsilon", 2**30, 1),
    (normalize_image, "centred", 2, 0),
    (normalize_image, "table", 4, 0),
    (normalize_image, "table", -1, 0),
]


@pytest.mark.parametrize(("make", "name", "value", "index"), _CASES)
def test_a_bent_field_is_refused(make: Any, name: str, value: int, index: int) -> None:
    assert Model(make().build()).status == "OK"
    assert_refused(make(), name, value, index)


@EXAMPLES
@given(
    st.sampled_from([matmul_image, top_k_image, normalize_image, l2_image]),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255))),
)
def test_whatever_opens_runs_safely(make: Any, changes: list[tuple[int, int]]) -> None:
    assert_safe(make().build(), changes)
