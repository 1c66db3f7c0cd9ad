"""`prune_graph`: channels first, then single weights, both within one accuracy budget."""

from dataclasses import dataclass

from tinyfleet_compiler.dataset import Dataset
from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.graph import Conv, Gemm, Graph
from tinyfleet_compiler.metrics import Metric, metric_name
from tinyfleet_compiler.prune.columns import is_fitted
from tinyfleet_compiler.prune.curve import DEFAULT_BUDGET_POINTS, Amount, Curve, Step
from tinyfleet_compiler.prune.judge import make_judge
from tinyfleet_compiler.prune.prune_channels import prune_channels
from tinyfleet_compiler.prune.prune_weights import prune_weights, zero_share

MOST_SAMPLES = 200
"""Calibration samples fitted to."""


@dataclass(frozen=True)
class PruneOptions:
    """What to prune; amounts are shares between 0 and 1, or "auto"."""

    channels: Amount | None = None
    """Share of the MACs to take away by whole channels."""
    weights: Amount | None = None
    """Share of all weights to make zero."""
    budget_points: float | None = None
    """Most the metric may lose: hundredths of an accuracy, per cent of a loss. None: as asked; for "auto" 1."""

    def __post_init__(self) -> None:
        for name, amount in (("channels", self.channels), ("weights", self.weights)):
            if isinstance(amount, str) and amount != "auto":
                raise ValueError(f"prune {name} is '{amount}'; use a share between 0 and 1, or auto")
            if isinstance(amount, (int, float)) and not 0.0 < amount < 1.0:
                raise ValueError(f"prune {name} is {amount}; use a share above 0 and below 1, or auto")
        if self.budget_points is not None and not 0.0 <= self.budget_points <= 100.0:
            raise ValueError(f"the accuracy budget is {self.budget_points} points; use 0 to 100")

    @property
    def wanted(self) -> bool:
        """Whether there is anything to do."""
        return self.channels is not None or self.weights is not None

    @property
    def budget(self) -> float | None:
        """Points that both together may lose."""
        if self.budget_points is None and "auto" in (self.channels, self.weights):
            return DEFAULT_BUDGET_POINTS
        return self.budget_points


@dataclass(frozen=True, eq=False)
class Pruning:
    """The pruned graph with how it came about."""

    original: Graph
    graph: Graph
    options: PruneOptions
    judged_on: str
    metric: str
    samples: int
    float_value: float
    """The metric of the original."""
    channels: tuple[Step, ...]
    weights: tuple[Step, ...]
    layers: tuple[tuple[str, int, int], ...]
    """(layer, output channels before, after) of every layer that lost some."""
    zeros: tuple[float, float]
    """Share of zero weights before and after."""


def prune_graph(
    graph: Graph, options: PruneOptions, samples: Dataset, evaluation: Dataset | None, metric: Metric | None
) -> Pruning:
    """Prune a channels-last float graph. Judged by evaluation data, else by calibration samples held out.

    Raises `ModelError` where no layer could be pruned, `DatasetError` where the metric cannot be had.
    """
    if not any(map(is_fitted, graph.nodes)):
        raise ModelError(
            "the model has no convolution and no fully connected layer to prune; compile it without pruning"
        )
    judge, inputs = make_judge(graph, samples, evaluation, metric)
    few = {name: x[:MOST_SAMPLES] for name, x in inputs.items()}
    slim = Curve((), graph)
    if options.channels is not None:
        slim = prune_channels(graph, options.channels, judge, few, options.budget)
    light = Curve((), slim.graph)
    if options.weights is not None:
        light = prune_weights(slim.graph, options.weights, judge, few, options.budget)
    return Pruning(
        graph,
        light.graph,
        options,
        judge.source,
        metric_name(judge.metric) or "",
        len(judge.data),
        judge.quality(graph).value,
        slim.steps,
        light.steps,
        _layers(graph, light.graph),
        (zero_share(graph), zero_share(light.graph)),
    )


def _layers(before: Graph, after: Graph) -> tuple[tuple[str, int, int], ...]:
    pairs = zip(before.nodes, after.nodes, strict=True)
    rows = (
        (a.name, len(a.weights), len(b.weights))
        for a, b in pairs
        if isinstance(a, (Conv, Gemm)) and isinstance(b, (Conv, Gemm))
    )
    return tuple(row for row in rows if row[1] != row[2])
