"""Importers of TFLite's operators without a window: layers over the last axis, softmax, reshapes, borders."""

import numpy as np
import tflite

from tinyfleet_compiler.check_ops import MOST_EXPONENTIALS
from tinyfleet_compiler.graph import (
    ArgMax,
    Clip,
    Convert,
    Gemm,
    L2Normalize,
    LogSoftmax,
    Softmax,
    TopK,
    Transpose,
    elements,
)
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.tflite_context import (
    CODES,
    TfNode,
    activation_bounds,
    read_quantization,
    sample_shape,
)
from tinyfleet_compiler.importers.tflite_file import EXPORT_AGAIN
from tinyfleet_compiler.importers.tflite_weights import read_weights
from tinyfleet_compiler.layout import MOST_SQUARES
from tinyfleet_compiler.numerics import quantize_multiplier
from tinyfleet_compiler.operators import Element
from tinyfleet_compiler.quantize.parameters import FLOAT, LOG_SOFTMAX, MIN_SCALE, UNIT, Quantization

SOFTMAX_OUTPUT = Quantization(1.0 / 256.0, -128)
SOFTMAX_OUTPUT_INT16 = Quantization(2.0**-15, 0, Element.INT16)
MOST_SOFTMAX_SCALE = 2.0
"""Int16 steps of more would leave int32 on their way to the table."""
MOST_LEFT_SHIFT_INT16 = 14
MOST_LEFT_SHIFT = 22
"""Codes minus zero point take 9 bits: so many to the left stay in int32."""


