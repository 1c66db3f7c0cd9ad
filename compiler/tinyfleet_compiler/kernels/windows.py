"""Sliding windows over a batch of images, shared by the float executor and the int8 simulator."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
CACHE_ELEMENTS = 30_000


@dataclass(frozen=True)
class Geometry:
    """Shape side of a windowed operator, as an op record holds it."""

    in_h: int
    in_w: int
    in_c: int
    out_h: int
    out_w: int
    out_c: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    pad_top: int
    pad_left: int
    groups: int


def pad_image(x: Array, g: Geometry, value: Any) -> Array:
    """(N, H, W, C) with every padded tap present."""
    last_row = (g.out_h - 1) * g.stride_h + (g.kernel_h - 1) * g.dilation_h + 1
    last_column = (g.out_w - 1) * g.stride_w + (g.kernel_w - 1) * g.dilation_w + 1
    bottom = max(0, last_row - g.pad_top - g.in_h)
    right = max(0, last_column - g.pad_left - g.in_w)
    if not (g.pad_top or g.pad_left or bottom or right):
        return x
    return np.pad(x, ((0, 0), (g.pad_top, bottom), (g.pad_left, right), (0, 0)), constant_values=value)


def taps(padded: Array, g: Geometry) -> Iterator[Array]:
    """For each kernel position in row order, the input it sees at every output: views (N, out_h, out_w, C)."""
    for ky in range(g.kernel_h):
        for kx in range(g.kernel_w):
            top, left = ky * g.dilation_h, kx * g.dilation_w
            rows = slice(top, top + (g.out_h - 1) * g.stride_h + 1, g.stride_h)
            columns = slice(left, left + (g.out_w - 1) * g.stride_w + 1, g.stride_w)
            yield padded[:, rows, columns, :]


def convolve(padded: Array, weights: Array, g: Geometry) -> Array:
    """Sum over taps and group channels; weights (O, kh, kw, C / groups), result (N, out_h, out_w, O)."""
    if g.groups == g.in_c > 1:
        return _depthwise(padded, weights, g)
    seen = list(taps(padded, g))
    columns = seen[0] if len(seen) == 1 else np.stack(seen, axis=3)
    per_group, out_per_group = g.in_c // g.groups, g.out_c // g.groups
    parts = []
    for group in range(g.groups):
        chosen = columns[..., group * per_group : (group + 1) * per_group]
        rows = weights[group * out_per_group : (group + 1) * out_per_group].reshape(out_per_group, -1)
        parts.append(chosen.reshape(-1, rows.shape[1]) @ rows.T)
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return np.reshape(joined, (len(padded), g.out_h, g.out_w, g.out_c))


def _depthwise(padded: Array, weights: Array, g: Geometry) -> Array:
    times = g.out_c // g.in_c
    columns = weights.reshape(g.out_c, -1)
    out = np.zeros((len(padded), g.out_h, g.out_w, g.out_c), dtype=np.result_type(padded, weights))
    # Blocks that stay in the processor's cache: this loop is bound by memory, not by arithmetic.
    step = max(1, CACHE_ELEMENTS // out[:1].size)
    for start in range(0, len(padded), step):
        block = out[start : start + step]
        product = np.empty_like(block)
        for index, tap in enumerate(taps(padded[start : start + step], g)):
            np.multiply(tap if times == 1 else np.repeat(tap, times, axis=3), columns[:, index], out=product)
            block += product
    return out


def transpose_convolve(x: Array, weights: Array, g: Geometry) -> Array:
    """Every input pixel times the kernel, added up, cut to the output; weights (O, kh, kw, C / groups)."""
    rows = max((g.in_h - 1) * g.stride_h + (g.kernel_h - 1) * g.dilation_h + 1, g.pad_top + g.out_h)
    columns = max((g.in_w - 1) * g.stride_w + (g.kernel_w - 1) * g.dilation_w + 1, g.pad_left + g.out_w)
    full = np.zeros((len(x), rows, columns, g.out_c), dtype=np.result_type(x, weights))
    channels = np.split(x, g.groups, axis=-1)
    for ky in range(g.kernel_h):
        for kx in range(g.kernel_w):
            top, left = ky * g.dilation_h, kx * g.dilation_w
            down = slice(top, top + (g.in_h - 1) * g.stride_h + 1, g.stride_h)
            across = slice(left, left + (g.in_w - 1) * g.stride_w + 1, g.stride_w)
            taps_of = np.split(weights[:, ky, kx], g.groups)
            parts = [part @ rows.T for part, rows in zip(channels, taps_of, strict=True)]
            full[:, down, across] += np.concatenate(parts, axis=-1)
    return full[:, g.pad_top : g.pad_top + g.out_h, g.pad_left : g.pad_left + g.out_w]


def tap_counts(g: Geometry) -> Array:
    """How many taps of each window lie inside the input, (out_h, out_w, 1)."""
    inside = pad_image(np.ones((1, g.in_h, g.in_w, 1), np.int64), g, 0)
    return np.asarray(sum(tap[0] for tap in taps(inside, g)))
