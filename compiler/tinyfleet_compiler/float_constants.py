"""Coefficients of the float32 functions: near-minimax polynomials, each on the interval named, as float32 values.

Every engine takes them from here: `generate.py` writes them into `device_agent/runtime/float/constants.h`.
"""

import numpy as np

Reals = tuple[float, ...]


def _float32(*values: float) -> Reals:
    return tuple(float(np.float32(v)) for v in values)


LOG2_E = _float32(1.4426950408889634)
LN_2 = _float32(0.693145751953125, 1.428606765330187e-06)
"""ln 2 in two parts; n x the first is exact for n below 2^9."""
EXP = _float32(0.5, 0.166665181517601, 0.04166620597243309, 0.008368889801204205, 0.0013950489228591323)
"""Q of exp(r) = 1 + r + r^2 Q(r), |r| <= ln 2 / 2."""
EXP_LIMITS = _float32(-104.0, 88.72284)
"""Below the first exp is 0, from the second on it is infinite."""
LOG = _float32(0.6666666269302368, 0.4000033736228943, 0.28537169098854065, 0.23584990203380585)
"""R of 2 atanh(s) = 2 s + s z R(z), z = s^2, |s| <= (sqrt 2 - 1) / (sqrt 2 + 1)."""
ERF = _float32(
    *(1.128379225730896, -0.37612637877464294, 0.11283782869577408, -0.02686544507741928),
    *(0.005221074912697077, -0.00084847112884745, 0.00011270544928265736, -9.680136827228125e-06),
)
"""erf(x) = x P(x^2), |x| < 1."""
LOG_ERFC = _float32(
    *(-7.806815147399902, -5.352680683135986, -0.9438937902450562, -0.010858561843633652, 0.002165486803278327),
    *(-0.0004200109397061169, 7.724310853518546e-05, -1.3365461200010031e-05, 1.6275054122161237e-06),
)
"""ln erfc(t + 2.5), |t| <= 1.5."""
TWO_OVER_PI = _float32(0.6366197723675814)
HALF_PI = _float32(1.5703125, 0.000484466552734375, -6.397578431460715e-07)
"""pi / 2 in three parts; n x the first two is exact for n below 2^15."""
SIN = _float32(-0.16666655242443085, 0.008332173340022564, -0.00019516654720064253)
"""sin(r) = r + r z P(z), z = r^2, |r| <= pi / 4."""
COS = _float32(0.04166664555668831, -0.001388736185617745, 2.4437727915938012e-05)
"""cos(r) = 1 - z / 2 + z^2 P(z), z = r^2, |r| <= pi / 4."""
MOST_ANGLE = _float32(32768.0)
"""Beyond, neighbouring float32 angles are 1/256 apart and more: sine and cosine give not-a-number."""
GELU = _float32(0.7978845608028654, 0.044715, 0.7071067811865476)
"""sqrt(2 / pi), the cube's factor of the tanh form; 1 / sqrt 2."""

TABLES: dict[str, Reals] = {
    "LOG2_E": LOG2_E,
    "LN_2": LN_2,
    "EXP": EXP,
    "EXP_LIMITS": EXP_LIMITS,
    "LOG": LOG,
    "ERF": ERF,
    "LOG_ERFC": LOG_ERFC,
    "TWO_OVER_PI": TWO_OVER_PI,
    "HALF_PI": HALF_PI,
    "SIN": SIN,
    "COS": COS,
    "MOST_ANGLE": MOST_ANGLE,
    "GELU": GELU,
}
