"""Importers of TFLite's BATCH_MATMUL, TOPK_V2, ARG_MAX, ARG_MIN and TRANSPOSE_CONV."""

import numpy as np
import tflite

from tinyfleet_compiler.check_ops import MOST_CLASSES
from tinyfleet_compiler.check_products import MOST_DEPTH
from tinyfleet_compiler.graph import ArgMax, ConvTranspose, MatMul, Shape, TopK, Window
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.tflite_context import TfNode, activation_bounds, sample_shape
from tinyfleet_compiler.importers.tflite_file import EXPORT_AGAIN
from tinyfleet_compiler.importers.tflite_rearrange import sample_axis
from tinyfleet_compiler.importers.tflite_weights import read_weights
from tinyfleet_compiler.importers.windows import check_limits
from tinyfleet_compiler.quantize.parameters import Quantization

_INDICES = Quantization(1.0, -128)


def import_batch_matmul(node: TfNode) -> None:
    """BATCH_MATMUL of two activations; transposed operands are read in the order they have."""
    options = node.item.options(tflite.BatchMatMulOptions)
    result = sample_shape(node.output)
    rank = max(len(node.shape(0)), len(node.shape(1)), 2)
    names = tuple(
        node.view(i, (1,) * (rank - len(node.shape(i))) + node.shape(i), f"{node.name}/side{i}") for i in (0, 1)
    )
    straight, turned = tuple(range(rank)), (*range(rank - 2), rank - 1, rank - 2)
    a_axes, b_axes = turned if options.AdjX() else straight, turned if options.AdjY() else straight
    a, b = (tuple(node.context.shapes[n][x] for x in axes) for n, axes in zip(names, (a_axes, b_axes), strict=True))
    if a[-1] != b[-2] or a[-1] > MOST_DEPTH:
        raise UnsupportedError(f"multiplies {a} and {b}", f"use equal depths of at most {MOST_DEPTH}")
    shape = (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
    if np.prod(shape) != np.prod(result):
        raise UnsupportedError(f"multiplies {a} and {b} to {result}", EXPORT_AGAIN)
    node.context.define(node.output.index)
    node.add_behind_view(
        node.output.index,
        shape,
        lambda out: MatMul(node.name, names, out, a_axes=a_axes, b_axes=b_axes, out_axes=straight),
    )


def import_arg_max(node: TfNode) -> None:
    """ARG_MAX and ARG_MIN along an axis of one sample; the device writes the index less 128."""
    axis, shape = sample_axis(node, node.integers(1)[0]), node.shape()
    if shape[axis] > MOST_CLASSES:
        raise UnsupportedError(f"chooses among {shape[axis]} entries", f"use at most {MOST_CLASSES}, or end before it")
    node.context.define(node.output.index, _INDICES)
    kept = tuple(1 if at == axis else size for at, size in enumerate(shape))
    smallest = node.operator == "ARG_MIN"
    node.add_behind_view(
        node.output.index, kept, lambda out: ArgMax(node.name, (node.data(),), out, axis=axis, smallest=smallest)
    )


def import_top_k(node: TfNode) -> None:
    """TOPK_V2 over the last axis; the device writes indices less 128."""
    shape, k = node.shape(), node.integers(1)[0]
    if not 1 <= k <= shape[-1]:
        raise UnsupportedError(f"takes {k} of {shape[-1]} values", "take at least one, and no more than there are")
    for number, index in enumerate(node.item.outputs):
        if number == 1 and not node.is_read(index):
            continue
        if number == 1 and shape[-1] > MOST_CLASSES:
            raise UnsupportedError(f"gives indices of {shape[-1]} values", f"choose among {MOST_CLASSES} at most")
        name = node.define_output(index) if number == 0 else node.context.define(index, _INDICES)
        if node.output_shape(index) != (*shape[:-1], k):
            raise UnsupportedError(f"gives {node.output_shape(index)} of {shape}", EXPORT_AGAIN)
        node.context.nodes.append(TopK(name, (node.data(),), name, axis=len(shape) - 1, k=k, indices=number == 1))


def import_transpose_conv(node: TfNode) -> None:
    """TRANSPOSE_CONV, weights (O, kh, kw, C), with and without a bias."""
    node.reorder((2, 1, 3) if node.has(3) else (2, 1))
    height, width, channels = node.image_shape()
    options = node.item.options(tflite.TransposeConvOptions)
    node.context.define(node.output.index)
    weights = read_weights(node, 0)
    if weights.real.ndim != 4 or weights.real.shape[3] != channels:
        raise UnsupportedError(f"weights {weights.real.shape} do not fit {channels} channels", EXPORT_AGAIN)
    kernel, strides = (weights.real.shape[1], weights.real.shape[2]), (options.StrideH(), options.StrideW())
    rows, columns, outputs = sample_shape(node.output)
    sizes = ((height, rows), (width, columns))
    check_limits(Window(kernel, strides), height, width)
    pads = [_pad(options.Padding(), n, m, k, s) for (n, m), k, s in zip(sizes, kernel, strides, strict=True)]
    window = Window(kernel, strides, (pads[0][0], pads[1][0], pads[0][1], pads[1][1]))
    check_limits(window, max(rows, height), max(columns, width))
    low, high = activation_bounds(options.FusedActivationFunction())
    output = node.context.names[node.output.index]
    if weights.block is not None:
        node.context.weights[output] = weights.block
    conv = ConvTranspose(
        node.name,
        (node.data(),),
        output,
        low=low,
        high=high,
        weights=weights.real,
        bias=weights.bias,
        window=window,
        groups=1,
    )
    node.add(conv, (rows, columns, outputs))


def _pad(padding: int, size: int, result: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) that TFLM cuts off: what a convolution from `result` down to `size` would pad with."""
    expected = -(-result // stride) if padding == tflite.Padding.SAME else (result - kernel) // stride + 1
    if padding not in (tflite.Padding.SAME, tflite.Padding.VALID) or expected != size:
        raise UnsupportedError(f"makes {result} of {size} with padding {padding}", "use SAME or VALID, and their size")
    total = max((size - 1) * stride + kernel - result, 0)
    return total // 2, total - total // 2


__all__ = ["Shape", "import_arg_max", "import_batch_matmul", "import_top_k", "import_transpose_conv"]
