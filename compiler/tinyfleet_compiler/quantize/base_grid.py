"""Biases on a grid around a base's: changes that are multiples of a power of two take fewer bytes to send."""

from dataclasses import replace

import numpy as np

from tinyfleet_compiler.numerics import round_half_away
from tinyfleet_compiler.quantize.fake import Fitter, LayerView
from tinyfleet_compiler.quantize.fit import BaseLookup
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.quantize.weights import BaseWeights, IntegerWeights, Reals

BIAS_STEP = 0.25
"""Of an output step: a bias is at most half of this off, little beside the rounding of the output itself."""


def on_base_grid(inner: Fitter, base: BaseLookup, parameters: dict[str, Quantization]) -> Fitter:
    """Puts the biases that `inner` finds on the grid, where the base lends the layer its scales."""

    def fit(view: LayerView) -> IntegerWeights:
        found, known = inner(view), base(view.node.output)
        if known is None:
            return found
        unit = view.source.scale * found.scales
        biases = round_half_away(found.bias / unit)
        result = parameters[view.graph.root(view.node.output)]
        return replace(found, bias=near_base_bias(biases, found, known, view.source, result) * unit)

    return fit


def near_base_bias(
    biases: Reals, chosen: IntegerWeights, base: BaseWeights, source: Quantization, result: Quantization
) -> Reals:
    """Integer biases (O,), zero point not folded in, moved to the nearest point of the grid around the base's.

    The grid is the largest power of two within BIAS_STEP; in channels with a scale of their own too, where the base's
    bias is a number like another to begin from.
    """
    if base.source_scale != source.scale:
        return biases
    old = base.block.biases + float(source.zero_point) * base.block.rows.astype(np.float64).sum(axis=1)
    step = result.scale / (source.scale * chosen.scales) * BIAS_STEP
    grid = 2.0 ** np.floor(np.log2(np.maximum(step, 1.0)))
    return np.asarray(old + np.round((biases - old) / grid) * grid)
