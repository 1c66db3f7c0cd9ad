"""Operators that keep something between inferences, as NUMERICS.md states them.

(image, record, arenas (N, bytes), states (N, state_bytes)) -> output (N, ...); states are changed in place.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.kernels.finish import finish
from tinyfleet_compiler.kernels.float_selected import gru_f32, lstm_f32
from tinyfleet_compiler.kernels.gates import gru, lstm
from tinyfleet_compiler.numerics import rescale
from tinyfleet_compiler.operators import CODE_RANGES, Element, OpCode

Int8 = npt.NDArray[np.int8]
Array = npt.NDArray[Any]


def _read(image: Image, op: ImageOp, arena: Int8, state: Int8) -> Int8:
    return state[:, op.state : op.state + op.size]


def _write(image: Image, op: ImageOp, arena: Int8, state: Int8) -> Int8:
    state[:, op.state : op.state + op.size] = arena[:, op.input : op.input + op.size]
    return arena[:, op.input : op.input + op.size]


def _svdf(image: Image, op: ImageOp, arena: Int8, state: Int8) -> Int8:
    units, element = op.filters // op.rank, Element(op.state_element)
    biases = image.array(op.table, units, Element.INT32).astype(np.int64)
    at = op.table + 4 * units
    over_time = image.array(at, op.filters * op.memory, element).reshape(op.filters, op.memory)
    filters = image.array(at + over_time.nbytes, op.filters * op.features, Element.INT8).reshape(op.filters, -1)
    x = arena[:, op.input : op.input + op.features].astype(np.int64) - op.input_zero_point
    low, high = CODE_RANGES[element]
    newest = np.clip(rescale(x @ filters.astype(np.int64).T, op.multiplier, op.shift), low, high)
    view = np.ascontiguousarray(state[:, op.state : op.state + over_time.nbytes]).view(over_time.dtype)
    kept = view.reshape(len(arena), op.filters, op.memory)
    # The zero point is added after the bounds, as TFLM does: int8 wraps.
    latest = (newest + op.state_zero_point).astype(over_time.dtype)
    kept = np.concatenate([kept[:, :, 1:], latest[:, :, None]], axis=2)
    state[:, op.state : op.state + over_time.nbytes] = kept.reshape(len(arena), -1).view(np.int8)
    sums = ((kept.astype(np.int64) - op.state_zero_point) * over_time.astype(np.int64)).sum(axis=2)
    total = (sums.reshape(len(arena), units, op.rank).sum(axis=2) + biases).astype(np.int32)
    return finish(op, rescale(total, op.output_multiplier, op.output_shift))


STATE_KERNELS: dict[OpCode, Callable[[Image, ImageOp, Int8, Int8], Array]] = {
    OpCode.STATE_READ: _read,
    OpCode.STATE_WRITE: _write,
    OpCode.SVDF: _svdf,
    OpCode.LSTM: lstm,
    OpCode.GRU: gru,
    OpCode.LSTM_F32: lstm_f32,
    OpCode.GRU_F32: gru_f32,
}
