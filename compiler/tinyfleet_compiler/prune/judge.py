"""How good a pruned graph still is: the user's metric where data allows, else agreement with the original."""

from dataclasses import dataclass

import numpy as np

from tinyfleet_compiler.dataset import Dataset, in_source_order, to_source_order
from tinyfleet_compiler.float_run import Floats, run_float
from tinyfleet_compiler.graph import Graph
from tinyfleet_compiler.metrics import Metric, agreement, better_by, choose_metric, evaluate

HELD_OUT = 4
"""Without evaluation data every fourth calibration sample judges and is not fitted to."""


@dataclass(frozen=True)
class Quality:
    """`value` of the metric, points lost against the original, and output error as a share of the output's square."""

    value: float
    lost_points: float
    error: float


@dataclass(frozen=True, eq=False)
class Judge:
    """Judges float graphs by `data`; `source` says where that comes from."""

    original: Graph
    data: Dataset
    metric: Metric
    source: str
    wanted: Floats
    """First output of the original (N, ...), in the model file's order."""

    def quality(self, graph: Graph) -> Quality:
        """Of a graph with the original's inputs and outputs. Raises `DatasetError`."""
        got = _first_output(graph, self.data)
        real = self.wanted.astype(np.float64)
        error = float(np.square(got - real).mean() / max(float(np.square(real).mean()), 1e-12))
        if self.metric == "agreement":
            value = agreement(self.metric, self.wanted, got)
            return Quality(value, 100.0 * (1.0 - value), error)
        value, before = (
            evaluate(self.metric, output, in_source_order(self.data, self.original.source_layouts))
            for output in (got, self.wanted)
        )
        return Quality(value, -better_by(self.metric, value, before), error)


def make_judge(
    graph: Graph, samples: Dataset, evaluation: Dataset | None, metric: Metric | None
) -> tuple[Judge, dict[str, Floats]]:
    """A judge, and the calibration inputs (N, ...) that may be fitted to. Raises `DatasetError`."""
    data, source = evaluation, "evaluation data"
    fitting = np.ones(len(samples), bool)
    if data is None:
        held = np.arange(len(samples)) % HELD_OUT == HELD_OUT - 1 if len(samples) >= HELD_OUT else fitting
        data, source = _part(samples, held), "calibration samples held out"
        fitting = ~held if not held.all() else fitting
        metric = metric if data.y is not None else "agreement"
    judge = Judge(graph, data, choose_metric(metric, data), source, _first_output(graph, data))
    return judge, _part(samples, fitting).inputs


def _part(data: Dataset, chosen: np.ndarray) -> Dataset:
    return Dataset({n: x[chosen] for n, x in data.inputs.items()}, None if data.y is None else data.y[chosen])


def _first_output(graph: Graph, data: Dataset) -> Floats:
    layout = graph.source_layouts[graph.outputs[0]]
    return np.asarray(to_source_order(run_float(graph, data.inputs)[graph.outputs[0]], layout))
