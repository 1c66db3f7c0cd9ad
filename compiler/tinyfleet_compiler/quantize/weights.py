"""Integer weights, folded biases and multipliers of one weighted node."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.graph import Conv, Gemm
from tinyfleet_compiler.layout import MOST_SHIFT_INT16
from tinyfleet_compiler.numerics import INT32_MAX, quantize_multiplier, round_half_away
from tinyfleet_compiler.operators import Element
from tinyfleet_compiler.quantize.parameters import Quantization

Reals = npt.NDArray[np.float64]
_BIAS_LIMITS = {Element.INT8: float(1 << 29), Element.INT16: float(1 << 45)}
_SUM_LIMITS = {Element.INT8: float(INT32_MAX), Element.INT16: float(1 << 47)}
_LARGEST_CODE = {Element.INT8: 128.0, Element.INT16: 32768.0}
WEIGHT_LEVELS = {Element.INT8: 127, Element.INT4: 7}
"""Largest weight code: weights are symmetric."""
KEEP_OVERFLOW, KEEP_USE = 127.5 * 1.02, 0.4
MULTIPLIER_STEP = 1 << 23
"""Multipliers of a base's channels that need new scales differ from the old ones by multiples of this: at most 0.8 % of
a weight's step, and a delta says a byte instead of four."""


@dataclass(frozen=True, eq=False)
class WeightBlock:
    """Rows = output channels; `biases` have the input zero point folded in."""

    rows: npt.NDArray[np.int8]
    biases: npt.NDArray[np.int64]
    """Within int32; of layers that read int16 tensors within 48 bits."""
    multipliers: npt.NDArray[np.int32]
    shifts: npt.NDArray[np.int8]
    element: Element = Element.INT8
    """Of the rows as the image stores them: INT8 or INT4."""


@dataclass(frozen=True, eq=False)
class IntegerWeights:
    """Weights on their grid before they are a block: integer `rows` (O, K), `scales` (O,), real `bias` (O,)."""

    rows: Reals
    scales: Reals
    bias: Reals
    kept: npt.NDArray[np.bool_]
    """Channels whose scale is the base's."""
    element: Element = Element.INT8
    """What the image stores the rows as."""

    def as_node(self, node: Conv | Gemm) -> Conv | Gemm:
        """The node with the real weights these integers stand for."""
        weights = (self.rows * self.scales[:, None]).reshape(node.weights.shape).astype(np.float32)
        return replace(node, weights=weights, bias=self.bias.astype(np.float32))


@dataclass(frozen=True, eq=False)
class BaseWeights:
    """Weights of the same layer in the image compiled against, with the activation scales they were made for."""

    block: WeightBlock
    source_scale: float
    result_scale: float

    @property
    def scales(self) -> npt.NDArray[np.float64]:
        """Weight scale per channel, recovered from the multipliers."""
        real = self.block.multipliers.astype(np.float64) * 2.0 ** (self.block.shifts.astype(np.float64) - 31.0)
        return np.asarray(real * self.result_scale / self.source_scale)


def quantize_weights(
    name: str,
    weights: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    source: Quantization,
    result: Quantization,
    base: BaseWeights | None = None,
    fitted: IntegerWeights | None = None,
) -> WeightBlock:
    """(O, ...) float weights to int8 rows, per-channel symmetric; `fitted` ones are taken as they are.

    Raises `ModelError` when sums cannot fit int32.
    """
    chosen = fitted or round_weights(weights, bias, source, base)
    rows, scales = chosen.rows, chosen.scales
    biases = round_half_away(chosen.bias / (source.scale * scales)) - source.zero_point * rows.sum(axis=1)
    pairs = [quantize_multiplier(source.scale * s / result.scale) for s in scales]
    if base is not None and (base.source_scale, base.result_scale) == (source.scale, result.scale):
        for channel in np.flatnonzero(chosen.kept):
            pairs[channel] = int(base.block.multipliers[channel]), int(base.block.shifts[channel])
    if reason := reaches_too_far(rows, biases, pairs, source.element):
        raise ModelError(f"'{name}' {reason}; use fewer inputs per output or calibrate with typical samples")
    return WeightBlock(
        rows.astype(np.int8),
        biases.astype(np.int64),
        np.array([m for m, _ in pairs], dtype=np.int32),
        np.array([s for _, s in pairs], dtype=np.int8),
        chosen.element,
    )


