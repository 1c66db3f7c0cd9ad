"""The last step of an int8 kernel."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.image import ImageOp

Int8 = npt.NDArray[np.int8]
Array = npt.NDArray[Any]


def finish(op: ImageOp, values: Array) -> Int8:
    """Zero point added, clamped to the record's activation range: (N, ...) integers to (N, size) int8."""
    return clamp(op, values + op.output_zero_point)


def clamp(op: ImageOp, values: Array) -> Int8:
    """Clamped to the record's activation range: (N, ...) integers to (N, size) int8."""
    clamped = np.clip(values, op.activation_min, op.activation_max)
    return np.asarray(clamped, dtype=np.int8).reshape(len(values), -1)
