"""Ways to put a layer's weights on their grid (`Fitter`s of fake.py)."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tinyfleet_compiler.operators import Element
from tinyfleet_compiler.quantize.fake import Fitter, LayerView
from tinyfleet_compiler.quantize.weights import BaseWeights, IntegerWeights, round_weights

BaseLookup = Callable[[str], BaseWeights | None]


def _no_base(output: str) -> BaseWeights | None:
    return None


def nearest(base: BaseLookup = _no_base, element: Element = Element.INT8) -> Fitter:
    """Each weight to its nearest integer of a type."""

    def fit(view: LayerView) -> IntegerWeights:
        return round_weights(view.node.weights, view.node.bias, view.source, base(view.node.output), element)

    return fit


def fixed(weights: dict[str, IntegerWeights]) -> Fitter:
    """Weights found before, by node output."""
    return lambda view: weights[view.node.output]


def towards_base(base: BaseLookup, bound_lsb: float) -> Fitter:
    """Weights keep the base's integer, or go one step towards it, where that costs at most `bound_lsb` of error.

    Zeros stay zeros: a pruned weight must not come back. Channels with a scale of their own are rounded to nearest.
    """

    def fit(view: LayerView) -> IntegerWeights:
        known = base(view.node.output)
        plain = round_weights(view.node.weights, view.node.bias, view.source, known)
        if known is None or not plain.kept.any():
            return plain
        real = view.node.weights.reshape(plain.rows.shape).astype(np.float64) / plain.scales[:, None]
        old = known.block.rows.astype(np.float64)
        rows = np.where(np.abs(old - real) <= bound_lsb, old, _one_step(real, plain.rows, old, bound_lsb))
        rows = np.where(plain.kept[:, None] & (plain.rows != 0), rows, plain.rows)
        return replace(plain, rows=np.clip(rows, -127, 127))

    return fit


def _one_step(real: np.ndarray, near: np.ndarray, old: np.ndarray, bound_lsb: float) -> np.ndarray:
    moved = near + np.sign(old - near)
    return np.where(np.abs(moved - real) <= bound_lsb, moved, near)


def with_bias_correction(inner: Fitter) -> Fitter:
    """Restores each channel's mean before the activation, which rounding and the layers before have shifted
    (Nagel et al. 2019, "Data-Free Quantization", the empirical form)."""

    def fit(view: LayerView) -> IntegerWeights:
        found = inner(view)
        got = view.run(found.as_node(view.node))
        shift = (view.wanted - got).reshape(-1, got.shape[-1]).mean(axis=0, dtype=np.float64)
        return replace(found, bias=found.bias + shift)

    return fit
