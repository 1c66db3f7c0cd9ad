"""The float32 arithmetic of NUMERICS.md section 7, vectorised: the same operations in the same order as the C kernels.

Every function takes and gives float32 arrays of one shape; only +, -, *, / and square root round; each once.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler import float_constants as constants

F32 = npt.NDArray[np.float32]
NAN = np.float32(np.nan)


def polynomial(x: F32, coefficients: constants.Reals) -> F32:
    """Horner's rule, highest coefficient first."""
    total = np.full_like(x, np.float32(coefficients[-1]))
    for c in coefficients[-2::-1]:
        total = total * x + np.float32(c)
    return total


def clamp(x: F32, low: float, high: float) -> F32:
    """[low, high]; every not-a-number becomes the one of bits 0x7fc00000."""
    y = np.where(x < np.float32(low), np.float32(low), np.where(x > np.float32(high), np.float32(high), x))
    return np.where(np.isnan(y), NAN, y)


def nearest(x: F32) -> npt.NDArray[np.int32]:
    """Nearest integer, halves away from zero; |x| below 2^22."""
    return (x + np.where(x < 0, np.float32(-0.5), np.float32(0.5))).astype(np.int32)


def power_of_two(n: npt.NDArray[np.int32]) -> F32:
    """2^n, -126 <= n <= 127."""
    return ((n + np.int32(127)) << np.int32(23)).astype(np.int32).view(np.float32)


def _reduced(x: F32) -> tuple[F32, npt.NDArray[np.int32]]:
    """(r, n) with x = r + n ln 2, |r| at most a little above ln 2 / 2."""
    n = nearest(x * np.float32(constants.LOG2_E[0]))
    wide = n.astype(np.float32)
    return np.asarray((x - wide * np.float32(constants.LN_2[0])) - wide * np.float32(constants.LN_2[1])), n


def exp(x: F32) -> F32:
    """e^x, within 1 ULP; subnormal results are rounded twice."""
    low, high = (np.float32(v) for v in constants.EXP_LIMITS)
    inside = (x > low) & (x < high)
    r, n = _reduced(np.where(inside, x, np.float32(0)))
    p = (r * r * polynomial(r, constants.EXP) + r) + np.float32(1)
    half = n >> np.int32(1)
    y = p * power_of_two(half) * power_of_two(n - half)
    return np.where(inside, y, np.where(x >= high, np.float32(np.inf), np.where(x <= low, np.float32(0), x)))


def expm1(x: F32) -> F32:
    """e^x - 1, exact near zero."""
    low, high = (np.float32(v) for v in constants.EXP_LIMITS)
    inside = (x > low) & (x < high)
    r, n = _reduced(np.where(inside, x, np.float32(0)))
    near = r * r * polynomial(r, constants.EXP) + r
    return np.where(inside & (n == 0), near, exp(x) - np.float32(1))


def log(x: F32) -> F32:
    """ln x: -inf at zero, not-a-number below."""
    usable = (x > 0) & (x < np.float32(np.inf))
    safe = np.where(usable, x, np.float32(1))
    small = safe < np.float32(2.0**-126)
    bits = np.where(small, safe * np.float32(2.0**23), safe).view(np.int32) - np.int32(0x3F3504F3)
    k = (bits >> np.int32(23)) - np.where(small, np.int32(23), np.int32(0))
    f = ((bits & np.int32(0x7FFFFF)) + np.int32(0x3F3504F3)).view(np.float32) - np.float32(1)
    s = f / (np.float32(2) + f)
    z = s * s
    square = np.float32(0.5) * f * f
    tail = s * (square + z * polynomial(z, constants.LOG)) + k.astype(np.float32) * np.float32(constants.LN_2[1])
    y = ((tail - square) + f) + k.astype(np.float32) * np.float32(constants.LN_2[0])
    return np.where(usable, y, np.where(x == 0, np.float32(-np.inf), np.where(x > 0, x, NAN)))


def log1p(u: F32) -> F32:
    """ln(1 + u) for u >= 0, not infinite."""
    w = np.float32(1) + u
    return np.asarray(log(w) - ((w - np.float32(1)) - u) / w)


