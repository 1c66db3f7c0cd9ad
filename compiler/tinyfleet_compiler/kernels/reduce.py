"""Int8 reductions as NUMERICS.md states them."""

from collections.abc import Callable

import numpy as np

from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.kernels.finish import Int8, clamp, finish
from tinyfleet_compiler.numerics import rescale
from tinyfleet_compiler.operators import OpCode


def _runs(op: ImageOp, arena: Int8) -> Int8:
    """(N, outer, count, inner)."""
    size = op.outer * op.count * op.inner
    return arena[:, op.input : op.input + size].reshape(len(arena), op.outer, op.count, op.inner)


def _sum(image: Image, op: ImageOp, arena: Int8) -> Int8:
    total = _runs(op, arena).sum(axis=2, dtype=np.int64) - op.count * op.input_zero_point
    return finish(op, rescale(total, op.multiplier, op.shift))


def _max(image: Image, op: ImageOp, arena: Int8) -> Int8:
    return clamp(op, _runs(op, arena).max(axis=2))


def _min(image: Image, op: ImageOp, arena: Int8) -> Int8:
    return clamp(op, _runs(op, arena).min(axis=2))


def _arg_min(image: Image, op: ImageOp, arena: Int8) -> Int8:
    return clamp(op, _runs(op, arena).argmin(axis=2) - 128)


def _arg_max(image: Image, op: ImageOp, arena: Int8) -> Int8:
    return clamp(op, _runs(op, arena).argmax(axis=2) - 128)


KERNELS: dict[OpCode, Callable[[Image, ImageOp, Int8], Int8]] = {
    OpCode.REDUCE_SUM: _sum,
    OpCode.REDUCE_MAX: _max,
    OpCode.REDUCE_MIN: _min,
    OpCode.ARG_MAX: _arg_max,
    OpCode.ARG_MIN: _arg_min,
}
