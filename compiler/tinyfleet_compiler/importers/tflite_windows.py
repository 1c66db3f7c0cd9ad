"""Importers of TFLite's convolutions, pools and paddings, all (1, H, W, C)."""

from typing import Any

import tflite

from tinyfleet_compiler.graph import AveragePool, Conv, MaxPool, Window, elements
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.tflite_context import TfNode, activation_bounds, sample_shape
from tinyfleet_compiler.importers.tflite_weights import LayerWeights, read_weights
from tinyfleet_compiler.importers.windows import check_limits, same_pads


def import_conv_2d(node: TfNode) -> None:
    """CONV_2D, weights (O, kh, kw, C / groups), dilation and grouped forms included."""
    channels = _read_shape(node)[2]
    weights = _declared(node, axis=0)
    outputs, _, _, per_group = weights.real.shape
    if channels % per_group or outputs % (channels // per_group):
        raise UnsupportedError(f"weights {weights.real.shape} do not fit {channels} channels", "export again")
    options = node.item.options(tflite.Conv2DOptions)
    _add_conv(node, weights, options, channels // per_group)


def import_depthwise_conv_2d(node: TfNode) -> None:
    """DEPTHWISE_CONV_2D, weights (1, kh, kw, C x times); the multiplier is what the shapes say."""
    channels = _read_shape(node)[2]
    weights = _declared(node, axis=3)
    outputs, one = weights.real.shape[:2]
    if one != 1 or outputs % channels:
        raise UnsupportedError(f"weights {node.tensor(1).shape} do not fit {channels} channels", "export again")
    options = node.item.options(tflite.DepthwiseConv2DOptions)
    turned = LayerWeights(weights.real.transpose(0, 2, 3, 1), weights.bias, weights.block)
    _add_conv(node, turned, options, channels)


def _read_shape(node: TfNode) -> tuple[int, int, int]:
    """(H, W, C) of the input; a sequence whose dilation was folded has one row or one column."""
    dilation = node.item.dilation
    if dilation is None or len(dilation.block) == 2:
        return node.image_shape()
    if len(node.shape()) != 2 or len(dilation.inner) != 4:
        raise UnsupportedError(f"works on {len(node.shape()) + 1} dimensions", "use (1, T, C) or (1, H, W, C)")
    length, channels = node.shape()
    return (1, length, channels) if dilation.inner[1] == 1 else (length, 1, channels)


def _dilated_window(node: TfNode, kernel: tuple[int, int], options: Any, shape: tuple[int, int]) -> Window:
    """The window of a convolution that was made dilated by moves to the batch and back."""
    dilation = node.item.dilation
    assert dilation is not None
    image = len(dilation.block) == 2
    across = not image and dilation.inner[1] == 1
    steps = (1, dilation.block[-1]) if across else (dilation.block[0], dilation.block[1] if image else 1)
    top, left = (0, dilation.before[-1]) if across else (dilation.before[0], dilation.before[1] if image else 0)
    plain = (options.StrideH(), options.StrideW(), options.DilationHFactor(), options.DilationWFactor())
    if plain != (1, 1, 1, 1) or options.Padding() != tflite.Padding.VALID:
        raise UnsupportedError(
            "is dilated by moves around it, and has strides, dilations or padding", "use one of both"
        )
    result = sample_shape(node.output)
    rows, columns = (1, result[0]) if across else (result[0], result[1] if len(result) == 3 else 1)
    extents = [(k - 1) * d for k, d in zip(kernel, steps, strict=True)]
    after = rows + extents[0] - shape[0] - top, columns + extents[1] - shape[1] - left
    if min(after) < 0:
        raise UnsupportedError("is dilated by moves around it that cut its input", "write it with a dilation")
    return Window(kernel, (1, 1), (top, left, *after), steps)


def _declared(node: TfNode, axis: int) -> LayerWeights:
    if len(node.tensor(1).shape) != 4:
        raise UnsupportedError(f"weights have shape {node.tensor(1).shape}", "give four dimensions")
    node.context.define(node.output.index)  # multipliers need the output's scale
    return read_weights(node, axis)


def _add_conv(node: TfNode, weights: LayerWeights, options: Any, groups: int) -> None:
    height, width, channels = _read_shape(node)
    outputs, rows, columns, _ = weights.real.shape
    if node.item.dilation is None:
        dilations = (options.DilationHFactor(), options.DilationWFactor())
        window = _window((rows, columns), options, dilations, height, width)
    else:
        window = _dilated_window(node, (rows, columns), options, (height, width))
        check_limits(window, height, width)
    low, high = activation_bounds(options.FusedActivationFunction())
    output = node.context.names[node.output.index]
    source = node.view(0, (height, width, channels), f"{output}/image")
    shape = (*window.out_size(height, width), outputs)
    known: dict[str, Any] = {"weights": weights.real, "bias": weights.bias, "window": window, "groups": groups}
    known |= {"low": low, "high": high}
    if elements(shape) != elements(sample_shape(node.output)):
        raise UnsupportedError(f"gives {shape}, the file says {sample_shape(node.output)}", "export it again")

    def made(name: str) -> Conv:
        if weights.block is not None:
            node.context.weights[name] = weights.block
        return Conv(node.name, (source,), name, **known)

    node.add_behind_view(node.output.index, shape, made)
    node.note_island()


def import_max_pool_2d(node: TfNode) -> None:
    """MAX_POOL_2D."""
    window, low, high = _pool(node)
    output = node.context.names[node.output.index]
    pool = MaxPool(node.name, (node.data(),), output, low=low, high=high, window=window)
    node.add(pool, _pooled(node, window))


def import_average_pool_2d(node: TfNode) -> None:
    """AVERAGE_POOL_2D: taps outside do not count."""
    window, low, high = _pool(node)
    output = node.context.names[node.output.index]
    pool = AveragePool(node.name, (node.data(),), output, low=low, high=high, window=window)
    node.add(pool, _pooled(node, window))


def _pool(node: TfNode) -> tuple[Window, float, float]:
    height, width, _ = node.image_shape()
    options = node.item.options(tflite.Pool2DOptions)
    window = _window((options.FilterHeight(), options.FilterWidth()), options, (1, 1), height, width)
    return window, *activation_bounds(options.FusedActivationFunction())


def _pooled(node: TfNode, window: Window) -> tuple[int, int, int]:
    height, width, channels = node.image_shape()
    return (*window.out_size(height, width), channels)


def _window(kernel: tuple[int, int], options: Any, dilations: tuple[int, int], height: int, width: int) -> Window:
    if options.Padding() not in (tflite.Padding.SAME, tflite.Padding.VALID):
        raise UnsupportedError(f"has padding {options.Padding()}", "use SAME or VALID")
    window = Window(kernel, (options.StrideH(), options.StrideW()), (0, 0, 0, 0), dilations)
    check_limits(window, height, width)
    if options.Padding() == tflite.Padding.SAME:
        window = same_pads(window, height, width, upper=True)
        check_limits(window, height, width)
    if min(window.out_size(height, width)) < 1:
        raise UnsupportedError(f"kernel {kernel} is larger than the input ({height}, {width})", "use SAME padding")
    return window
