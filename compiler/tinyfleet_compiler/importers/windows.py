"""Importers of everything that slides a window: convolution, pooling."""

from dataclasses import replace

import numpy as np

from tinyfleet_compiler.graph import AveragePool, Conv, MaxPool, Pad, Window
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError

MAX_EXTENT = 65_535
MAX_STEP = 255


def import_conv(node: OnnxNode) -> None:
    """Conv-1/11/22 over images or sequences, any groups."""
    channels, height, width = node.window_shape()
    weights = read_kernels(node)
    groups = node.integer("group", 1)
    if groups < 1 or channels % groups or weights.shape[0] % groups or weights.shape[1] != channels // groups:
        raise UnsupportedError(
            f"weights {weights.shape} with group {groups} do not fit {channels} channels", "export the model again"
        )
    window = read_window(node, (weights.shape[2], weights.shape[3]), height, width)
    bias = node.floats(2, "the bias") if node.has_input(2) else np.zeros(weights.shape[0], np.float32)
    if bias.shape != (weights.shape[0],):
        raise UnsupportedError(f"bias has shape {bias.shape}", "export the model again")
    rows, columns = window.out_size(height, width)
    node.context.add(
        Conv(
            node.name,
            (node.data(0),),
            node.output,
            weights=np.ascontiguousarray(weights.transpose(0, 2, 3, 1)),
            bias=bias,
            window=window,
            groups=groups,
        ),
        node.window_result(weights.shape[0], rows, columns),
    )


def read_kernels(node: OnnxNode) -> np.ndarray:
    """The constant weights as four dimensions, those of a sequence with one row."""
    weights = node.floats(1, "the weight tensor")
    spatial = len(node.shape()) - 1
    if weights.ndim != 2 + spatial:
        raise UnsupportedError(f"weights have {weights.ndim} dimensions", f"give weights of {2 + spatial} dimensions")
    if node.ints("kernel_shape", weights.shape[2:]) != weights.shape[2:]:
        raise UnsupportedError("kernel_shape differs from the weights", "export the model again")
    return weights.reshape(*weights.shape[:2], -1, weights.shape[-1])


def import_max_pool(node: OnnxNode) -> None:
    """MaxPool-8/10/11/12/22 with one output."""
    if len(node.proto.output) > 1 and node.proto.output[1]:
        raise UnsupportedError("asks for the indices of the maxima", "remove the second output")
    channels, height, width = node.window_shape()
    window = _pool_window(node, height, width)
    pool = MaxPool(node.name, (node.data(0),), node.output, window=window)
    node.context.add(pool, node.window_result(channels, *window.out_size(height, width)))


def import_average_pool(node: OnnxNode) -> None:
    """AveragePool-7/10/11/19/22."""
    channels, height, width = node.window_shape()
    window, source = _pool_window(node, height, width), node.data(0)
    if window.dilations != (1, 1):
        raise UnsupportedError("is dilated", "use dilation 1")
    shape = node.window_result(channels, *window.out_size(height, width))
    asked = read_window(node, window.kernel, height, width).pads
    include = bool(node.integer("count_include_pad", 0)) and any(asked)
    if include and asked != window.pads:  # what ceil_mode adds beyond the pads is not counted
        source, window, include = _padded(node, asked), _less(window, asked), False
    pool = AveragePool(node.name, (source,), node.output, window=window, include_pad=include)
    node.context.add(pool, shape)


def _padded(node: OnnxNode, pads: tuple[int, int, int, int]) -> str:
    """The first input with its pads written out."""
    spatial = len(node.shape()) - 1
    before, after = (0, *pads[2 - spatial : 2]), (0, *pads[4 - spatial :])
    output = f"{node.output}/padded"
    shape = tuple(sum(parts) for parts in zip(before, node.shape(), after, strict=True))
    node.context.add(Pad(output, (node.data(0),), output, before=before, after=after), shape)
    return output


def _less(window: Window, pads: tuple[int, int, int, int]) -> Window:
    top, left, bottom, right = (all - own for all, own in zip(window.pads, pads, strict=True))
    return replace(window, pads=(top, left, bottom, right))


def import_global_average_pool(node: OnnxNode) -> None:
    """GlobalAveragePool-1: one window over everything."""
    channels, height, width = node.window_shape()
    window = Window((height, width))
    check_limits(window, height, width)
    pool = AveragePool(node.name, (node.data(0),), node.output, window=window)
    node.context.add(pool, node.window_result(channels, 1, 1))


def import_global_max_pool(node: OnnxNode) -> None:
    """GlobalMaxPool-1: one window over everything."""
    channels, height, width = node.window_shape()
    window = Window((height, width))
    check_limits(window, height, width)
    pool = MaxPool(node.name, (node.data(0),), node.output, window=window)
    node.context.add(pool, node.window_result(channels, 1, 1))


