"""Importer of ConvTranspose."""

import numpy as np

from tinyfleet_compiler.graph import ConvTranspose, Window
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.importers.windows import MAX_STEP, check_limits, read_kernels, read_pads, read_pair


def import_conv_transpose(node: OnnxNode) -> None:
    """ConvTranspose-1/11/22 over images or sequences, any groups."""
    channels, height, width = node.window_shape()
    weights = read_kernels(node)
    groups = node.integer("group", 1)
    if weights.shape[0] != channels or groups < 1 or channels % groups:
        raise UnsupportedError(
            f"weights {weights.shape} with group {groups} do not fit {channels} channels", "export the model again"
        )
    outputs = weights.shape[1] * groups
    bias = node.floats(2, "the bias") if node.has_input(2) else np.zeros(outputs, np.float32)
    if bias.shape != (outputs,):
        raise UnsupportedError(f"bias has shape {bias.shape}", "export the model again")
    window, rows, columns = _window(node, (weights.shape[2], weights.shape[3]), (height, width))
    # (C, O / groups, kh, kw) -> (O, kh, kw, C / groups)
    parts = [part.transpose(1, 2, 3, 0) for part in np.split(weights, groups)]
    turned = np.ascontiguousarray(np.concatenate(parts))
    conv = ConvTranspose(
        node.name, (node.data(0),), node.output, weights=turned, bias=bias, window=window, groups=groups
    )
    node.context.add(conv, node.window_result(outputs, rows, columns))


def _window(node: OnnxNode, kernel: tuple[int, int], sizes: tuple[int, int]) -> tuple[Window, int, int]:
    """The window and the output's rows and columns; pads are what is cut off the full result."""
    strides, dilations = read_pair(node, "strides", 1), read_pair(node, "dilations", 1)
    check_limits(Window(kernel, strides, dilations=dilations), *sizes)
    extra = _spatial(node, "output_padding", 0)
    full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(sizes, strides, kernel, dilations, strict=True)]
    longest = [f + e for f, e in zip(full, extra, strict=True)]
    pads = read_pads(node)
    auto = node.text("auto_pad", "NOTSET")
    wanted: list[int] | None = None
    if node.attributes.get("output_shape") is not None:
        wanted = list(_spatial(node, "output_shape", 1))
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(sizes, strides, strict=True)]
    elif auto not in ("NOTSET", "VALID"):
        raise UnsupportedError(f"auto_pad is '{auto}'", "give explicit pads")
    if wanted is not None:
        pads = _pads_for(longest, wanted, upper=auto == "SAME_UPPER")
    rows, columns = (n - pads[axis] - pads[axis + 2] for axis, n in enumerate(longest))
    window = Window(kernel, strides, pads, dilations)
    if min(extra) < 0 or max(extra) > MAX_STEP or min(rows, columns) < 1:
        raise UnsupportedError(f"makes {rows} x {columns} with output_padding {extra}", "export the model again")
    check_limits(window, max(rows, sizes[0]), max(columns, sizes[1]))
    return window, rows, columns


def _spatial(node: OnnxNode, name: str, default: int) -> tuple[int, int]:
    """As `read_pair`, with `default` for the one row of a sequence."""
    pair = read_pair(node, name, default)
    return (default, pair[1]) if len(node.shape()) == 2 else pair


def _pads_for(longest: list[int], wanted: list[int], *, upper: bool) -> tuple[int, int, int, int]:
    """Cuts that leave `wanted` rows and columns; the odd one after the result with `upper`, before it without."""
    cuts = [max(n - w, 0) for n, w in zip(longest, wanted, strict=True)]
    small, large = [c // 2 for c in cuts], [c - c // 2 for c in cuts]
    before, after = (small, large) if upper else (large, small)
    if any(w > n for n, w in zip(longest, wanted, strict=True)):
        raise UnsupportedError(f"wants {wanted} of {longest}", "use output_padding for larger outputs")
    return before[0], before[1], after[0], after[1]
