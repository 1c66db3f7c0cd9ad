"""Changes against a base chosen for what they cost: squared error of the layer's outputs plus a price for every bit.

The coordinate descent of fit_rounding.py, with the order-0 entropy of the changes in what it minimises (entropy-coded
scalar quantisation, Chou, Lookabaugh and Gray 1989): a weight that stays makes the others of its row take over its
part, so that far fewer changes give the same outputs.
"""

from dataclasses import replace

import numpy as np

from tinyfleet_compiler.graph import ConvTranspose
from tinyfleet_compiler.quantize.fake import Fitter, LayerView
from tinyfleet_compiler.quantize.fit import BaseLookup
from tinyfleet_compiler.quantize.fit_rounding import Problem, Reals, rounding_problem
from tinyfleet_compiler.quantize.weights import WEIGHT_LEVELS, IntegerWeights

PASSES = 3
_BIT_SHARE = 2.0 * np.log(2.0) / 12.0
"""Squared error a bit is worth at steps of 1: the slope of a uniform quantiser's error."""


def with_cheap_changes(inner: Fitter, base: BaseLookup, bound_lsb: float) -> Fitter:
    """Weights of `inner` moved where output error and bits of change together fall: a bit is worth what it is worth to
    a quantiser of steps of twice `bound_lsb`. Weights that are 0 stay 0.
    """

    def fit(view: LayerView) -> IntegerWeights:
        found, known = inner(view), base(view.node.output)
        fits = known is not None and known.block.rows.shape == found.rows.shape
        if known is None or not fits or isinstance(view.node, ConvTranspose):
            return found
        problem = rounding_problem(view, found)
        old = known.block.rows.astype(np.float64).reshape(problem.start.shape)
        prices, reach = _prices(problem, found, bound_lsb), int(np.ceil(2.0 * bound_lsb))
        rows = _descend(problem, old, prices, float(WEIGHT_LEVELS[found.element]), reach)
        return replace(found, rows=rows.reshape(found.rows.shape))

    return fit


def _prices(problem: Problem, found: IntegerWeights, bound_lsb: float) -> Reals:
    """Squared error that a bit is worth, (groups, outputs): the same in real units for all outputs of the layer."""
    energy = float(np.einsum("gkk->gk", problem.gram).mean())
    scales = found.scales.reshape(problem.start.shape[:2])
    return np.asarray(_BIT_SHARE * (2.0 * bound_lsb) ** 2 * energy * np.mean(scales**2) / scales**2)


def _descend(p: Problem, old: Reals, prices: Reals, levels: float, reach: int) -> Reals:
    """Each weight in turn to the cheapest change within `reach` of the best one, or to none."""
    rows = p.start.copy()
    slope = np.matmul(rows, p.gram) - p.target
    around = np.arange(-reach, reach + 1)
    for _ in range(PASSES):
        first, bits = _bits_of(rows - old)
        for k in range(rows.shape[2]):
            energy = p.gram[:, None, k, k]
            best = rows[..., k] - slope[..., k] / energy
            near = np.rint(best - old[..., k])[..., None] + around
            changes = np.concatenate([near, np.zeros((*best.shape, 1))], axis=-1)
            choices = old[..., k, None] + changes
            price = bits[np.clip(changes - first, 0, len(bits) - 1).astype(np.int64)]
            cost = energy[..., None] * (choices - best[..., None]) ** 2 + prices[..., None] * price
            cost[np.abs(choices) > levels] = np.inf
            taken = np.take_along_axis(choices, cost.argmin(axis=-1)[..., None], axis=-1)[..., 0]
            step = np.where(p.real[..., k] != 0, taken, 0.0) - rows[..., k]
            rows[..., k] += step
            slope += step[..., None] * p.gram[:, None, k, :]
    return rows


def _bits_of(taken: Reals) -> tuple[int, Reals]:
    """A change and what it and those above it cost where changes come as often as those taken; the first and the last
    stand for all that are not taken.
    """
    first = int(taken.min()) - 1
    counts = np.bincount((taken - first).astype(np.int64).ravel(), minlength=int(taken.max()) - first + 2) + 0.5
    return first, np.asarray(np.log2(counts.sum() / counts))
