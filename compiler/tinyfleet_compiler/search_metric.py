"""How a search values what a trial gives: by the metric, on calibration samples held out from fitting."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.dataset import Dataset, to_source_order
from tinyfleet_compiler.float_run import Floats, run_float
from tinyfleet_compiler.graph import Graph
from tinyfleet_compiler.metrics import Metric, agreement, better_by, choose_metric, evaluate, metric_name
from tinyfleet_compiler.quantize.search import SEARCH_SAMPLES, held_out

_LABELLED = ("top1", "mse", "auc")


@dataclass(frozen=True)
class Judged:
    """How the first output (N, ...) of the judging samples, in device order, is valued."""

    metric: str
    float_value: float
    value: Callable[[Floats], float]
    lost: Callable[[float], float]
    """Points a value is worse than float's."""
    data: str


def judge_by(graph: Graph, metric: Metric | None, inputs: dict[str, Floats], y: npt.NDArray[Any] | None) -> Judged:
    """The metric over every fourth of the first calibration samples; agreement with float where they have no labels."""
    _, judges = held_out(len(next(iter(inputs.values()))))
    held = {name: x[:SEARCH_SAMPLES][judges] for name, x in inputs.items()}
    layout = graph.source_layouts[graph.outputs[0]]
    real = to_source_order(next(iter(run_float(graph, held).values())), layout)
    given = {name: to_source_order(x, graph.source_layouts[name]) for name, x in held.items()}
    data = Dataset(given, None if y is None else y[:SEARCH_SAMPLES][judges])
    chosen = "agreement" if data.y is None and metric in _LABELLED else choose_metric(metric, data)

    def value(output: Floats) -> float:
        coded = to_source_order(output, layout)
        return agreement(chosen, real, coded) if chosen == "agreement" else evaluate(chosen, coded, data)

    reached = 1.0 if chosen == "agreement" else evaluate(chosen, real, data)
    count = int(np.count_nonzero(judges))
    return Judged(
        str(metric_name(chosen)),
        reached,
        value,
        lambda got: max(0.0, -better_by(chosen, got, reached)),
        f"{count} calibration samples held out from fitting; the evaluation file was not looked at",
    )