def round_weights(
    weights: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    source: Quantization,
    base: BaseWeights | None = None,
    element: Element = Element.INT8,
) -> IntegerWeights:
    """Each weight to its nearest integer, with the base's scales where they fit."""
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    real, levels = bias.astype(np.float64), WEIGHT_LEVELS[element]
    scales, kept = _keep_base(flat, _scales(flat, real, source, levels), base if levels == 127 else None)
    rows = np.clip(round_half_away(flat / scales[:, None]), -levels, levels)
    return IntegerWeights(rows, scales, real, kept, element)


def _scales(
    flat: npt.NDArray[np.float64], bias: npt.NDArray[np.float64], source: Quantization, levels: int
) -> npt.NDArray[np.float64]:
    largest = np.abs(flat).max(axis=1) / levels
    typical = float(np.median(largest[largest > 0])) if (largest > 0).any() else 1.0 / levels
    scales = np.where(largest > typical * 1e-9, largest, typical)
    return np.asarray(np.maximum(scales, np.abs(bias) / (source.scale * _BIAS_LIMITS[source.element])))


def _keep_base(
    flat: npt.NDArray[np.float64], scales: npt.NDArray[np.float64], base: BaseWeights | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Scales of the base where the new weights fit them and still use them; the others as chosen."""
    if base is None or base.block.rows.shape != flat.shape:
        return scales, np.zeros(len(scales), dtype=bool)
    old = base.scales
    largest = np.abs(flat).max(axis=1)
    kept = (largest <= KEEP_OVERFLOW * old) & (largest >= KEEP_USE * 127.0 * old) & (old > 0)
    return np.where(kept | (old <= 0), np.where(kept, old, scales), on_multiplier_grid(scales, base)), kept


def on_multiplier_grid(scales: Reals, base: BaseWeights) -> Reals:
    """The scales (O,), each raised until its multiplier is the base's plus a multiple of MULTIPLIER_STEP."""
    old = base.block.multipliers.astype(np.float64)
    real = scales * base.source_scale / base.result_scale
    shifts = np.floor(np.log2(real)) + 1.0
    for _ in range(2):  # a multiplier raised beyond 31 bits takes the next shift
        raised = old + np.ceil((real * 2.0 ** (31.0 - shifts) - old) / MULTIPLIER_STEP) * MULTIPLIER_STEP
        shifts = np.where(raised >= 2.0**31, shifts + 1.0, shifts)
    return np.asarray(raised * 2.0 ** (shifts - 31.0) * base.result_scale / base.source_scale)


def reaches_too_far(
    rows: npt.NDArray[Any], biases: npt.NDArray[Any], pairs: list[tuple[int, int]], element: Element
) -> str:
    """Why sums over inputs of a type, or what multipliers make of them, leave their registers; "" when none does."""
    worst = np.abs(rows.astype(np.float64)).sum(axis=1) * _LARGEST_CODE[element] + np.abs(biases.astype(np.float64))
    channel = int(worst.argmax())
    if worst[channel] > _SUM_LIMITS[element]:
        register = "int32" if element is Element.INT8 else "48 bits"
        return f"can reach sums of {worst[channel]:.3g} in channel {channel}, beyond {register}"
    shifts = np.array([shift for _, shift in pairs], np.float64)
    if element is Element.INT16:
        scaled = worst * np.array([m for m, _ in pairs], np.float64) * 2.0 ** (shifts - 31.0)
        bad = bool((scaled >= INT32_MAX).any() or (shifts > MOST_SHIFT_INT16).any())
    else:
        bad = bool((worst * 2.0 ** np.maximum(shifts, 0.0) > INT32_MAX).any())
    return "has a tiny output range, for which its sums are multiplied beyond int32" if bad else ""
