"""Importers of TFLite's functions of one element: on the device a table, its entries as TFLM's integers give them."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tflite

from tinyfleet_compiler.build_elementwise import lookup_table
from tinyfleet_compiler.functions import sigmoid
from tinyfleet_compiler.graph import Lookup, PRelu, Unary, elements
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.tflite_context import TfNode, read_quantization
from tinyfleet_compiler.importers.unary import erf, gelu_tanh
from tinyfleet_compiler.importers.unary_float import leaky_form
from tinyfleet_compiler.numerics import (
    INT32_MAX,
    exp_negative,
    inverse_square_root,
    minus_one_plus_ratio,
    quantize_multiplier,
    reciprocal_one_plus,
    rescale,
    round_half_away,
    round_shift,
)
from tinyfleet_compiler.operators import Element, Function
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.quantize.taken import TakenConstant

Int64 = npt.NDArray[np.int64]
_INTEGER_BITS = 4
_MOST_SHIFT = 22


def import_logistic(node: TfNode) -> None:
    """LOGISTIC: writes scale 1/256, zero point -128; int16 at 2^-15."""
    output = _define(node, Quantization(1.0 / 256.0, -128))
    node.add(
        Lookup(node.name, (node.data(),), output, function=sigmoid, limits=(0.0, 1.0), unary=Unary(Function.SIGMOID)),
        node.shape(),
    )
    if node.quantized and not node.is_wide():
        x, inside, low = _fixed_point(node.quantization())
        positive = reciprocal_one_plus(exp_negative(-np.abs(x), _INTEGER_BITS))
        whole = np.where(x > 0, positive, np.where(x < 0, INT32_MAX - positive, 1 << 30))
        _keep(node, output, np.where(inside, round_shift(whole, 23) - 128, np.where(low, -128, 127)))


def import_tanh(node: TfNode) -> None:
    """TANH: writes scale 1/128, zero point 0; int16 at 2^-15."""
    output = _define(node, Quantization(1.0 / 128.0, 0))
    node.add(
        Lookup(node.name, (node.data(),), output, function=np.tanh, limits=(-1.0, 1.0), unary=Unary(Function.TANH)),
        node.shape(),
    )
    if node.quantized and not node.is_wide():
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
    if node.is_wide() and alpha < 0.0:
        raise UnsupportedError(f"is int16 with slope {alpha}", "use a slope of at least 0, or quantise to int8")

    def function(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.where(x >= 0.0, x, alpha * x)

    node.add(
        Lookup(node.name, (node.data(),), output, function=function, unary=leaky_form(alpha)),
        node.shape(),
    )
    if node.quantized and not node.is_wide():
        source, result = node.quantization(), node.context.parameters[output]
        x = np.arange(-128, 128, dtype=np.int64) - source.zero_point
        slope = source.scale * alpha / result.scale
        y = np.where(x >= 0, _rescaled(x, source.scale / result.scale), _rescaled(x, slope))
        _keep(node, output, y + result.zero_point)


def import_elu(node: TfNode) -> None:
    """ELU: in a quantised model the entries of TFLM's table, made in float32."""
    output = node.context.define(node.output.index)
    node.add(
        Lookup(node.name, (node.data(),), output, function=_elu, unary=Unary(Function.ELU, 1.0, 1.0)), node.shape()
    )
    if node.quantized:
        source, result = node.quantization(), node.context.parameters[output]
        x = np.float32(source.scale) * (np.arange(-128, 128) - source.zero_point).astype(np.float32)
        y = np.where(x < 0, np.exp(np.minimum(x, 0).astype(np.float64)).astype(np.float32) - np.float32(1), x)
        steps = np.asarray(y * (np.float32(1) / np.float32(result.scale)), np.float64)
        _keep(node, output, round_half_away(steps).astype(np.int64) + result.zero_point)


def _elu(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(x < 0.0, np.expm1(np.minimum(x, 0.0)), x)


def import_abs(node: TfNode) -> None:
    """ABS."""
    output = node.context.define(node.output.index)
    node.add(Lookup(node.name, (node.data(),), output, function=np.abs, unary=Unary(Function.ABS)), node.shape())
    if node.quantized:
        source, result = node.quantization(), node.context.parameters[output]
        x = np.abs(np.arange(-128, 128, dtype=np.int64) - source.zero_point)
        wide = x if source.scale == result.scale else _rescaled(x, source.scale / result.scale)
        _keep(node, output, wide + result.zero_point)


def import_hard_swish(node: TfNode) -> None:
    """HARD_SWISH: TFLM's 16-bit arithmetic in a quantised model."""
    output = node.context.define(node.output.index)
    function = lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0)  # noqa: E731
    unary = Unary(Function.HARD_SWISH)
    node.add(Lookup(node.name, (node.data(),), output, function=function, unary=unary), node.shape())
    if not node.quantized:
        return
    source, result = node.quantization(), node.context.parameters[output]
    fine = source.scale / 128.0
    (multiplier, shift), (inner, inner_shift) = (_narrow(fine / s) for s in (result.scale, 3.0 / 32768.0))
    if shift > 0:
        raise UnsupportedError("has a vanishing output scale", "quantise again with typical samples")
    x = (np.arange(-128, 128, dtype=np.int64) - source.zero_point) << 7
    gate = _saturated(x << max(inner_shift - 1, 0))
    gate = _high_mul_16(gate, inner)
    gate = _saturated(gate << 1) if inner_shift > 0 else round_shift(gate, max(-inner_shift, 0))
    gate = (gate + (1 << 15)) >> 1
    product = gate * _high_mul_16(x, multiplier)
    truncated = np.sign(product) * (np.abs(product) >> 15)
    _keep(node, output, round_shift(truncated, -shift) + result.zero_point)


