"""NUMERICS.md once more in plain Python integers, for element-wise operators: written apart from both engines."""

from typing import Any

import numpy as np

from agent.runtime.reference import finish, rescale


def prelu(op: dict[str, Any], x: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    y = np.empty(x.size, np.int8)
    for i, q in enumerate(x.ravel()):
        real = int(q) - op["input_zero_point"]
        if real >= 0:
            value = rescale(real, op["multiplier"], op["shift"])
        else:
            value = rescale(real * int(slopes[i % slopes.size]), op["slope_multiplier"], op["slope_shift"])
        y[i] = finish(value, op)
    return y
