"""Runs calibration samples through the float graph and keeps what range estimators need."""

from dataclasses import dataclass

import numpy as np

from tinyfleet_compiler.errors import DatasetError
from tinyfleet_compiler.float_run import Floats, run_tensors
from tinyfleet_compiler.graph import Gated, Graph, Lstm
from tinyfleet_compiler.kernels.float_gates import run_lstm, starts

SAMPLE_VALUES = 60_000


@dataclass(frozen=True)
class Observed:
    """Extremes of a tensor over all calibration samples, and an even subsample of its values."""

    low: float
    high: float
    values: Floats


@np.errstate(over="ignore", invalid="ignore")
def calibrate(graph: Graph, inputs: dict[str, Floats]) -> dict[str, Observed]:
    """Statistics per tensor (views left out) for inputs (N, ...) in device order.

    Raises DatasetError where samples lead to NaN or infinity.
    """
    count = len(next(iter(inputs.values())))
    lows: dict[str, float] = {}
    highs: dict[str, float] = {}
    values: dict[str, list[Floats]] = {}
    for tensors in run_tensors(graph, inputs):
        for name, tensor in (tensors | _inside(graph, tensors)).items():
            if name in graph.views:
                continue
            if not np.isfinite(tensor).all():
                raise DatasetError(
                    f"calibration samples take '{name}' to NaN or infinity; check that they are scaled as in training"
                )
            lows[name] = min(lows.get(name, np.inf), float(tensor.min()))
            highs[name] = max(highs.get(name, -np.inf), float(tensor.max()))
            per_sample = tensor.size // len(tensor)
            step = max(1, per_sample * count // SAMPLE_VALUES)
            # An odd step does not stay on the same channels of an even number of them.
            values.setdefault(name, []).append(tensor.reshape(-1)[:: step | 1].copy())
    return {name: Observed(lows[name], highs[name], np.concatenate(values[name])) for name in lows}


def _inside(graph: Graph, tensors: dict[str, Floats]) -> dict[str, Floats]:
    """Of recurrent layers, (N, rows, U): what they give with the hidden state they begin with, and their cells."""
    found: dict[str, Floats] = {}
    for node in graph.nodes:
        if not isinstance(node, Gated):
            continue
        values = [tensors[name] for name in node.inputs]
        first = starts(node, values)
        found[node.output] = np.concatenate([first[0][:, None], tensors[node.output]], axis=1)
        if isinstance(node, Lstm):
            found[node.cell] = np.concatenate([first[1][:, None], run_lstm(node, values)[1]], axis=1)
    return found