def read_window(node: OnnxNode, kernel: tuple[int, int], height: int, width: int) -> Window:
    """Window of a node's attributes, auto_pad resolved. Raises `UnsupportedError` outside the image's limits."""
    strides = read_pair(node, "strides", 1)
    dilations = read_pair(node, "dilations", 1)
    pads = read_pads(node)
    auto = node.text("auto_pad", "NOTSET")
    window = Window((kernel[0], kernel[1]), strides, pads, dilations)
    check_limits(window, height, width)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        window = same_pads(window, height, width, upper=auto == "SAME_UPPER")
    elif auto == "VALID":
        window = Window(window.kernel, strides, (0, 0, 0, 0), dilations)
    elif auto != "NOTSET":
        raise UnsupportedError(f"auto_pad is '{auto}'", "give explicit pads")
    check_limits(window, height, width)
    if min(window.out_size(height, width)) < 1:
        raise UnsupportedError(f"the window {kernel} does not fit the input {height} x {width}", "use a smaller kernel")
    return window


def read_pair(node: OnnxNode, name: str, default: int) -> tuple[int, int]:
    """An attribute with one number per spatial axis; the one row of a sequence has 1."""
    spatial = len(node.shape()) - 1
    values = node.ints(name, (default,) * spatial)
    if len(values) != spatial:
        raise UnsupportedError(f"{name} is {values}", f"give {spatial} {name}")
    return (1, values[0]) if spatial == 1 else (values[0], values[1])


def read_pads(node: OnnxNode) -> tuple[int, int, int, int]:
    """Attribute pads as top, left, bottom, right."""
    spatial = len(node.shape()) - 1
    pads = node.ints("pads", (0,) * (2 * spatial))
    if len(pads) != 2 * spatial:
        raise UnsupportedError(f"pads are {pads}", f"give {2 * spatial} pads")
    return (0, pads[0], 0, pads[1]) if spatial == 1 else (pads[0], pads[1], pads[2], pads[3])


def _pool_window(node: OnnxNode, height: int, width: int) -> Window:
    kernel = read_pair(node, "kernel_shape", 0)
    window = read_window(node, kernel, height, width)
    if any(p >= k for p, k in zip(window.pads, kernel * 2, strict=True)):
        raise UnsupportedError(f"pads {window.pads} reach the kernel {kernel}", "pad less than the kernel")
    if node.integer("ceil_mode", 0):
        window = _ceil(window, height, width)
    if not all(_touch(window, axis, size) for axis, size in enumerate((height, width))):
        raise UnsupportedError("has windows over padding alone", "pad less, or dilate less")
    return window


def _touch(window: Window, axis: int, size: int) -> bool:
    """Whether every window along an axis has a tap inside: dilated ones may step over a small input."""
    kernel, dilation = window.kernel[axis], window.dilations[axis]
    count = window.out_size(size, size)[axis]
    starts = np.arange(count) * window.strides[axis] - window.pads[axis]
    first = np.maximum(-(starts // dilation), 0)
    return bool(((first < kernel) & (starts + first * dilation < size)).all())


def _ceil(window: Window, height: int, width: int) -> Window:
    """Pads below and right so that the last, partial window counts (never one that starts outside)."""
    grown = []
    for axis, size in enumerate((height, width)):
        before, after = window.pads[axis], window.pads[axis + 2]
        span = size + before + after - ((window.kernel[axis] - 1) * window.dilations[axis] + 1)
        stride = window.strides[axis]
        rest = -span % stride
        starts_inside = (span + rest) < size + before
        grown.append(after + rest if starts_inside else after)
    return Window(window.kernel, window.strides, (*window.pads[:2], grown[0], grown[1]), window.dilations)


def same_pads(window: Window, height: int, width: int, *, upper: bool) -> Window:
    """Pads that give ceil(size / stride) outputs; the odd one after the input with `upper`, before it without."""
    before, after = [], []
    for axis, size in enumerate((height, width)):
        stride, extent = window.strides[axis], (window.kernel[axis] - 1) * window.dilations[axis] + 1
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        small, large = total // 2, total - total // 2
        before.append(small if upper else large)
        after.append(large if upper else small)
    return Window(window.kernel, window.strides, (before[0], before[1], after[0], after[1]), window.dilations)


def check_limits(window: Window, height: int, width: int) -> None:
    """Raises `UnsupportedError` where a record's fields cannot hold the window."""
    small = (*window.strides, *window.dilations)
    if min(*small, *window.kernel) < 1 or max(small) > MAX_STEP or max(*window.kernel, height, width) > MAX_EXTENT:
        raise UnsupportedError(
            f"kernel {window.kernel}, strides {window.strides} or dilations {window.dilations} are out of range",
            f"use 1 to {MAX_STEP} for strides and dilations, at most {MAX_EXTENT} for sizes",
        )
    if min(window.pads) < 0 or max(window.pads) > MAX_STEP:
        raise UnsupportedError(f"pads {window.pads} are out of range", f"use pads of 0 to {MAX_STEP}")