def sigmoid(x: F32) -> F32:
    """1 / (1 + e^-x) without overflow."""
    e = exp(-np.abs(x))
    return np.asarray(np.where(x < 0, e, np.float32(1)) / (np.float32(1) + e))


def tanh(x: F32) -> F32:
    """Through e^2|x| - 1; 1 from 10 on."""
    size = np.abs(x)
    t = expm1(np.float32(2) * np.where(size < np.float32(10), size, np.float32(10)))
    y = np.where(size < np.float32(10), t / (t + np.float32(2)), np.where(np.isnan(x), x, np.float32(1)))
    return np.where(x < 0, -y, y)


def softplus(x: F32) -> F32:
    """ln(1 + e^x) without overflow."""
    return np.where(x > 0, x, np.float32(0)) + np.where(np.isnan(x), x, log1p(exp(-np.abs(x))))


def mish(x: F32) -> F32:
    """x tanh(softplus(x)) = x n / (n + 2), n = e^x (e^x + 2)."""
    e = exp(np.where(x > np.float32(20), np.float32(20), x))
    n = e * (e + np.float32(2))
    return np.where(x > np.float32(20), x, np.where(x < np.float32(-104), np.float32(0), x * (n / (n + np.float32(2)))))


def erf(x: F32) -> F32:
    """A polynomial below 1, 1 - exp(ln erfc) below 4, 1 from there."""
    size = np.abs(x)
    near = x * polynomial(x * x, constants.ERF)
    bounded = np.where(size < np.float32(4), size, np.float32(4))
    far = np.float32(1) - exp(polynomial(bounded - np.float32(2.5), constants.LOG_ERFC))
    far = np.where(size < np.float32(4), far, np.where(np.isnan(x), x, np.float32(1)))
    return np.where(size < np.float32(1), near, np.where(x < 0, -far, far))


def gelu(x: F32) -> F32:
    """x / 2 (1 + erf(x / sqrt 2)); not-a-number for -inf."""
    return np.float32(0.5) * x * (np.float32(1) + erf(x * np.float32(constants.GELU[2])))


def gelu_tanh(x: F32) -> F32:
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))); not-a-number for -inf."""
    cube = np.float32(constants.GELU[1]) * (x * x * x)
    return np.float32(0.5) * x * (np.float32(1) + tanh(np.float32(constants.GELU[0]) * (x + cube)))


def _quadrant(x: F32) -> tuple[F32, npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    usable = np.abs(x) <= np.float32(constants.MOST_ANGLE[0])
    safe = np.where(usable, x, np.float32(0))
    n = nearest(safe * np.float32(constants.TWO_OVER_PI[0]))
    r = safe
    for part in constants.HALF_PI:
        r = r - n.astype(np.float32) * np.float32(part)
    return r, n, usable


def _wave(x: F32, turn: int) -> F32:
    r, n, usable = _quadrant(x)
    z = r * r
    sine = r * z * polynomial(z, constants.SIN) + r
    cosine = (z * z * polynomial(z, constants.COS) - np.float32(0.5) * z) + np.float32(1)
    quarter = (n + np.int32(turn)) & np.int32(3)
    y = np.where(quarter & 1, cosine, sine)
    return np.where(usable, np.where(quarter & 2, -y, y), NAN)


def sin(x: F32) -> F32:
    """Sine, absolute error below 1e-7 times a few; |x| <= 32768."""
    return _wave(x, 0)


def cos(x: F32) -> F32:
    """Cosine, as `sin`."""
    return _wave(x, 1)


def whole_power(x: F32, exponent: int) -> F32:
    """x^exponent by repeated multiplication, exponent 0 .. 64."""
    y = np.ones_like(x)
    for _ in range(exponent):
        y = y * x
    return y


def power(x: F32, exponent: float) -> F32:
    """max(x, 0)^exponent, exponent above 0: exp(exponent ln x)."""
    return np.where(x > 0, exp(np.float32(exponent) * log(x)), np.where(np.isnan(x), x, np.float32(0)))


def view(data: npt.NDArray[Any]) -> F32:
    """(N, 4 k) bytes as (N, k) float32."""
    return np.ascontiguousarray(data).view("<f4")
