"""Float32 softmax, reductions, resizing and moves, as NUMERICS.md section 7 states them."""

from collections.abc import Callable

import numpy as np

from tinyfleet_compiler import float_math
from tinyfleet_compiler.float_math import F32, view
from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.kernels.finish import Int8
from tinyfleet_compiler.kernels.float_windows import finish, inputs
from tinyfleet_compiler.operators import Element, OpCode


def ordered_sum(x: F32) -> F32:
    """Sum over the last axis, ascending from 0: (..., K) to (...)."""
    total = np.zeros(x.shape[:-1], np.float32)
    for k in range(x.shape[-1]):
        total += x[..., k]
    return total


def ordered_max(x: F32) -> F32:
    """Largest along the last axis from -inf, first among equals; not-a-number where there is one."""
    best = np.full(x.shape[:-1], -np.inf, np.float32)
    for k in range(x.shape[-1]):
        best = np.where((x[..., k] > best) | np.isnan(x[..., k]), x[..., k], best)
    return best


def _shifted(op: ImageOp, arena: Int8) -> F32:
    """beta (x - max), (N, rows, columns)."""
    x = inputs(op, arena, op.rows * op.columns).reshape(len(arena), op.rows, op.columns)
    return np.float32(op.beta) * (x - ordered_max(x)[..., None])


def _softmax(image: Image, op: ImageOp, arena: Int8) -> F32:
    e = float_math.exp(_shifted(op, arena))
    return finish(op, e / ordered_sum(e)[..., None])


def _log_softmax(image: Image, op: ImageOp, arena: Int8) -> F32:
    shifted = _shifted(op, arena)
    return finish(op, shifted - float_math.log(ordered_sum(float_math.exp(shifted)))[..., None])


def _runs(op: ImageOp, arena: Int8) -> F32:
    """(N, outer, inner, count)."""
    x = inputs(op, arena, op.outer * op.count * op.inner)
    return x.reshape(len(arena), op.outer, op.count, op.inner).transpose(0, 1, 3, 2)


def _sum(image: Image, op: ImageOp, arena: Int8) -> F32:
    return finish(op, ordered_sum(_runs(op, arena)) / np.float32(op.divisor))


def _max(image: Image, op: ImageOp, arena: Int8) -> F32:
    return finish(op, ordered_max(_runs(op, arena)))


def _min(image: Image, op: ImageOp, arena: Int8) -> F32:
    return finish(op, -ordered_max(-_runs(op, arena)))


def _arg_max(image: Image, op: ImageOp, arena: Int8) -> F32:
    x = _runs(op, arena)
    best, index = x[..., 0], np.zeros(x.shape[:-1], np.float32)
    for k in range(1, op.count):
        more = x[..., k] > best
        best, index = np.where(more, x[..., k], best), np.where(more, np.float32(k), index)
    return finish(op, index)


def _resize_bilinear(image: Image, op: ImageOp, arena: Int8) -> F32:
    table = image.array(op.table, 2 * (op.out_h + op.out_w), Element.FLOAT32).reshape(-1, 2)
    x = inputs(op, arena, op.in_h * op.in_w * op.in_c).reshape(len(arena), op.in_h, op.in_w, op.in_c)
    across = _blend(x, table[op.out_h :], axis=2)
    return finish(op, _blend(across, table[: op.out_h], axis=1))


def _blend(x: F32, places: F32, axis: int) -> F32:
    """a + (b - a) f of neighbours along an axis; a alone where f is 0."""
    low, shape = places[:, 0].astype(np.int64), [1] * x.ndim
    shape[axis] = len(places)
    part = places[:, 1].reshape(shape)
    a, b = x.take(low, axis), x.take(np.minimum(low + 1, x.shape[axis] - 1), axis)
    return np.where(part > 0, a + (b - a) * part, a)


def _pad(image: Image, op: ImageOp, arena: Int8) -> F32:
    x = inputs(op, arena, int(np.prod(op.dims))).reshape(len(arena), *op.dims)
    widths = [(0, 0), *zip(op.before, op.after, strict=True)]
    return np.pad(x, widths, constant_values=np.float32(op.value)).reshape(len(arena), -1)


def _strided_copy(image: Image, op: ImageOp, arena: Int8) -> F32:
    index = np.array([op.start], np.int64)
    for size, stride in zip(op.dims, op.strides, strict=True):
        index = (index[:, None] + np.arange(size, dtype=np.int64) * stride).reshape(-1)
    return view(arena[:, op.input : op.input + 4 * (int(index.max()) + 1)])[:, index]


KERNELS: dict[OpCode, Callable[[Image, ImageOp, Int8], F32]] = {
    OpCode.SOFTMAX_F32: _softmax,
    OpCode.LOG_SOFTMAX_F32: _log_softmax,
    OpCode.REDUCE_SUM_F32: _sum,
    OpCode.REDUCE_MAX_F32: _max,
    OpCode.REDUCE_MIN_F32: _min,
    OpCode.ARG_MAX_F32: _arg_max,
    OpCode.RESIZE_BILINEAR_F32: _resize_bilinear,
    OpCode.PAD_F32: _pad,
    OpCode.STRIDED_COPY_F32: _strided_copy,
}
