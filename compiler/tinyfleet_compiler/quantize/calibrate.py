"""Runs calibration samples through the float graph and keeps what range estimators need."""

from dataclasses import dataclass

import numpy as np

from tinyfleet_compiler.float_run import Floats, run_tensors
from tinyfleet_compiler.graph import Graph, Lstm
from tinyfleet_compiler.kernels.float_gates import run_lstm

SAMPLE_VALUES = 60_000


@dataclass(frozen=True)
class Observed:
    """Extremes of a tensor over all calibration samples, and an even subsample of its values."""

    low: float
    high: float
    values: Floats


def calibrate(graph: Graph, inputs: dict[str, Floats]) -> dict[str, Observed]:
    """Statistics per tensor (views left out) for inputs (N, ...) in device order."""
    count = len(next(iter(inputs.values())))
    lows: dict[str, float] = {}
    highs: dict[str, float] = {}
    values: dict[str, list[Floats]] = {}
    layers = [node for node in graph.nodes if isinstance(node, Lstm)]
    for tensors in run_tensors(graph, inputs):
        cells = {node.cell: run_lstm(node, tensors[node.inputs[0]])[1] for node in layers}
        for name, tensor in (tensors | cells).items():
            if name in graph.views:
                continue
            lows[name] = min(lows.get(name, np.inf), float(tensor.min()))
            highs[name] = max(highs.get(name, -np.inf), float(tensor.max()))
            per_sample = tensor.size // len(tensor)
            step = max(1, per_sample * count // SAMPLE_VALUES)
            # An odd step does not stay on the same channels of an even number of them.
            values.setdefault(name, []).append(tensor.reshape(-1)[:: step | 1].copy())
    return {name: Observed(lows[name], highs[name], np.concatenate(values[name])) for name in lows}
