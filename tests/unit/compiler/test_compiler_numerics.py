"""The vectorised arithmetic against the formulas of NUMERICS.md written out in Python integers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet_compiler.numerics import (
    dequantize,
    high_mul,
    quantize,
    quantize_multiplier,
    rescale,
    round_half_away,
    round_shift,
    softmax_int8,
    through_codes,
)

int32 = st.integers(-(1 << 31), (1 << 31) - 1)
multipliers = st.integers(0, (1 << 31) - 1)


def c_divide(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a >= 0) == (b > 0) else -quotient


def c_high_mul(a: int, b: int) -> int:
    if a == b == -(1 << 31):
        return (1 << 31) - 1
    product = a * b
    return c_divide(product + ((1 << 30) if product >= 0 else 1 - (1 << 30)), 1 << 31)


def c_round_shift(x: int, e: int) -> int:
    mask = (1 << e) - 1
    return (x >> e) + ((x & mask) > (mask >> 1) + (x < 0))


@given(int32, int32)
def test_high_mul_is_the_truncating_formula(a: int, b: int) -> None:
    assert int(high_mul(a, b)) == c_high_mul(a, b)


@given(int32, st.integers(0, 31))
def test_round_shift_rounds_halves_away_from_zero(x: int, e: int) -> None:
    assert int(round_shift(x, e)) == c_round_shift(x, e)
    assert int(round_shift(x, e)) == int(math.copysign((abs(x) + (1 << e >> 1)) >> e, x)) if x else True


@given(st.integers(-(1 << 20), 1 << 20), multipliers, st.integers(-31, 8))
def test_rescale_rounds_twice(x: int, multiplier: int, shift: int) -> None:
    expected = c_round_shift(c_high_mul(x << max(shift, 0), multiplier), max(-shift, 0))
    assert int(rescale(np.array([x]), multiplier, shift)[0]) == expected


@given(st.floats(1e-9, 1e6))
def test_quantize_multiplier_keeps_31_bits(real: float) -> None:
    multiplier, shift = quantize_multiplier(real)
    assert 1 << 30 <= multiplier < 1 << 31
    assert math.isclose(multiplier * 2.0 ** (shift - 31), real, rel_tol=2**-31)


def test_quantize_multiplier_edges() -> None:
    assert quantize_multiplier(0.0) == (0, 0)
    assert quantize_multiplier(2.0**-40) == (0, 0)
    assert quantize_multiplier(1.0 - 2.0**-40) == (1 << 30, 1)


def test_round_half_away_is_exact_just_below_a_half() -> None:
    below = np.nextafter(0.5, 0.0)
    assert round_half_away([below, 0.5, -0.5, -1.5, 2.5]).tolist() == [0.0, 1.0, -1.0, -2.0, 3.0]


def test_quantize_clamps_and_maps_nan_to_the_zero_point() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1e30, 0.05, -0.05, 0.0], np.float32)
    assert quantize(values, 0.1, 3).tolist() == [3, 127, -128, 127, 4, 2, 3]


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32])
def test_quantize_rounds_halves_away_from_zero_and_their_neighbours_to_the_nearest(kind: type) -> None:
    halves = (np.arange(-140_000, 140_000, dtype=np.float32) * np.float32(0.5)).astype(np.float32)
    values = np.concatenate([halves, np.nextafter(halves, np.float32(1e9)), np.nextafter(halves, np.float32(-1e9))])
    limits = np.iinfo(kind)
    codes = quantize(values, 1.0, 3, kind)
    np.testing.assert_array_equal(codes, np.clip(round_half_away(values) + 3, limits.min, limits.max))
    if kind is not np.int32:
        np.testing.assert_array_equal(
            through_codes(values, 0.7, 3, kind), dequantize(quantize(values, 0.7, 3, kind), 0.7, 3)
        )


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=40), st.floats(1e-4, 2.0))
def test_softmax_is_within_one_step_of_the_real_one(row: list[int], scale: float) -> None:
    multiplier, left_shift = quantize_multiplier(scale * 2.0**26)
    diff_min = -int(31 * 2.0**26 / 2.0**left_shift)
    got = softmax_int8(np.array([row], np.int8), multiplier, left_shift, diff_min)[0].astype(np.float64)
    e = np.exp((np.array(row) - max(row)) * np.float64(scale))
    wanted = np.clip(e / e.sum() * 256.0 - 128.0, -128, 127)
    assert np.abs(got - wanted).max() <= 1.0
