"""Float32 operators with weights or a window: sums start at 0 and grow in the order NUMERICS.md section 7 names."""

from collections.abc import Callable

import numpy as np

from tinyfleet_compiler.float_math import F32, clamp, view
from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.kernels.finish import Int8
from tinyfleet_compiler.kernels.int8 import geometry
from tinyfleet_compiler.kernels.windows import Geometry, pad_image, tap_counts, taps
from tinyfleet_compiler.operators import Element, OpCode, OpFlag

BLOCK_ELEMENTS = 1 << 16
"""Sums that are worked on at a time: a block and its operands stay in the processor's cache."""


def inputs(op: ImageOp, arena: Int8, size: int) -> F32:
    """First input of an op, (N, size)."""
    return view(arena[:, op.input : op.input + 4 * size])


def finish(op: ImageOp, values: F32) -> F32:
    """Clamped to the record's activation range, (N, size)."""
    return clamp(values, op.activation_min, op.activation_max).reshape(len(values), -1)


def ordered_products(columns: F32, rows: F32) -> F32:
    """sum over k of columns[p, k] * rows[o, k], k ascending from a sum of 0: (P, K), (O, K) to (P, O)."""
    out = np.zeros((len(rows), len(columns)), np.float32)
    turned, step = np.ascontiguousarray(columns.T), max(1, BLOCK_ELEMENTS // max(1, len(rows)))
    for start in range(0, len(columns), step):
        block = out[:, start : start + step]
        product = np.empty_like(block)
        for k, values in enumerate(turned[:, start : start + step]):
            np.multiply(rows[:, k, None], values, out=product)
            block += product
    return np.ascontiguousarray(out.T)


def _image_input(op: ImageOp, arena: Int8, g: Geometry) -> F32:
    return inputs(op, arena, g.in_h * g.in_w * g.in_c).reshape(len(arena), g.in_h, g.in_w, g.in_c)


def _weights(image: Image, op: ImageOp, outputs: int, row: int) -> tuple[F32, F32]:
    """(bias (O,), weights (O, row))."""
    table = image.array(op.weights, outputs * (row + 1), Element.FLOAT32).reshape(outputs, row + 1)
    return table[:, 0], table[:, 1:]


def _convolution(image: Image, op: ImageOp, arena: Int8) -> F32:
    g = geometry(op)
    inner, outer = g.in_c // g.groups, g.out_c // g.groups
    bias, rows = _weights(image, op, g.out_c, g.kernel_h * g.kernel_w * inner)
    columns = np.stack(list(taps(pad_image(_image_input(op, arena, g), g, np.float32(0)), g)), axis=3)
    parts = []
    for group in range(g.groups):
        chosen = columns[..., group * inner : (group + 1) * inner].reshape(-1, rows.shape[1])
        parts.append(ordered_products(chosen, rows[group * outer : (group + 1) * outer]))
    return finish(op, (np.concatenate(parts, axis=1) + bias).reshape(len(arena), -1))


def _depthwise(image: Image, op: ImageOp, arena: Int8) -> F32:
    g = geometry(op)
    bias, rows = _weights(image, op, g.out_c, g.kernel_h * g.kernel_w)
    padded, times = pad_image(_image_input(op, arena, g), g, np.float32(0)), g.out_c // g.in_c
    total = np.zeros((len(arena), g.out_h, g.out_w, g.out_c), np.float32)
    for index, tap in enumerate(taps(padded, g)):
        total += (tap if times == 1 else np.repeat(tap, times, axis=3)) * rows[:, index]
    return finish(op, total + bias)


def _transpose_convolution(image: Image, op: ImageOp, arena: Int8) -> F32:
    g = geometry(op)
    inner = g.in_c // g.groups
    bias, rows = _weights(image, op, g.out_c, g.kernel_h * g.kernel_w * inner)
    weights, x = rows.reshape(g.out_c, g.kernel_h, g.kernel_w, inner), _image_input(op, arena, g)
    first = np.arange(g.out_c) // (g.out_c // g.groups) * inner
    high = max((g.in_h - 1) * g.stride_h + (g.kernel_h - 1) * g.dilation_h + 1, g.pad_top + g.out_h)
    wide = max((g.in_w - 1) * g.stride_w + (g.kernel_w - 1) * g.dilation_w + 1, g.pad_left + g.out_w)
    full = np.zeros((len(x), high, wide, g.out_c), np.float32)
    for ky, kx in np.ndindex(g.kernel_h, g.kernel_w):
        top, left = ky * g.dilation_h, kx * g.dilation_w
        down = slice(top, top + (g.in_h - 1) * g.stride_h + 1, g.stride_h)
        across = slice(left, left + (g.in_w - 1) * g.stride_w + 1, g.stride_w)
        for c in range(inner):
            full[:, down, across] += x[..., first + c] * weights[:, ky, kx, c]
    cut = full[:, g.pad_top : g.pad_top + g.out_h, g.pad_left : g.pad_left + g.out_w]
    return finish(op, cut + bias)


def _fully_connected(image: Image, op: ImageOp, arena: Int8) -> F32:
    bias, rows = _weights(image, op, op.out_features, op.in_features)
    x = inputs(op, arena, op.rows * op.in_features).reshape(-1, op.in_features)
    return finish(op, (ordered_products(x, rows) + bias).reshape(len(arena), -1))


def _max_pool(image: Image, op: ImageOp, arena: Int8) -> F32:
    g = geometry(op)
    best = np.full((len(arena), g.out_h, g.out_w, g.out_c), -np.inf, np.float32)
    for tap in taps(pad_image(_image_input(op, arena, g), g, np.float32(-np.inf)), g):
        best = np.where((tap > best) | np.isnan(tap), tap, best)
    return finish(op, best)


def _average_pool(image: Image, op: ImageOp, arena: Int8) -> F32:
    g = geometry(op)
    total = np.zeros((len(arena), g.out_h, g.out_w, g.out_c), np.float32)
    for tap in taps(pad_image(_image_input(op, arena, g), g, np.float32(0)), g):
        total += tap
    include = OpFlag.COUNT_INCLUDE_PAD in OpFlag(op.flags)
    count = np.float32(g.kernel_h * g.kernel_w) if include else tap_counts(g).astype(np.float32)
    return finish(op, total / count)


KERNELS: dict[OpCode, Callable[[Image, ImageOp, Int8], F32]] = {
    OpCode.CONV_2D_F32: _convolution,
    OpCode.DEPTHWISE_CONV_2D_F32: _depthwise,
    OpCode.TRANSPOSE_CONV_2D_F32: _transpose_convolution,
    OpCode.FULLY_CONNECTED_F32: _fully_connected,
    OpCode.MAX_POOL_2D_F32: _max_pool,
    OpCode.AVERAGE_POOL_2D_F32: _average_pool,
}
