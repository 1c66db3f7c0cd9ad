"""Integer weights, biases and multipliers of a quantised layer, exactly as TFLM would prepare them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.tflite_context import TfNode, channel_scales, symmetric_codes
from tinyfleet_compiler.importers.tflite_file import EXPORT_AGAIN
from tinyfleet_compiler.numerics import quantize_multiplier
from tinyfleet_compiler.operators import Element
from tinyfleet_compiler.quantize.weights import WeightBlock, reaches_too_far

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """Real weights (O, ...) and biases (O,); what the image holds where the model is quantised."""

    real: Floats
    bias: Floats
    block: WeightBlock | None


def read_weights(node: TfNode, axis: int) -> LayerWeights:
    """Inputs 1 and 2 of a layer, output channels along `axis` moved to the front. Raises `UnsupportedError`."""
    tensor = node.tensor(1)
    if len(tensor.shape) <= axis or any(d < 1 for d in tensor.shape):
        raise UnsupportedError(f"weights have shape {tensor.shape}", EXPORT_AGAIN)
    if not node.is_constant(1) or (node.has(2) and not node.is_constant(2)):
        raise UnsupportedError("has weights that are no constants", "export the model with constant weights")
    channels = tensor.shape[axis]
    if not node.quantized:
        return _float_weights(node, axis, channels)
    rows = np.ascontiguousarray(np.moveaxis(symmetric_codes(tensor), axis, 0))
    if node.operator != "FULLY_CONNECTED" and tensor.type != "UINT8" and tensor.zero_points.any():
        raise UnsupportedError("has int8 weights with a zero point", "quantise weights symmetrically")
    scales = channel_scales(tensor, axis)
    biases = _integer_bias(node, channels)
    packed = tensor.type == "INT4" and node.quantization().element is Element.INT8 and _fits_int4(rows)
    block = _block(node, rows.reshape(channels, -1), biases, scales, Element.INT4 if packed else Element.INT8)
    real = rows * scales.reshape(-1, *[1] * (rows.ndim - 1))
    bias = biases * scales * node.quantization().scale
    return LayerWeights(real.astype(np.float32), bias.astype(np.float32), block)


def _float_weights(node: TfNode, axis: int, channels: int) -> LayerWeights:
    values = node.tensor(1).values
    bias = node.tensor(2).values if node.has(2) else np.zeros(channels, np.float32)
    if values.dtype != np.float32 or bias.dtype != np.float32:
        raise UnsupportedError(
            "has integer weights on float activations", "quantise the activations too, or nothing at all"
        )
    if bias.shape != (channels,):
        raise UnsupportedError(f"bias has shape {bias.shape}", EXPORT_AGAIN)
    return LayerWeights(np.ascontiguousarray(np.moveaxis(values, axis, 0)), bias.astype(np.float32), None)


def _integer_bias(node: TfNode, channels: int) -> npt.NDArray[np.int64]:
    """Codes at input scale x weight scale; a scale of the bias's own has no say in TFLM either."""
    if not node.has(2):
        return np.zeros(channels, np.int64)
    bias = node.tensor(2).values
    wanted = np.dtype(np.int64 if node.quantization().element is Element.INT16 else np.int32)
    if bias.dtype != wanted or bias.shape != (channels,):
        raise UnsupportedError(f"bias is {bias.dtype} {bias.shape}", f"use an {wanted} bias of {channels} values")
    return bias.astype(np.int64)


def _fits_int4(rows: npt.NDArray[np.int8]) -> bool:
    return bool(rows.min() >= -8 and rows.max() <= 7)


def _block(
    node: TfNode,
    rows: npt.NDArray[np.int8],
    biases: npt.NDArray[np.int64],
    scales: npt.NDArray[np.float64],
    stored: Element,
) -> WeightBlock:
    source, result = node.quantization(), node.context.parameters[node.context.names[node.output.index]]
    wide = rows.astype(np.int64)
    folded = biases - source.zero_point * wide.sum(axis=1)
    pairs = [quantize_multiplier(source.scale * float(s) / result.scale) for s in scales]
    if reason := reaches_too_far(rows, folded, pairs, source.element):
        raise UnsupportedError(reason, "use fewer inputs per output or quantise again with typical samples")
    return WeightBlock(
        rows,
        folded,
        np.array([m for m, _ in pairs], dtype=np.int32),
        np.array([s for _, s in pairs], dtype=np.int8),
        stored,
    )
