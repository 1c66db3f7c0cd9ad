"""The gate of a compile against a base: the user's metric on evaluation data, as points better than the base."""

import numpy as np

from tinyfleet_compiler.base import base_outputs
from tinyfleet_compiler.dataset import Dataset, in_source_order, to_source_order
from tinyfleet_compiler.float_run import Floats
from tinyfleet_compiler.graph import Graph
from tinyfleet_compiler.image import Image
from tinyfleet_compiler.metrics import Metric, better_by, choose_metric, evaluate
from tinyfleet_compiler.quantize.search import Gate

MOST_SAMPLES = 600
"""Of the evaluation data, evenly spread: every choice tried runs them."""


def base_gate(graph: Graph, image: Image | None, data: Dataset | None, metric: Metric | None) -> Gate | None:
    """None where there is no base, no labelled data, or the base's inputs or outputs are others."""
    if image is None or data is None or choose_metric(metric, data) == "agreement":
        return None
    few = _spread(data)
    old = base_outputs(image, few.inputs)
    output = graph.outputs[0]
    if old is None or old[0].shape[1:] != graph.shapes[output]:
        return None
    chosen, layout = choose_metric(metric, data), graph.source_layouts[output]
    labelled = in_source_order(few, graph.source_layouts)
    before = evaluate(chosen, np.asarray(to_source_order(old[0], layout)), labelled)

    def gain(outputs: dict[str, Floats]) -> float:
        return better_by(
            chosen, evaluate(chosen, np.asarray(to_source_order(outputs[output], layout)), labelled), before
        )

    return Gate(few.inputs, gain)


def _spread(data: Dataset) -> Dataset:
    step = -(-len(data) // MOST_SAMPLES)
    return Dataset({n: x[::step] for n, x in data.inputs.items()}, None if data.y is None else data.y[::step])