def _narrow(real: float) -> tuple[int, int]:
    """A multiplier of 16 bits and its shift."""
    multiplier, shift = quantize_multiplier(real)
    return min((multiplier + (1 << 15)) >> 16, 32767), shift


def _saturated(x: Int64) -> Int64:
    return np.clip(x, -32768, 32767)


def _high_mul_16(a: Int64, b: int) -> Int64:
    """Rounding doubling high product of 16-bit numbers."""
    product = a * b
    nudged = product + np.where(product >= 0, 1 << 14, 1 - (1 << 14))
    return np.asarray(np.sign(nudged) * (np.abs(nudged) >> 15))


FUNCTIONS: dict[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    "CEIL": np.ceil,
    "COS": np.cos,
    "EXP": np.exp,
    "FLOOR": np.floor,
    "GELU": lambda x: 0.5 * x * (1.0 + erf(x / math.sqrt(2.0))),
    "LOG": lambda x: np.log(x, out=np.zeros_like(x), where=x > 0.0),
    "NEG": np.negative,
    "ROUND": np.rint,
    "SIGN": np.sign,
    "SIN": np.sin,
    "SQRT": lambda x: np.sqrt(np.maximum(x, 0.0)),
    "SQUARE": np.square,
}
"""Functions without an int8 kernel in TFLM: their tables hold the nearest codes (NUMERICS.md section 2, LUT_INT8)."""
_FORMS = {"NEG": Unary(Function.NEGATE), "SQUARE": Unary(Function.WHOLE_POWER, 2.0)}
"""Of those, what the float32 kernels call otherwise."""


def import_function(node: TfNode) -> None:
    """Any function of `FUNCTIONS`."""
    output, function = node.context.define(node.output.index), FUNCTIONS[node.operator]
    unary = _FORMS.get(node.operator) or Unary(Function[node.operator])
    if node.operator == "GELU" and node.item.options(tflite.GeluOptions).Approximate():
        function, unary = gelu_tanh, Unary(Function.GELU_TANH)
    node.add(Lookup(node.name, (node.data(),), output, function=function, unary=unary), node.shape())
    if node.quantized:
        table = lookup_table(function, node.quantization(), node.context.parameters[output])
        _keep(node, output, table.astype(np.int64))


def import_rsqrt(node: TfNode) -> None:
    """RSQRT: real zero, and what lies below it, where TFLM stops, gives the largest code."""
    output = node.context.define(node.output.index)
    unary = Unary(Function.POWER, -0.5)
    node.add(Lookup(node.name, (node.data(),), output, function=_inverse_root, unary=unary), node.shape())
    if not node.quantized:
        return
    source, result = node.quantization(), node.context.parameters[output]
    multiplier, shift = quantize_multiplier(1.0 / (math.sqrt(source.scale) * result.scale))
    if not -11 <= shift <= 31:
        raise UnsupportedError("has a vanishing scale", "quantise again with typical samples")
    x = np.arange(-128, 128, dtype=np.int64) - source.zero_point
    root, right = inverse_square_root(np.maximum(x, 1))
    fine = rescale(np.ones_like(x), root, right + 20)
    _keep(node, output, np.where(x > 0, rescale(fine, multiplier, shift - 20) + result.zero_point, 127))


def _inverse_root(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(1.0 / np.sqrt(np.maximum(x, 1e-12)))


def import_prelu(node: TfNode) -> None:
    """PRELU with constant slopes that repeat along leading axes only."""
    slopes, shape = node.tensor(1), node.shape()
    output = node.context.define(node.output.index)
    if not node.is_constant(1) or slopes.values.size == 0:
        raise UnsupportedError("has slopes that are no constants", "export the model with constant slopes")
    sizes = (*[1] * (len(shape) - len(slopes.shape)), *slopes.shape)[-len(shape) :]
    if slopes.values.size != elements(sizes) or not any(
        sizes == (*[1] * at, *shape[at:]) for at in range(len(shape) + 1)
    ):
        raise UnsupportedError(f"has slopes {slopes.shape} for {shape}", "use one slope a channel")
    values = slopes.values.reshape(-1)
    real = values.astype(np.float32)
    if node.quantized:
        quantization = read_quantization(slopes)
        codes = values.astype(np.int64) - (128 if slopes.type == "UINT8" else 0) - quantization.zero_point
        if codes.min() < -128 or codes.max() > 127:
            raise UnsupportedError("has slopes that leave int8 without their zero point", "quantise them symmetrically")
        node.context.constants[output] = TakenConstant(codes.astype(np.int8), Quantization(quantization.scale, 0))
        real = (codes * quantization.scale).astype(np.float32)
    node.add(PRelu(node.name, (node.data(),), output, slopes=real), shape)


def _rescaled(x: Int64, ratio: float) -> Int64:
    multiplier, shift = quantize_multiplier(abs(ratio))
    if shift > _MOST_SHIFT:
        raise UnsupportedError("has a vanishing output scale", "quantise again with typical samples")
    return rescale(x, multiplier if ratio >= 0 else -multiplier, shift)


def _define(node: TfNode, needed: Quantization) -> str:
    output = node.context.define(node.output.index)
    needed = Quantization(2.0**-15, 0, Element.INT16) if node.is_wide() else needed
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
