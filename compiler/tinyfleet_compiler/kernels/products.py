"""BATCH_MATMUL, TOP_K, TOP_K_INDICES and NORMALIZE as NUMERICS.md states them."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.kernels.finish import Int8, clamp, finish
from tinyfleet_compiler.numerics import Int64, inverse_square_root, rescale
from tinyfleet_compiler.operators import Element, OpCode, OpFlag

_FRACTION_BITS, _FACTOR_BITS = 16, 15


def strided(dims: tuple[int, ...], steps: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Element that each place of a strided walk names, shaped `dims`."""
    index = np.zeros((1,) * len(dims), np.int64)
    for axis, (size, step) in enumerate(zip(dims, steps, strict=True)):
        shape = [1] * len(dims)
        shape[axis] = size
        index = index + (np.arange(size, dtype=np.int64) * step).reshape(shape)
    return index


def _matmul(image: Image, op: ImageOp, arena: Int8) -> Int8:
    outer, inner, rows, columns = op.dims
    a = arena[:, op.input + strided((outer, inner, rows, op.depth), op.steps)].astype(np.float64)
    index = strided((outer, inner, columns, op.depth), op.steps_b)
    if OpFlag.CONSTANT_B in OpFlag(op.flags):
        b = image.array(op.input_b, int(index.max()) + 1, Element.INT8)[None, index].astype(np.float64)
    else:
        b = arena[:, op.input_b + index].astype(np.float64)
    # Sums of int8 products are exact integers in float64, where BLAS is fast.
    sums = (a - op.input_zero_point) @ np.swapaxes(b - op.input_b_zero_point, -1, -2)
    values = finish(op, rescale(sums.astype(np.int64), op.multiplier, op.shift))
    out = np.empty_like(values)
    out[:, strided(op.dims, op.output_steps).reshape(-1)] = values
    return out


def _first_k(op: ImageOp, arena: Int8) -> tuple[npt.NDArray[np.int64], Int8]:
    """(N, rows, k) columns in order, and the rows (N, rows, columns) they are of."""
    x = arena[:, op.input : op.input + op.rows * op.columns].reshape(len(arena), op.rows, op.columns)
    keys = x.astype(np.int64) if op.smallest else -x.astype(np.int64)
    return np.argsort(keys, axis=2, kind="stable")[:, :, : op.k], x


def _top_k(image: Image, op: ImageOp, arena: Int8) -> Int8:
    columns, x = _first_k(op, arena)
    return np.take_along_axis(x, columns, axis=2).reshape(len(arena), -1)


def _top_k_indices(image: Image, op: ImageOp, arena: Int8) -> Int8:
    return clamp(op, _first_k(op, arena)[0] - 128)


def inverse_root(w: Int64) -> tuple[Int64, Int64]:
    """(inverse, e) with 1 / sqrt(w) = inverse * 2^(-46 - e) for w > 0 (NUMERICS.md section 4)."""
    inverses, exponents = np.empty(w.shape, np.int64), np.empty(w.shape, np.int64)
    for at, value in enumerate(w.reshape(-1).tolist()):
        e = (value.bit_length() - 31) // 2 if value.bit_length() % 2 else (value.bit_length() - 32) // 2
        m = value >> 2 * e if e >= 0 else value << -2 * e
        root = math.isqrt(m << 32)
        inverses.reshape(-1)[at], exponents.reshape(-1)[at] = (1 << 62) // root, e
    return inverses, exponents


def _normalize(image: Image, op: ImageOp, arena: Int8) -> Int8:
    size = op.outer * op.count * op.groups * op.run
    shape = (len(arena), op.outer, op.count, op.groups, op.run)
    x = arena[:, op.input : op.input + size].reshape(shape).astype(np.int64) - op.input_zero_point
    n = op.count * op.run
    total = x.sum(axis=(2, 4), keepdims=True) if op.centred else np.int64(0)
    w = n * (x * x).sum(axis=(2, 4), keepdims=True) - total * total + (op.epsilon[1] << 32 | op.epsilon[0])
    inverse, e = inverse_root(np.maximum(w, 1))
    wide = (n * x - total) * inverse
    right = 30 + e
    real = (wide + (np.int64(1) << (right - 1))) >> right
    table = image.array(op.table, 2 * op.groups * op.run, Element.INT32).astype(np.int64).reshape(2, op.groups, op.run)
    scaled = (real * table[0] + (1 << (_FACTOR_BITS - 1))) >> _FACTOR_BITS
    return finish(op, rescale(scaled + table[1], op.multiplier, op.shift))


def _l2_normalize(image: Image, op: ImageOp, arena: Int8) -> Int8:
    x = arena[:, op.input : op.input + op.rows * op.columns].reshape(len(arena), op.rows, op.columns).astype(np.int64)
    x -= op.input_zero_point
    root, shift = inverse_square_root(np.square(x).sum(axis=-1, keepdims=True))
    return finish(op, rescale(x, root, shift + 7))


KERNELS: dict[OpCode, Callable[[Image, ImageOp, Int8], Int8]] = {
    OpCode.BATCH_MATMUL: _matmul,
    OpCode.L2_NORMALIZE: _l2_normalize,
    OpCode.TOP_K: _top_k,
    OpCode.TOP_K_INDICES: _top_k_indices,
    OpCode.NORMALIZE: _normalize,
}
