"""Float32 functions against float64: bounds in units in the last place (ULP), absolute where results pass zero."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tinyfleet_compiler import float_math

ERF = np.vectorize(math.erf)
RNG = np.random.default_rng(3)
Real = Callable[[Any], Any]


def spread(low: float, high: float, count: int = 40_000) -> np.ndarray:
    return RNG.uniform(low, high, count).astype(np.float32)


def ulps(got: np.ndarray, real: np.ndarray) -> float:
    """Largest distance in steps of float32 at the real value."""
    with np.errstate(over="ignore", under="ignore"):
        step = np.spacing(np.abs(real.astype(np.float32))).astype(np.float64)
    return float((np.abs(got.astype(np.float64) - real) / step).max())


TINY = np.exp(spread(-100, 80)).astype(np.float32)
BOUNDS: list[tuple[str, Real, np.ndarray, float]] = [
    ("exp", np.exp, np.concatenate([spread(-87, 88), spread(-1, 1)]), 1.0),
    ("exp", np.exp, spread(-103, -87), 1.0),  # subnormal results
    ("expm1", np.expm1, np.concatenate([spread(-20, 20), spread(-1, 1)]), 4.0),
    ("log", np.log, np.concatenate([spread(0.5, 2), spread(0, 1e30), TINY]), 1.0),
    ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), spread(-80, 80), 3.0),
    ("tanh", np.tanh, np.concatenate([spread(-12, 12), spread(-1, 1)]), 3.0),
    ("softplus", lambda x: np.logaddexp(0, x), spread(-80, 80), 2.0),
    ("mish", lambda x: x * np.tanh(np.logaddexp(0, x)), spread(-80, 80), 5.0),
    ("erf", ERF, spread(-5, 5), 3.0),
]


@pytest.mark.parametrize(("name", "real", "x", "bound"), BOUNDS, ids=[f"{b[0]}{i}" for i, b in enumerate(BOUNDS)])
def test_within_ulps_of_float64(name: str, real: Real, x: np.ndarray, bound: float) -> None:
    with np.errstate(all="ignore"):
        assert ulps(getattr(float_math, name)(x), real(x.astype(np.float64))) <= bound


@pytest.mark.parametrize(
    ("name", "real", "x", "bound"),
    [
        ("sin", np.sin, spread(-32768, 32768), 1e-7),
        ("cos", np.cos, spread(-32768, 32768), 1e-7),
        ("gelu", lambda x: x / 2 * (1 + ERF(x / math.sqrt(2))), spread(-4, 4), 6e-7),
        ("gelu_tanh", lambda x: x / 2 * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3))), spread(-4, 4), 6e-7),
    ],
)
def test_within_an_absolute_bound_of_float64(name: str, real: Real, x: np.ndarray, bound: float) -> None:
    assert np.abs(getattr(float_math, name)(x) - real(x.astype(np.float64))).max() <= bound


def test_whole_powers_are_repeated_products_and_others_exponentials() -> None:
    x = spread(0.1, 4)
    assert ulps(float_math.whole_power(x, 3), x.astype(np.float64) ** 3) <= 2.0
    assert ulps(float_math.power(x, 1.7), x.astype(np.float64) ** 1.7) <= 6.0
    np.testing.assert_array_equal(float_math.power(np.float32([-1, 0]), 0.5), np.float32([0, 0]))


def test_edges() -> None:
    inf, nan = np.float32(np.inf), np.float32(np.nan)
    x = np.array([0.0, inf, -inf, nan], np.float32)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(float_math.exp(x), np.float32([1, inf, 0, nan]))
        np.testing.assert_array_equal(float_math.log(x), np.float32([-inf, inf, nan, nan]))
        np.testing.assert_array_equal(float_math.sigmoid(x), np.float32([0.5, 1, 0, nan]))
        np.testing.assert_array_equal(float_math.tanh(x), np.float32([0, 1, -1, nan]))
        np.testing.assert_array_equal(float_math.erf(x), np.float32([0, 1, -1, nan]))
        np.testing.assert_array_equal(float_math.softplus(x[1:]), np.float32([inf, 0, nan]))
        np.testing.assert_array_equal(float_math.sin(np.float32([40_000, inf])), np.float32([nan, nan]))
        assert float_math.exp(np.float32([88.8])) == inf


def test_one_form_of_not_a_number_leaves_a_kernel() -> None:
    odd = np.array([0xFFC00000, 0x7F800001], np.uint32).view(np.float32)
    assert (float_math.clamp(odd, -np.inf, np.inf).view(np.uint32) == 0x7FC00000).all()
