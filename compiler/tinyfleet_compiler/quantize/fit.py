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
    """Weights change so that fewer bytes tell the changes, at most `bound_lsb` of error each.

    Per layer the better of two: a step less of change, as suits a layer that hardly moved (channels with a scale of
    their own are rounded to nearest), or changes in multiples of one number, as suits one that moved far. Zeros stay
    zeros: a pruned weight must not come back.
    """

    def fit(view: LayerView) -> IntegerWeights:
        known = base(view.node.output)
        plain = round_weights(view.node.weights, view.node.bias, view.source, known)
        if known is None or known.block.rows.shape != plain.rows.shape:
            return plain
        real = view.node.weights.reshape(plain.rows.shape).astype(np.float64) / plain.scales[:, None]
        old = known.block.rows.astype(np.float64)
        less = np.where(plain.kept[:, None], _one_step(real, plain.rows, old, bound_lsb), plain.rows)
        candidates = [
            np.where(plain.rows != 0, rows, 0) for rows in (less, _in_multiples(real, plain.rows, old, bound_lsb))
        ]
        return replace(plain, rows=min(candidates, key=lambda rows: change_bits(rows - old)))

    return fit


def _one_step(real: np.ndarray, near: np.ndarray, old: np.ndarray, bound_lsb: float) -> np.ndarray:
    moved = near + np.sign(old - near)
    moved = np.where(np.abs(moved - real) <= bound_lsb, moved, near)
    return np.where(np.abs(old - real) <= bound_lsb, old, moved)


def _in_multiples(real: np.ndarray, near: np.ndarray, old: np.ndarray, bound_lsb: float) -> np.ndarray:
    """Changes in multiples of the largest whole number whose half is within the bound; none where none is needed."""
    multiple = np.floor(2.0 * bound_lsb)
    moved = old + multiple * np.round((real - old) / multiple)
    moved = np.where(np.abs(moved) > 127, near, moved)
    return np.where(np.abs(old - real) <= bound_lsb, old, moved)


def change_bits(changes: np.ndarray) -> float:
    """Order-0 entropy of all changes, bits."""
    _, counts = np.unique(changes, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def with_bias_correction(inner: Fitter) -> Fitter:
    """Restores each channel's mean before the activation, which rounding and the layers before have shifted
    (Nagel et al. 2019, "Data-Free Quantization", the empirical form)."""

    def fit(view: LayerView) -> IntegerWeights:
        found = inner(view)
        got = view.run(found.as_node(view.node))
        shift = (view.wanted - got).reshape(-1, got.shape[-1]).mean(axis=0, dtype=np.float64)
        return replace(found, bias=found.bias + shift)

    return fit
