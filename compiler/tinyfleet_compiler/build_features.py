"""FEATURES records from a `FrontEnd`: every table in integers, output scale and zero point folded into the last map."""

import math

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler import layout
from tinyfleet_compiler.build_scope import Op, Scope, make_op
from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.front_end import FrontEnd
from tinyfleet_compiler.graph import Features, Node
from tinyfleet_compiler.numerics import round_half_away
from tinyfleet_compiler.operators import Element, FeatureForm, OpCode
from tinyfleet_compiler.quantize.parameters import Quantization

Ints = npt.NDArray[np.int64]
_SUM_BITS, _FLOOR_BITS, _MOST_SHIFT = 62, 31, 40
_LOG_BITS, _WEIGHT_BITS, _WINDOW_BITS, _MATRIX_BITS = 16, 15, 23, 15
_MOST_NORMALISED = 31


def build_features(scope: Scope, node: Node) -> Op:
    """The record and its table. Raises `ModelError` where the numbers leave what the integers hold."""
    assert isinstance(node, Features)
    front, source, result = node.front, scope.quantization(node.inputs[0]), scope.quantization(node.output)
    window, window_scale = _scaled(front.window, _WINDOW_BITS)
    mel, mel_scale = _scaled(front.mel, _WEIGHT_BITS)
    spans, weights = _sparse(mel)
    length = len(front.window)
    input_bits = 29 - (length - 1).bit_length()
    energy_shift = _energy_shift(front, mel, input_bits)
    unit = _unit(front, source.scale * window_scale, mel_scale, energy_shift)
    mantissa, exponent = _floor(front, unit)
    step = 1 if front.magnitude else 2
    matrix, shifts, bias, diagonal = _affine(node, front, result, unit)
    form = FeatureForm.NONE
    form |= FeatureForm.MAGNITUDE if front.magnitude else FeatureForm.NONE
    form |= FeatureForm.ADD_FLOOR if front.floor_adds else FeatureForm.NONE
    form |= FeatureForm.DIAGONAL if diagonal else FeatureForm.NONE
    fields = {
        "input_element": source.element,
        "output_element": Element.INT8,
        "form": int(form),
        "fft_log2": front.fft.bit_length() - 1,
        "samples": scope.graph.shapes[node.inputs[0]][0],
        "pad": front.pad,
        "frames": front.frames,
        "hop": front.hop,
        "frame": length,
        "mels": len(mel),
        "coefficients": len(front.offset),
        "mel_weights": len(weights),
        "input_bits": input_bits,
        "most_shift": min(_MOST_NORMALISED, (_SUM_BITS - _FLOOR_BITS - exponent) // step),
        "energy_shift": energy_shift,
        "reserved": 0,
        "floor_exponent": exponent,
        "floor_mantissa": mantissa,
    }
    halfwords = ((array, "<i2") for array in (spans, weights, matrix, shifts))
    table = _halfwords((bias, "<i8"), (_quarter_sine(front.fft), "<i4"), (window, "<i4"), *halfwords)
    scratch = 4 * (front.fft + len(mel))
    return make_op(scope, node, OpCode.FEATURES, layout.NO_OVERLAP, fields, constant=table, scratch_bytes=scratch)


def _scaled(real: npt.NDArray[np.float64], bits: int) -> tuple[Ints, float]:
    """Codes of at most 2^bits - 1 and the value of one."""
    scale = float(np.abs(real).max()) / ((1 << bits) - 1)
    return round_half_away(real / scale).astype(np.int64), scale


def _sparse(mel: Ints) -> tuple[Ints, Ints]:
    """First bin and count of every filter, (M, 2), and their weights one after the other."""
    spans, weights = [], []
    for row in mel:
        used = np.flatnonzero(row)
        first, count = (int(used[0]), int(used[-1] - used[0] + 1)) if used.size else (0, 0)
        spans.append((first, count))
        weights.append(row[first : first + count])
    return np.array(spans, np.int64), np.concatenate(weights)


def _energy_shift(front: FrontEnd, mel: Ints, input_bits: int) -> int:
    """Bits an energy loses so that no filter's sum leaves 62."""
    most = 2.02 * len(front.window) * 2.0**input_bits
    largest = (most if front.magnitude else most**2) * float(mel.sum(axis=1).max())
    return max(0, math.ceil(math.log2(largest)) - _SUM_BITS)


def _unit(front: FrontEnd, sample: float, mel: float, energy_shift: int) -> float:
    """Real energy of one step of a filter's sum, for a frame that is not shifted."""
    amplitude = sample / 2.0  # the FFT gives twice the spectrum
    return float((amplitude if front.magnitude else amplitude**2) * mel * 2.0**energy_shift)


def _floor(front: FrontEnd, unit: float) -> tuple[int, int]:
    fraction, exponent = math.frexp(front.floor / unit)
    return int(fraction * (1 << _FLOOR_BITS)), exponent - _FLOOR_BITS


def _affine(node: Node, front: FrontEnd, result: Quantization, unit: float) -> tuple[Ints, Ints, Ints, bool]:
    """Matrix codes, shift and bias per feature: y = ((codes @ log2 + bias) >> shift) + zero point."""
    real = front.matrix * (math.log(2.0) / result.scale)
    largest = np.maximum(np.abs(real).max(axis=1), 2.0**-20)
    up = _MATRIX_BITS - 1 - np.floor(np.log2(largest)).astype(np.int64)
    up = np.minimum(up, _MOST_SHIFT - _LOG_BITS)
    if (up < 1 - _LOG_BITS).any():
        raise ModelError(f"'{node.name}' has features of a vanishing range; calibrate with real recordings")
    codes = np.clip(round_half_away(real * (2.0**up)[:, None]), -32767, 32767).astype(np.int64)
    shifts = up + _LOG_BITS
    # The codes' own sum, not the reals', so that the unit's logarithm meets what the device multiplies.
    constant = (front.offset / result.scale) * 2.0**shifts + codes.sum(axis=1) * (math.log2(unit) * 2.0**_LOG_BITS)
    bias = round_half_away(constant).astype(np.int64)
    diagonal = front.matrix.shape[0] == front.matrix.shape[1] and not (codes - np.diag(np.diag(codes))).any()
    return (np.diag(codes) if diagonal else codes), shifts, bias, diagonal


def _quarter_sine(points: int) -> Ints:
    angles = np.arange(points // 4 + 1) * (2.0 * np.pi / points)
    return round_half_away(np.sin(angles) * (1 << layout.FEATURES_TWIDDLE_BITS)).astype(np.int64)


def _halfwords(*parts: tuple[Ints, str]) -> npt.NDArray[np.int16]:
    data = b"".join(array.reshape(-1).astype(kind).tobytes() for array, kind in parts)
    return np.frombuffer(data, "<i2")
