"""Smallest legal distance input - output at which a kernel never overwrites what it still reads (SPEC.md section 6)."""

import numpy as np

from tinyfleet_compiler.kernels.windows import Geometry


def pixel_overlap(g: Geometry) -> int:
    """For operators that finish output pixels in row order."""
    lowest = _first_tap(g.out_h, g.stride_h, g.pad_top, g.dilation_h, g.kernel_h, g.in_h)
    leftmost = _first_tap(g.out_w, g.stride_w, g.pad_left, g.dilation_w, g.kernel_w, g.in_w)
    start = ((lowest[:, None] * g.in_w + leftmost[None, :]) * g.in_c).reshape(-1)
    outside = ((lowest[:, None] >= g.in_h) | (leftmost[None, :] >= g.in_w)).reshape(-1)
    never = g.in_h * g.in_w * g.in_c + g.out_h * g.out_w * g.out_c
    start[outside] = never
    still_read = np.minimum.accumulate(start[::-1])[::-1]
    written = (np.arange(start.size, dtype=np.int64) + 1) * g.out_c
    return int((written - still_read).max(where=still_read < never, initial=-never))


def pixel_overlap_reversed(g: Geometry) -> int:
    """Smallest legal output - input for operators that finish output pixels last to first."""
    bottom = _last_tap(g.out_h, g.stride_h, g.pad_top, g.dilation_h, g.kernel_h, g.in_h)
    right = _last_tap(g.out_w, g.stride_w, g.pad_left, g.dilation_w, g.kernel_w, g.in_w)
    end = ((bottom[:, None] * g.in_w + right[None, :] + 1) * g.in_c).reshape(-1)
    outside = ((bottom[:, None] < 0) | (right[None, :] < 0)).reshape(-1)
    never = -(g.in_h * g.in_w * g.in_c + g.out_h * g.out_w * g.out_c)
    end[outside] = never
    still_read = np.maximum.accumulate(end)
    written = np.arange(end.size, dtype=np.int64) * g.out_c
    return int((still_read - written).max(where=still_read > never, initial=never))


def rows_overlap(rows: int, features: int, outputs: int) -> int:
    """For fully connected layers, a row as a pixel."""
    index = np.arange(rows, dtype=np.int64)
    return int(((index + 1) * outputs - index * features).max())


def copy_overlap(sources: np.ndarray) -> int:
    """For operators that copy element by element; `sources`: input element per output element, -1 for none."""
    size = len(sources)
    never = 2 * size + int(sources.max(initial=0)) + 1
    low = np.where(sources < 0, never, sources)
    still_read = np.minimum.accumulate(low[::-1])[::-1][1:]
    written = np.arange(1, size, dtype=np.int64)
    return int((written - still_read).max(where=still_read < never, initial=-never))


def _first_tap(count: int, stride: int, pad: int, dilation: int, kernel: int, size: int) -> np.ndarray:
    """First input index a window reads per output index; `size` or more when it reads none."""
    start = np.arange(count, dtype=np.int64) * stride - pad
    skipped = np.clip(-(start // dilation), 0, kernel)
    first = start + skipped * dilation
    return np.where(skipped < kernel, first, size)


def _last_tap(count: int, stride: int, pad: int, dilation: int, kernel: int, size: int) -> np.ndarray:
    """Last input index a window reads per output index; negative when it reads none."""
    start = np.arange(count, dtype=np.int64) * stride - pad
    skipped = np.clip(-((size - 1 - start) // dilation) + kernel - 1, 0, kernel)
    last = start + (kernel - 1 - skipped) * dilation
    return np.where((skipped < kernel) & (last >= 0), last, -1)
