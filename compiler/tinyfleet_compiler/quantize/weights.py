"""Integer weights, folded biases and multipliers of one weighted node."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.graph import Conv, Gemm
from tinyfleet_compiler.numerics import INT32_MAX, quantize_multiplier, round_half_away
from tinyfleet_compiler.quantize.parameters import Quantization

Reals = npt.NDArray[np.float64]
_BIAS_LIMIT = float(1 << 29)
KEEP_OVERFLOW, KEEP_USE = 127.5 * 1.02, 0.4


@dataclass(frozen=True, eq=False)
class WeightBlock:
    """Rows = output channels; `biases` have the input zero point folded in."""

    rows: npt.NDArray[np.int8]
    biases: npt.NDArray[np.int32]
    multipliers: npt.NDArray[np.int32]
    shifts: npt.NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class IntegerWeights:
    """Weights on their grid before they are a block: integer `rows` (O, K), `scales` (O,), real `bias` (O,)."""

    rows: Reals
    scales: Reals
    bias: Reals
    kept: npt.NDArray[np.bool_]
    """Channels whose scale is the base's."""

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
    chosen = fitted or round_weights(weights, bias, source.scale, base)
    rows, scales = chosen.rows, chosen.scales
    biases = round_half_away(chosen.bias / (source.scale * scales)) - source.zero_point * rows.sum(axis=1)
    _check_sums(name, rows, biases)
    pairs = [quantize_multiplier(source.scale * s / result.scale) for s in scales]
    if base is not None and (base.source_scale, base.result_scale) == (source.scale, result.scale):
        for channel in np.flatnonzero(chosen.kept):
            pairs[channel] = int(base.block.multipliers[channel]), int(base.block.shifts[channel])
    _check_shifts(name, rows, biases, pairs)
    return WeightBlock(
        rows.astype(np.int8),
        biases.astype(np.int32),
        np.array([m for m, _ in pairs], dtype=np.int32),
        np.array([s for _, s in pairs], dtype=np.int8),
    )


def round_weights(
    weights: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    source_scale: float,
    base: BaseWeights | None = None,
) -> IntegerWeights:
    """Each weight to its nearest integer, with the base's scales where they fit."""
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    real = bias.astype(np.float64)
    scales, kept = _keep_base(flat, _scales(flat, real, source_scale), base)
    rows = np.clip(round_half_away(flat / scales[:, None]), -127, 127)
    return IntegerWeights(rows, scales, real, kept)


def _scales(
    flat: npt.NDArray[np.float64], bias: npt.NDArray[np.float64], source_scale: float
) -> npt.NDArray[np.float64]:
    largest = np.abs(flat).max(axis=1) / 127.0
    typical = float(np.median(largest[largest > 0])) if (largest > 0).any() else 1.0 / 127.0
    scales = np.where(largest > typical * 1e-9, largest, typical)
    return np.asarray(np.maximum(scales, np.abs(bias) / (source_scale * _BIAS_LIMIT)))


def _keep_base(
    flat: npt.NDArray[np.float64], scales: npt.NDArray[np.float64], base: BaseWeights | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Scales of the base where the new weights fit them and still use them; the others as chosen."""
    if base is None or base.block.rows.shape != flat.shape:
        return scales, np.zeros(len(scales), dtype=bool)
    old = base.scales
    largest = np.abs(flat).max(axis=1)
    kept = (largest <= KEEP_OVERFLOW * old) & (largest >= KEEP_USE * 127.0 * old) & (old > 0)
    return np.where(kept, old, scales), kept


def _largest_sums(rows: npt.NDArray[np.float64], biases: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.abs(rows).sum(axis=1) * 128.0 + np.abs(biases))


def _check_sums(name: str, rows: npt.NDArray[np.float64], biases: npt.NDArray[np.float64]) -> None:
    worst = float(_largest_sums(rows, biases).max())
    if worst > INT32_MAX:
        raise ModelError(
            f"'{name}' can reach sums of {worst:.3g}, beyond int32; use fewer inputs per output or smaller biases"
        )


def _check_shifts(
    name: str, rows: npt.NDArray[np.float64], biases: npt.NDArray[np.float64], pairs: list[tuple[int, int]]
) -> None:
    left = np.array([max(shift, 0) for _, shift in pairs], dtype=np.float64)
    if (_largest_sums(rows, biases) * 2.0**left > INT32_MAX).any():
        raise ModelError(
            f"the output range of '{name}' is tiny against the sums inside it; calibrate with typical samples"
        )
