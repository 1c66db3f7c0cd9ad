"""Importers of TFLite's functions of one element: on the device a table, its entries as TFLM's integers give them."""

import numpy as np
import numpy.typing as npt
import tflite

from tinyfleet_compiler.graph import Lookup
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.tflite_context import TfNode
from tinyfleet_compiler.importers.unary import sigmoid
from tinyfleet_compiler.numerics import (
    INT32_MAX,
    exp_negative,
    minus_one_plus_ratio,
    quantize_multiplier,
    reciprocal_one_plus,
    rescale,
    round_shift,
)
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.quantize.taken import TakenConstant

Int64 = npt.NDArray[np.int64]
_INTEGER_BITS = 4
_MOST_SHIFT = 22


def import_logistic(node: TfNode) -> None:
    """LOGISTIC: writes scale 1/256, zero point -128."""
    output = _define(node, Quantization(1.0 / 256.0, -128))
    node.add(Lookup(node.name, (node.data(),), output, function=sigmoid, limits=(0.0, 1.0)), node.shape())
    if node.quantized:
        x, inside, low = _fixed_point(node.quantization())
        positive = reciprocal_one_plus(exp_negative(-np.abs(x), _INTEGER_BITS))
        whole = np.where(x > 0, positive, np.where(x < 0, INT32_MAX - positive, 1 << 30))
        _keep(node, output, np.where(inside, round_shift(whole, 23) - 128, np.where(low, -128, 127)))


def import_tanh(node: TfNode) -> None:
    """TANH: writes scale 1/128, zero point 0."""
    output = _define(node, Quantization(1.0 / 128.0, 0))
    node.add(Lookup(node.name, (node.data(),), output, function=np.tanh, limits=(-1.0, 1.0)), node.shape())
    if node.quantized:
        x, inside, low = _fixed_point(node.quantization())
        # The same bits with one integer bit more are 2x: tanh(x) = (1 - exp(-2x)) / (1 + exp(-2x)).
        whole = np.sign(x) * minus_one_plus_ratio(exp_negative(-np.abs(x), _INTEGER_BITS + 1))
        _keep(node, output, np.where(inside, round_shift(whole, 24), np.where(low, -128, 127)))


def import_leaky_relu(node: TfNode) -> None:
    """LEAKY_RELU with one slope."""
    alpha = float(np.float32(node.item.options(tflite.LeakyReluOptions).Alpha()))
    if not np.isfinite(alpha):
        raise UnsupportedError(f"has slope {alpha}", "use a finite slope")
    output = node.context.define(node.output.index)

    def function(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.where(x >= 0.0, x, alpha * x)

    node.add(Lookup(node.name, (node.data(),), output, function=function), node.shape())
    if node.quantized:
        source, result = node.quantization(), node.context.parameters[output]
        x = np.arange(-128, 128, dtype=np.int64) - source.zero_point
        slope = source.scale * alpha / result.scale
        y = np.where(x >= 0, _rescaled(x, source.scale / result.scale), _rescaled(x, slope))
        _keep(node, output, y + result.zero_point)


def _rescaled(x: Int64, ratio: float) -> Int64:
    multiplier, shift = quantize_multiplier(abs(ratio))
    if shift > _MOST_SHIFT:
        raise UnsupportedError("has a vanishing output scale", "quantise again with typical samples")
    return rescale(x, multiplier if ratio >= 0 else -multiplier, shift)


def _define(node: TfNode, needed: Quantization) -> str:
    output = node.context.define(node.output.index)
    if node.quantized and node.context.parameters[output] != needed:
        raise UnsupportedError(
            f"has another output scale than {needed.scale:g} or zero point than {needed.zero_point}",
            "quantise it again",
        )
    return output


def _fixed_point(source: Quantization) -> tuple[Int64, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """All 256 inputs as real numbers with four integer bits; which of them fit, and which lie below."""
    multiplier, shift = quantize_multiplier(source.scale * float(1 << (31 - _INTEGER_BITS)))
    radius = int(((1 << _INTEGER_BITS) - 1) * float(1 << (31 - _INTEGER_BITS)) / 2.0**shift)
    x = np.arange(-128, 128, dtype=np.int64) - source.zero_point
    inside, low = (x > -radius) & (x < radius), x <= -radius
    return rescale(np.where(inside, x, 0), multiplier, shift), inside, low


def _keep(node: TfNode, output: str, table: npt.NDArray[np.int64]) -> None:
    codes = np.clip(table, -128, 127).astype(np.int8)
    node.context.constants[output] = TakenConstant(codes, node.context.parameters[output])
