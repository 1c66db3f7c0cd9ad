"""Integer gates of a recurrent layer: one scale a gate, sums to Q3.12 as TFLite's converter has them."""

import numpy as np

from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.graph import Floats, Gated, GateNumbers
from tinyfleet_compiler.numerics import INT32_MAX, quantize_multiplier, round_half_away
from tinyfleet_compiler.quantize.parameters import Quantization

_GATE_SCALE = 2.0**-12


def round_gates(node: Gated, source: Quantization, result: Quantization, power: int) -> GateNumbers:
    """Nearest int8 weights and int32 biases. Raises `ModelError` when sums cannot fit int32."""
    gates = len(node.weights)
    rows, biases = [], np.zeros(node.bias.shape, np.int64)
    scales = np.zeros((2, gates))
    for side, (weights, read) in enumerate(((node.weights, source), (node.recurrent, result))):
        steps = _scales(weights, node.bias[side], read)
        codes = np.clip(round_half_away(weights.astype(np.float64) / steps[:, None, None]), -127, 127)
        real = round_half_away(node.bias[side] / (read.scale * steps[:, None]))
        biases[side] = real.astype(np.int64) - read.zero_point * codes.sum(axis=2).astype(np.int64)
        scales[side] = read.scale * steps / _GATE_SCALE
        _check_sums(node, codes, biases[side], scales[side])
        rows.append(codes.astype(np.int8))
    return GateNumbers(rows[0], rows[1], biases, scales, power)


def _scales(weights: Floats, bias: Floats, read: Quantization) -> np.ndarray:
    """Per gate; wide enough for the bias too."""
    largest = np.abs(weights).reshape(len(weights), -1).max(axis=1).astype(np.float64) / 127.0
    needed = np.abs(bias).max(axis=1).astype(np.float64) / (read.scale * 2.0**29)
    return np.asarray(np.maximum(np.where(largest > 0, largest, 1.0 / 127.0), needed))


def _check_sums(node: Gated, codes: np.ndarray, biases: np.ndarray, scales: np.ndarray) -> None:
    most = (np.abs(codes).sum(axis=2) * 128.0 + np.abs(biases)).max(axis=1)
    shifts = np.array([max(quantize_multiplier(float(scale))[1], 0) for scale in scales])
    if (most * 2.0**shifts > INT32_MAX).any():
        raise ModelError(f"'{node.name}' can reach sums beyond int32; calibrate with typical samples")
