"""Rounding optimisation: each weight goes up or down so that the layer's outputs on calibration data stay nearest to
float (coordinate descent on the layer's squared error; the goal of Nagel et al. 2020, "Up or Down?")."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.graph import ConvTranspose
from tinyfleet_compiler.quantize.fake import Fitter, LayerView
from tinyfleet_compiler.quantize.weights import WEIGHT_LEVELS, IntegerWeights

Reals = npt.NDArray[np.float64]
MOST_COLUMNS = 3000
PASSES = 2
_PULL = 0.01
"""Pull towards the float weights, as a share of the mean input energy: columns are few, weights many."""


def with_best_rounding(inner: Fitter) -> Fitter:
    """Weights within one step of the float ones; scales and bias stay those of `inner`."""

    def fit(view: LayerView) -> IntegerWeights:
        found = inner(view)
        if isinstance(view.node, ConvTranspose):  # its outputs are no products of columns
            return found
        problem = rounding_problem(view, found)
        levels = float(WEIGHT_LEVELS[found.element])
        return replace(found, rows=_descend(problem, levels).reshape(found.rows.shape))

    return fit


@dataclass(frozen=True, eq=False)
class Problem:
    """Per group: minimise w^T gram w - 2 target w over integers near `real`; arrays (groups, outputs, K)."""

    gram: Reals
    target: Reals
    real: Reals
    start: Reals


def rounding_problem(view: LayerView, found: IntegerWeights) -> Problem:
    """The least squares of a layer's outputs on calibration data, in integers of `found`'s scales."""
    columns, wanted = view.columns(MOST_COLUMNS)
    x = columns.astype(np.float64) - columns.mean(axis=0, dtype=np.float64)
    groups, length = x.shape[1:]
    y = (wanted - wanted.mean(axis=0)).astype(np.float64).reshape(len(x), groups, -1)
    scales = found.scales.reshape(groups, -1, 1)
    shape = (groups, len(found.rows) // groups, length)
    real = view.node.weights.reshape(shape).astype(np.float64) / scales
    gram = np.matmul(x.transpose(1, 2, 0), x.transpose(1, 0, 2))
    pull = _PULL * np.trace(gram, axis1=1, axis2=2)[:, None, None] / length + 1e-12
    target = np.matmul(y.transpose(1, 2, 0), x.transpose(1, 0, 2)) / scales + pull * real
    gram = gram + pull * np.eye(length)
    return Problem(gram, target, real, found.rows.reshape(shape))


def _descend(p: Problem, levels: float) -> Reals:
    rows = p.start.copy()
    low = np.clip(np.floor(p.real), -levels, levels)
    high = np.clip(np.ceil(p.real), -levels, levels)
    slope = np.matmul(rows, p.gram) - p.target
    for _ in range(PASSES):
        for k in range(rows.shape[2]):
            best = np.rint(rows[..., k] - slope[..., k] / p.gram[:, None, k, k])
            step = np.clip(best, low[..., k], high[..., k]) - rows[..., k]
            if step.any():
                rows[..., k] += step
                slope += step[..., None] * p.gram[:, None, k, :]
    return rows
