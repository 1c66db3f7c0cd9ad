"""Importer of Resize: where every output row and column lies in the input, in ONNX's float32 arithmetic."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.graph import Resize
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.importers.moves import MOST_INDEX

Floats = npt.NDArray[np.float32]


def import_resize(node: OnnxNode) -> None:
    """Resize-11/13/18/19, nearest and linear over rows and columns."""
    channels, height, width = node.window_shape()
    mode = node.text("mode", "nearest")
    if mode not in ("nearest", "linear"):
        raise UnsupportedError(f"resizes by '{mode}'", "use nearest or linear")
    if node.integer("antialias", 0) or node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedError("uses antialias or keeps an aspect ratio", "export with antialias 0 and policy stretch")
    scales, sizes = _scales(node)
    if sizes[:2] != (1, channels):
        raise UnsupportedError(f"resizes to {sizes}", "resize rows and columns only")
    if min(sizes) < 1 or max(height, width, *sizes[2:]) > MOST_INDEX:
        raise UnsupportedError(f"resizes {height} x {width} to {sizes[2:]}", f"use sizes of 1 to {MOST_INDEX}")
    rows = _places(node, mode, height, sizes[2], scales[2])
    columns = _places(node, mode, width, sizes[3], scales[3])
    resize = Resize(node.name, (node.data(0),), node.output, rows=rows, columns=columns, linear=mode == "linear")
    node.context.add(resize, node.window_result(channels, sizes[2], sizes[3]))


def _scales(node: OnnxNode) -> tuple[list[float], tuple[int, ...]]:
    """Scale and size of batch, channels, rows and columns."""
    shape = (1, *node.shape())
    axes = [int(a) % len(shape) for a in node.ints("axes", tuple(range(len(shape))))]
    scales, sizes = [1.0] * len(shape), list(shape)
    by_size = node.has_input(3) and node.constant(3, "sizes").size > 0
    given = node.constant(3, "sizes").reshape(-1) if by_size else node.constant(2, "scales").reshape(-1)
    if len(given) != len(axes) or not np.isfinite(given).all() or (given <= 0).any():
        raise UnsupportedError(f"has {len(given)} scales or sizes for {len(axes)} axes", "give one positive each")
    for axis, value in zip(axes, given, strict=True):
        if by_size:
            sizes[axis], scales[axis] = int(value), float(np.float32(value) / np.float32(shape[axis]))
        else:
            sizes[axis], scales[axis] = int(np.floor(np.float32(shape[axis]) * np.float32(value))), float(value)
    if len(shape) == 3:
        return [*scales[:2], 1.0, scales[2]], (*sizes[:2], 1, sizes[2])
    return scales, tuple(sizes)


def _places(node: OnnxNode, mode: str, size: int, count: int, scale: float) -> tuple[float, ...]:
    kind = node.text("coordinate_transformation_mode", "half_pixel")
    if kind not in COORDINATES:
        raise UnsupportedError(f"transforms coordinates by '{kind}'", f"use {', '.join(COORDINATES)}")
    at = np.arange(count, dtype=np.float32)
    real = at if scale == 1.0 else COORDINATES[kind](at, size, count, np.float32(scale))
    if mode == "nearest":
        real = _nearest(node, real)
    return tuple(float(p) for p in np.clip(real, 0, size - 1))


def _half_pixel(at: Floats, size: int, count: int, scale: np.float32) -> Floats:
    return np.asarray((at + np.float32(0.5)) / scale - np.float32(0.5))


def _pytorch_half_pixel(at: Floats, size: int, count: int, scale: np.float32) -> Floats:
    return _half_pixel(at, size, count, scale) if count > 1 else np.zeros_like(at)


def _align_corners(at: Floats, size: int, count: int, scale: np.float32) -> Floats:
    return at * np.float32(size - 1) / np.float32(count - 1) if count > 1 else np.zeros_like(at)


def _asymmetric(at: Floats, size: int, count: int, scale: np.float32) -> Floats:
    return np.asarray(at / scale)


def _half_pixel_symmetric(at: Floats, size: int, count: int, scale: np.float32) -> Floats:
    adjustment = np.float32(count) / (scale * np.float32(size))
    offset = np.float32(size) / np.float32(2) * (np.float32(1) - adjustment)
    return np.asarray(offset + (at + np.float32(0.5)) / scale - np.float32(0.5))


COORDINATES: dict[str, Callable[[Floats, int, int, np.float32], Floats]] = {
    "half_pixel": _half_pixel,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "half_pixel_symmetric": _half_pixel_symmetric,
}


def _nearest(node: OnnxNode, real: Floats) -> Floats:
    mode = node.text("nearest_mode", "round_prefer_floor")
    rounders: dict[str, Callable[[Floats], Floats]] = {
        "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
        "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    if mode not in rounders:
        raise UnsupportedError(f"rounds by '{mode}'", f"use {', '.join(rounders)}")
    return rounders[mode](real)