def import_fully_connected(node: TfNode) -> None:
    """FULLY_CONNECTED, weights (O, I), any number of rows."""
    options = node.item.options(tflite.FullyConnectedOptions)
    if options.WeightsFormat() != tflite.FullyConnectedOptionsWeightsFormat.DEFAULT:
        raise UnsupportedError("has shuffled weights", "export with the default weights format")
    source, output = node.data(), node.context.define(node.output.index)
    if len(node.tensor(1).shape) != 2:
        raise UnsupportedError(f"weights have shape {node.tensor(1).shape}", "give two dimensions")
    weights = read_weights(node, axis=0)
    outputs, features = weights.real.shape
    size = elements(node.shape())
    if size % features or elements(sample_shape(node.output)) != size // features * outputs:
        raise UnsupportedError(f"weights {weights.real.shape} do not fit {node.shape()}", EXPORT_AGAIN)
    if weights.block is not None:
        node.context.weights[output] = weights.block
    if node.shape()[-1] != features:
        rows = f"{node.name}/rows"
        node.context.views[rows] = source
        node.context.shapes[rows] = (features,) if size == features else (size // features, features)
        source = rows
    low, high = activation_bounds(options.FusedActivationFunction())
    node.add(Gemm(node.name, (source,), output, low=low, high=high, weights=weights.real, bias=weights.bias))


def import_softmax(node: TfNode) -> None:
    """SOFTMAX over the last axis, with its beta."""
    beta = float(node.item.options(tflite.SoftmaxOptions).Beta())
    shape = node.shape()
    if not np.isfinite(beta) or beta <= 0 or shape[-1] > MOST_EXPONENTIALS:
        raise UnsupportedError(
            f"has beta {beta:g} over {shape[-1]} classes", f"use at most {MOST_EXPONENTIALS} classes"
        )
    output = node.context.names[node.output.index]
    node.add(Softmax(node.name, (node.data(),), output, beta=beta), shape)
    needed = SOFTMAX_OUTPUT_INT16 if node.is_wide() else SOFTMAX_OUTPUT
    if node.quantized and node.context.parameters[output] != needed:
        asked = f"{needed.scale:g} or zero point than {needed.zero_point}"
        raise UnsupportedError(f"has another output scale than {asked}", "quantise it again")
    if node.is_wide() and node.quantization().scale * beta > MOST_SOFTMAX_SCALE:
        raise UnsupportedError("has a huge input scale", "quantise again with typical samples")
    if node.quantized and not node.is_wide() and node.quantization().scale * beta < MIN_SCALE:
        raise UnsupportedError("has a vanishing input scale", "quantise again with typical samples")


def import_log_softmax(node: TfNode) -> None:
    """LOG_SOFTMAX over the last axis; int8 in steps of 1/16 up to 0."""
    shape, output = node.shape(), node.context.names[node.output.index]
    if shape[-1] > MOST_EXPONENTIALS:
        raise UnsupportedError(f"has {shape[-1]} classes", f"use at most {MOST_EXPONENTIALS} classes")
    node.add(LogSoftmax(node.name, (node.data(),), output), shape)
    if node.quantized and node.context.parameters[output] != LOG_SOFTMAX:
        raise UnsupportedError("has another output scale than 1/16 or zero point than 127", "quantise it again")
    if node.quantized and node.quantization().scale < MIN_SCALE:
        raise UnsupportedError("has a vanishing input scale", "quantise again with typical samples")


def import_l2_normalization(node: TfNode) -> None:
    """L2_NORMALIZATION over the last axis; int8 in steps of 1/128."""
    activation_bounds(node.item.options(tflite.L2NormOptions).FusedActivationFunction())
    shape, output = node.shape(), node.context.names[node.output.index]
    if shape[-1] > MOST_SQUARES:
        raise UnsupportedError(f"normalises {shape[-1]} values", f"use at most {MOST_SQUARES}")
    node.add(L2Normalize(node.name, (node.data(),), output), shape)
    if node.quantized and node.context.parameters[output] != UNIT:
        raise UnsupportedError("has another output scale than 1/128 or zero point than 0", "quantise it again")


def import_relu(node: TfNode) -> None:
    """RELU with a scale of its own, RELU6 and RELU_N1_TO_1 with their input's."""
    bounds = {"RELU": (0.0, float("inf")), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}
    low, high = bounds[node.operator]
    output = node.context.names[node.output.index]
    node.add(Clip(node.name, (node.data(),), output, low=low, high=high), node.shape())
    if not node.quantized:
        return
    if node.operator != "RELU":
        node.keep_quantization()
    _check_ratio(node.quantization(), node.context.parameters[output])


def _check_ratio(source: Quantization, result: Quantization) -> None:
    most = MOST_LEFT_SHIFT_INT16 if Element.INT16 in (source.element, result.element) else MOST_LEFT_SHIFT
    if quantize_multiplier(source.scale / result.scale)[1] > most:
        raise UnsupportedError("keeps a vanishing part of its input's range", "quantise again with typical samples")


def import_quantize(node: TfNode) -> None:
    """QUANTIZE: a float model input becomes codes where the device's input does; codes change scale."""
    output = node.output
    if node.source_type(0) == "FLOAT32":
        if node.quantized and _is_real(node):
            name = node.context.define(output.index)
            node.context.nodes.append(Convert(node.name, (node.context.names[node.inputs[0]],), name))
        else:
            _quantize_input(node)
        return
    before, after = node.quantization(), read_quantization(output)
    if before == after:
        node.add_view()
        return
    name = node.context.names[output.index]
    node.add(Clip(node.name, (node.data(),), name), node.shape())
    _check_ratio(before, after)


def _quantize_input(node: TfNode) -> None:
    index, output, context = node.inputs[0], node.output, node.context
    _check_border(node, index in context.model.inputs and node.quantized, "quantises a float tensor inside the model")
    quantization = read_quantization(output)
    if sample_shape(node.tensor(0)) != sample_shape(output):
        raise UnsupportedError("changes the shape", EXPORT_AGAIN)
    if index in context.known and context.parameters[context.names[index]] != quantization:
        raise UnsupportedError("quantises an input a second time, otherwise", "quantise each input once")
    context.define(index, quantization)
    context.aliases[output.index] = index


def _is_real(node: TfNode) -> bool:
    """Whether an operator's first input holds real numbers on the device too."""
    context, index = node.context, node.inputs[0]
    return index in context.known and context.parameters[context.names[index]] == FLOAT


def import_dequantize(node: TfNode) -> None:
    """DEQUANTIZE of a model output: the device gives out the codes, whose scale the image holds. Others stay."""
    context, index = node.context, node.output.index
    read = any(index in operator.inputs for operator in context.model.operators)
    if node.inputs[0] not in context.known or node.source_type(0) not in CODES:
        raise UnsupportedError("reads no quantised tensor", EXPORT_AGAIN)
    if index in context.model.outputs and not read:
        context.aliases[index] = node.inputs[0]
        return
    node.add(Convert(node.name, (context.names[node.inputs[0]],), context.names[index]))


def _check_border(node: TfNode, holds: bool, reason: str) -> None:
    if not holds:
        raise UnsupportedError(reason, "quantise the whole model, floats only at its inputs and outputs")


def import_reshape(node: TfNode) -> None:
    """RESHAPE, SQUEEZE, EXPAND_DIMS: what the file says the output's shape is."""
    node.add_view()


def import_cast(node: TfNode) -> None:
    """CAST between real numbers, and of indices: the codes stay."""
    if node.inputs[0] not in node.context.known:
        raise UnsupportedError("reads no activation", "fold constants and export the model again")
    source = node.context.names[node.inputs[0]]
    written = next((n for n in node.context.nodes if node.context.views.get(source, source) == n.output), None)
    whole = isinstance(written, ArgMax) or (isinstance(written, TopK) and written.indices)
    if not whole and not (node.source_type(0) == "FLOAT32" == node.output.type):
        raise UnsupportedError(f"casts {node.source_type(0)} to {node.output.type}", "cast indices, or nothing")
    node.context.aliases[node.output.index] = node.inputs[0]


def import_transpose(node: TfNode) -> None:
    """TRANSPOSE that leaves the batch where it is."""
    full, perm = node.tensor(0).shape, node.integers(1)
    if sorted(perm) != list(range(len(full))):
        raise UnsupportedError(f"has order {perm} for {len(full)} axes", EXPORT_AGAIN)
    missing = len(full) - len(node.shape())
    if missing and perm[0] != 0:
        raise UnsupportedError(f"moves the batch ({perm})", "keep axis 0 first")
    order = tuple(axis - missing for axis in perm[missing:])
    shape = tuple(node.shape()[axis] for axis in order)
    output = node.context.names[node.output.index]
    node.add(Transpose(node.name, (node.data(),), output, perm=order), shape)
    node.keep_quantization()
