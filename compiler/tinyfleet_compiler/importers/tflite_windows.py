"""Importers of TFLite's convolutions, pools and paddings, all (1, H, W, C)."""

from typing import Any

import tflite

from tinyfleet_compiler.graph import AveragePool, Conv, MaxPool, Window
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.tflite_context import TfNode, activation_bounds
from tinyfleet_compiler.importers.tflite_weights import LayerWeights, read_weights
from tinyfleet_compiler.importers.windows import check_limits, same_pads


def import_conv_2d(node: TfNode) -> None:
    """CONV_2D, weights (O, kh, kw, C / groups), dilation and grouped forms included."""
    channels = node.image_shape()[2]
    weights = _declared(node, axis=0)
    outputs, _, _, per_group = weights.real.shape
    if channels % per_group or outputs % (channels // per_group):
        raise UnsupportedError(f"weights {weights.real.shape} do not fit {channels} channels", "export again")
    options = node.item.options(tflite.Conv2DOptions)
    _add_conv(node, weights, options, channels // per_group)


def import_depthwise_conv_2d(node: TfNode) -> None:
    """DEPTHWISE_CONV_2D, weights (1, kh, kw, C x times); the multiplier is what the shapes say."""
    channels = node.image_shape()[2]
    weights = _declared(node, axis=3)
    outputs, one = weights.real.shape[:2]
    if one != 1 or outputs % channels:
        raise UnsupportedError(f"weights {node.tensor(1).shape} do not fit {channels} channels", "export again")
    options = node.item.options(tflite.DepthwiseConv2DOptions)
    turned = LayerWeights(weights.real.transpose(0, 2, 3, 1), weights.bias, weights.block)
    _add_conv(node, turned, options, channels)


def _declared(node: TfNode, axis: int) -> LayerWeights:
    if len(node.tensor(1).shape) != 4:
        raise UnsupportedError(f"weights have shape {node.tensor(1).shape}", "give four dimensions")
    node.context.define(node.output.index)  # multipliers need the output's scale
    return read_weights(node, axis)


def _add_conv(node: TfNode, weights: LayerWeights, options: Any, groups: int) -> None:
    height, width, _ = node.image_shape()
    outputs, rows, columns, _ = weights.real.shape
    dilations = (options.DilationHFactor(), options.DilationWFactor())
    window = _window((rows, columns), options, dilations, height, width)
    low, high = activation_bounds(options.FusedActivationFunction())
    output = node.context.names[node.output.index]
    if weights.block is not None:
        node.context.weights[output] = weights.block
    node.add(
        Conv(
            node.name,
            (node.data(),),
            output,
            low=low,
            high=high,
            weights=weights.real,
            bias=weights.bias,
            window=window,
            groups=groups,
        ),
        (*window.out_size(height, width), outputs),
    )


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
