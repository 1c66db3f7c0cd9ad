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
from tinyfleet_compiler.operators import SourceLayout
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
    output: int
    """Which of the graph's outputs is judged: the first of the caller's own."""


def judge_by(graph: Graph, metric: Metric | None, inputs: dict[str, Floats], y: npt.NDArray[Any] | None) -> Judged:
    """The metric over every fourth of the first calibration samples; agreement with float where they have no labels."""
    _, judges = held_out(len(next(iter(inputs.values()))))
    held = {name: x[:SEARCH_SAMPLES][judges] for name, x in inputs.items()}
    first = graph.live_outputs[0]
    layout = graph.source_layouts[first]
    real = to_source_order(run_float(graph, held)[first], layout)
    # Features behind a front end have no layout of the file's.
    given = {name: to_source_order(x, graph.source_layouts.get(name, SourceLayout.SAME)) for name, x in held.items()}
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
        graph.outputs.index(first),
    )
