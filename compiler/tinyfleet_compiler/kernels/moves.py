"""Int8 operators that move bytes, as NUMERICS.md states them: (image, record, arenas (N, bytes)) -> (N, size)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.layout import RESIZE_FRACTION_BITS
from tinyfleet_compiler.numerics import round_shift
from tinyfleet_compiler.operators import Element, OpCode, OpFlag

Int8 = npt.NDArray[np.int8]
Array = npt.NDArray[Any]


def _pad(image: Image, op: ImageOp, arena: Int8) -> Int8:
    size = int(np.prod(op.dims))
    x = arena[:, op.input : op.input + size].reshape(len(arena), *op.dims)
    widths = [(0, 0), *zip(op.before, op.after, strict=True)]
    return np.pad(x, widths, constant_values=op.input_zero_point).reshape(len(arena), -1)


def _concat(image: Image, op: ImageOp, arena: Int8) -> Int8:
    places = zip((op.input, *op.inputs_more), op.lengths, strict=True)
    sizes = [(at, op.outer * run) for at, run in places if run]
    parts = [arena[:, at : at + size] for at, size in sizes]
    if OpFlag.CONSTANT_B in OpFlag(op.flags):
        constant = image.array(*sizes[1], Element.INT8)
        parts[1] = np.broadcast_to(constant, (len(arena), constant.size))
    if OpFlag.SWAPPED in OpFlag(op.flags):
        parts.reverse()
    joined = [part.reshape(len(arena), op.outer, -1) for part in parts]
    return np.concatenate(joined, axis=2).reshape(len(arena), -1)


def _strided_copy(image: Image, op: ImageOp, arena: Int8) -> Int8:
    index = np.array([op.input + op.start], np.int64)
    for size, stride in zip(op.dims, op.strides, strict=True):
        index = (index[:, None] + np.arange(size, dtype=np.int64) * stride).reshape(-1)
    return arena[:, index]


def _source(op: ImageOp, arena: Int8) -> Int8:
    size = op.in_h * op.in_w * op.in_c
    return arena[:, op.input : op.input + size].reshape(len(arena), op.in_h, op.in_w, op.in_c)


def _gather(image: Image, op: ImageOp, arena: Int8) -> Int8:
    same = OpFlag.SAME_ROWS in OpFlag(op.flags)
    table = image.array(op.table, op.out_w + (0 if same else op.out_h), Element.INT16)
    x = _source(op, arena)
    rows = x if same else x[:, table[: op.out_h]]
    return np.ascontiguousarray(rows[:, :, table[len(table) - op.out_w :]]).reshape(len(arena), -1)


def _resize_bilinear(image: Image, op: ImageOp, arena: Int8) -> Int8:
    table = image.array(op.table, 2 * (op.out_h + op.out_w), Element.INT16).reshape(-1, 2).astype(np.int64)
    x = _source(op, arena).astype(np.int64)
    down = _blend(x, table[: op.out_h], axis=1)
    both = _blend(down, table[op.out_h :], axis=2)
    return round_shift(both, 2 * RESIZE_FRACTION_BITS).astype(np.int8).reshape(len(arena), -1)


def _blend(x: Array, places: Array, axis: int) -> Array:
    """Sums of two neighbours along an axis, scaled by 2^RESIZE_FRACTION_BITS."""
    low, fraction = places[:, 0], places[:, 1]
    high = np.minimum(low + 1, x.shape[axis] - 1)
    shape = [1] * x.ndim
    shape[axis] = len(places)
    weight = fraction.reshape(shape)
    return np.asarray(x.take(low, axis) * ((1 << RESIZE_FRACTION_BITS) - weight) + x.take(high, axis) * weight)


MOVE_KERNELS: dict[OpCode, Callable[[Image, ImageOp, Int8], Int8]] = {
    OpCode.PAD: _pad,
    OpCode.CONCAT: _concat,
    OpCode.STRIDED_COPY: _strided_copy,
    OpCode.GATHER: _gather,
    OpCode.RESIZE_BILINEAR: _resize_bilinear,
}
