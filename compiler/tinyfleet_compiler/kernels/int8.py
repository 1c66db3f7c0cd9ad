"""Int8 operators as NUMERICS.md states them: (image, record, arenas (N, bytes)) -> output bytes (N, size)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.kernels import binary, elementwise, int16, products, reduce
from tinyfleet_compiler.kernels.features import features
from tinyfleet_compiler.kernels.finish import clamp, finish
from tinyfleet_compiler.kernels.log_softmax import log_softmax
from tinyfleet_compiler.kernels.moves import MOVE_KERNELS
from tinyfleet_compiler.kernels.windows import (
    CACHE_ELEMENTS,
    Geometry,
    convolve,
    pad_image,
    tap_counts,
    taps,
    transpose_convolve,
)
from tinyfleet_compiler.layout import ADD_LEFT_SHIFT
from tinyfleet_compiler.numerics import rescale, softmax_int8
from tinyfleet_compiler.operators import Element, OpCode, OpFlag

Int8 = npt.NDArray[np.int8]
Array = npt.NDArray[Any]
_FLOAT32_EXACT = 1 << 24


def geometry(op: ImageOp) -> Geometry:
    """Window fields of a record."""
    return Geometry(**{name: op.fields[name] for name in Geometry.__dataclass_fields__})


def _image_input(op: ImageOp, arena: Int8, g: Geometry) -> Int8:
    size = g.in_h * g.in_w * g.in_c
    return np.reshape(arena[:, op.input : op.input + size], (len(arena), g.in_h, g.in_w, g.in_c))


def _exact_type(rows: Int8) -> npt.DTypeLike:
    """A float type in which every partial sum of int8 products is an exact integer (BLAS is fast in it)."""
    worst = np.abs(rows.astype(np.int64)).sum(axis=1).max() * 128
    return np.float32 if worst < _FLOAT32_EXACT else np.float64


def _convolution(image: Image, op: ImageOp, arena: Int8) -> Int8:
    g = geometry(op)
    per_group = g.in_c // g.groups
    rows = image.weight_rows(op, g.out_c, g.kernel_h * g.kernel_w * per_group)
    kind = _exact_type(rows)
    weights = rows.astype(kind).reshape(g.out_c, g.kernel_h, g.kernel_w, per_group)
    padded = pad_image(_image_input(op, arena, g), g, op.input_zero_point).astype(kind)
    return _requantize(image, op, convolve(padded, weights, g), g.out_c)


def _fully_connected(image: Image, op: ImageOp, arena: Int8) -> Int8:
    rows = image.weight_rows(op, op.out_features, op.in_features)
    kind = _exact_type(rows)
    x = arena[:, op.input : op.input + op.rows * op.in_features].reshape(len(arena) * op.rows, -1)
    sums: Array = x.astype(kind) @ rows.astype(kind).T
    return _requantize(image, op, sums.reshape(len(arena), op.rows, -1), op.out_features)


def _transpose_convolution(image: Image, op: ImageOp, arena: Int8) -> Int8:
    g = geometry(op)
    rows = image.array(op.weights, g.out_c * g.kernel_h * g.kernel_w * (g.in_c // g.groups), Element.INT8)
    weights = rows.astype(np.float64).reshape(g.out_c, g.kernel_h, g.kernel_w, -1)
    x = _image_input(op, arena, g).astype(np.float64) - op.input_zero_point
    return _requantize(image, op, transpose_convolve(x, weights, g), g.out_c)


def _requantize(image: Image, op: ImageOp, sums: Array, channels: int) -> Int8:
    biases, multipliers, shifts = image.channels(op, channels)
    out = np.empty((len(sums), sums[:1].size), np.int8)
    # Blocks that stay in the processor's cache: int64 passes over a whole batch are bound by memory.
    step = max(1, CACHE_ELEMENTS // max(1, out.shape[1]))
    for start in range(0, len(sums), step):
        block = sums[start : start + step].astype(np.int64) + biases
        out[start : start + step] = finish(op, rescale(block, multipliers, shifts))
    return out


def _add(image: Image, op: ImageOp, arena: Int8) -> Int8:
    a = arena[:, op.input : op.input + op.size].astype(np.int64)
    if OpFlag.CONSTANT_B in OpFlag(op.flags):
        b = image.array(op.input_b, op.size_b, Element.INT8).astype(np.int64)[None, :]
    else:
        b = arena[:, op.input_b : op.input_b + op.size_b].astype(np.int64)
    wide_a = (a - op.input_zero_point) << ADD_LEFT_SHIFT
    wide_b = (b - op.input_b_zero_point) << ADD_LEFT_SHIFT
    scaled_b = rescale(wide_b, op.input_b_multiplier, op.input_b_shift)
    total = rescale(wide_a, op.input_multiplier, op.input_shift).reshape(len(a), -1, op.size_b) + scaled_b[:, None, :]
    return finish(op, rescale(total.reshape(len(a), -1), op.output_multiplier, op.output_shift))


def _max_pool(image: Image, op: ImageOp, arena: Int8) -> Int8:
    g = geometry(op)
    padded = pad_image(_image_input(op, arena, g), g, -128)
    values = np.maximum.reduce(list(taps(padded, g)))
    return clamp(op, values)


def _average_pool(image: Image, op: ImageOp, arena: Int8) -> Int8:
    g = geometry(op)
    include = OpFlag.COUNT_INCLUDE_PAD in OpFlag(op.flags)
    padded = pad_image(_image_input(op, arena, g), g, op.input_zero_point if include else 0)
    total = np.zeros((len(arena), g.out_h, g.out_w, g.out_c), np.int64)
    for tap in taps(padded, g):
        total += tap
    count: Array = np.asarray(g.kernel_h * g.kernel_w) if include else tap_counts(g)
    mean = np.sign(total) * ((np.abs(total) + count // 2) // count)
    return clamp(op, mean)


def _softmax(image: Image, op: ImageOp, arena: Int8) -> Int8:
    x = arena[:, op.input : op.input + op.rows * op.columns].reshape(len(arena), op.rows, op.columns)
    return softmax_int8(x, op.multiplier, op.left_shift, op.diff_min).reshape(len(arena), -1)


def _rescale(image: Image, op: ImageOp, arena: Int8) -> Int8:
    x = arena[:, op.input : op.input + op.size].astype(np.int64) - op.input_zero_point
    return finish(op, rescale(x, op.multiplier, op.shift))


def _transpose(image: Image, op: ImageOp, arena: Int8) -> Int8:
    index = np.zeros((1, 1, 1, 1), np.int64)
    for axis, (size, stride) in enumerate(zip(op.dims, op.strides, strict=True)):
        shape = [1, 1, 1, 1]
        shape[axis] = size
        index = index + (np.arange(size) * stride).reshape(shape)
    return arena[:, op.input + index.reshape(-1)]


KERNELS: dict[OpCode, Callable[[Image, ImageOp, Int8], Array]] = {
    OpCode.CONV_2D: _convolution,
    OpCode.DEPTHWISE_CONV_2D: _convolution,
    OpCode.FULLY_CONNECTED: _fully_connected,
    OpCode.ADD: _add,
    OpCode.MAX_POOL_2D: _max_pool,
    OpCode.AVERAGE_POOL_2D: _average_pool,
    OpCode.SOFTMAX: _softmax,
    OpCode.RESCALE: _rescale,
    OpCode.TRANSPOSE: _transpose,
    **MOVE_KERNELS,
    OpCode.TRANSPOSE_CONV_2D: _transpose_convolution,
    **elementwise.KERNELS,
    **binary.KERNELS,
    **reduce.KERNELS,
    **products.KERNELS,
    OpCode.LOG_SOFTMAX: log_softmax,
    OpCode.FEATURES: features,
    OpCode.CONV_2D_INT4: _convolution,
    OpCode.DEPTHWISE_CONV_2D_INT4: _convolution,
    OpCode.FULLY_CONNECTED_INT4: _fully_connected,
    **int16.KERNELS,
}
