"""Operators that keep something between inferences, as NUMERICS.md states them.

(image, record, arenas (N, bytes), states (N, state_bytes)) -> output (N, ...); states are changed in place.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.operators import OpCode

Int8 = npt.NDArray[np.int8]
Array = npt.NDArray[Any]


def _read(image: Image, op: ImageOp, arena: Int8, state: Int8) -> Int8:
    return state[:, op.state : op.state + op.size]


def _write(image: Image, op: ImageOp, arena: Int8, state: Int8) -> Int8:
    state[:, op.state : op.state + op.size] = arena[:, op.input : op.input + op.size]
    return arena[:, op.input : op.input + op.size]


STATE_KERNELS: dict[OpCode, Callable[[Image, ImageOp, Int8, Int8], Array]] = {
    OpCode.STATE_READ: _read,
    OpCode.STATE_WRITE: _write,
}
