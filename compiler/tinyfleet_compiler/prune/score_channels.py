"""In which order channels go: always the group whose loss, after the best repair, is smallest for the MACs it saves.

The loss of a group is that of Optimal Brain Surgeon (Hassibi and Stork 1992) for several weights at once: with the
inverse H of the covariance of a layer's inputs and the weights W of the group's inputs, the squared output error left
after refitting all other weights is trace(W inv(H[group, group]) W'). It is counted as a share of the layer's variance.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.float_run import Floats
from tinyfleet_compiler.graph import Conv, ConvTranspose, Gemm, Graph, elements
from tinyfleet_compiler.prune.columns import layer_columns
from tinyfleet_compiler.prune.couple_channels import FIXED, Coupling, couple_channels, is_depthwise

Reals = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
MOST_ROWS = 8_000
DAMPING = 1e-3
"""Of the mean variance of an input: keeps the inverse of a few samples tame."""
MOST_INPUTS = 2_048
"""A layer with more inputs an output is judged by magnitudes alone: its inverse would cost seconds."""


class MacCounter:
    """MACs of a graph as groups leave it."""

    def __init__(self, graph: Graph, coupling: Coupling) -> None:
        weighted = [n for n in graph.nodes if isinstance(n, (Conv, Gemm))]
        rows = [self._row(graph, coupling, node) for node in weighted]
        self.taps = np.array([row[0] for row in rows], dtype=np.float64)
        self.sources = np.array([row[1] for row in rows], dtype=np.float64).reshape(len(rows), -1)
        self.results = np.array([row[2] for row in rows], dtype=np.float64).reshape(len(rows), -1)

    @staticmethod
    def _row(graph: Graph, coupling: Coupling, node: Conv | Gemm) -> tuple[float, Reals, Reals]:
        """MACs of one input channel to one output channel, and how many of each a group has here."""
        counts = [
            np.bincount(coupling.groups[name], minlength=coupling.count) for name in (node.inputs[0], node.output)
        ]
        sources, results = (count.astype(np.float64) for count in counts)
        if isinstance(node, Conv) and node.groups > 1:
            # One output reads a fixed number of inputs, whatever else goes.
            sources = np.zeros(coupling.count)
            sources[FIXED] = node.weights.shape[-1]
        places = elements(graph.shapes[node.inputs[0] if isinstance(node, ConvTranspose) else node.output][:-1])
        taps = node.weights.shape[1] * node.weights.shape[2] if isinstance(node, Conv) else 1
        return float(places * taps), sources, results

    def total(self, kept: Mask) -> float:
        """MACs with only the groups where `kept` is true."""
        return float((self.taps * (self.sources @ kept) * (self.results @ kept)).sum())

    def savings(self, kept: Mask) -> Reals:
        """MACs that each group alone would take away (count,)."""
        sources, results = (self.sources @ kept)[:, None], (self.results @ kept)[:, None]
        left = (sources - self.sources) * (results - self.results)
        return np.asarray((self.taps[:, None] * (sources * results - left)).sum(axis=0))


@dataclass(eq=False)
class _Consumer:
    """A layer that reads prunable channels: covariance inverse and weights change as channels leave."""

    columns: npt.NDArray[np.int64]
    """Group of each input column (K,)."""
    inverse: Reals
    weights: Reals
    variance: float

    def losses(self, count: int) -> Reals:
        """Loss of each group (count,)."""
        found = np.zeros(count)
        for group in np.unique(self.columns[self.columns != FIXED]):
            at = np.flatnonzero(self.columns == group)
            part = self.weights[:, at]
            found[group] = float((part * np.linalg.solve(self.inverse[np.ix_(at, at)], part.T).T).sum())
        return found / self.variance

    def drop(self, group: int) -> None:
        """Take a group's columns away and refit the others."""
        at = self.columns == group
        if not at.any():
            return
        pivot = self.inverse[:, at]
        share = np.linalg.solve(self.inverse[np.ix_(at, at)], pivot.T)
        self.weights = self.weights - self.weights[:, at] @ share
        self.inverse = (self.inverse - pivot @ share)[~at][:, ~at]
        self.weights, self.columns = self.weights[:, ~at], self.columns[~at]


def count_macs(graph: Graph) -> int:
    """Multiply-accumulates of the weighted layers."""
    coupling = couple_channels(graph)
    return int(MacCounter(graph, coupling).total(np.ones(coupling.count, bool)))


def order_channels(
    graph: Graph, coupling: Coupling, inputs: dict[str, Floats], share: float
) -> list[tuple[int, float]]:
    """(group, MACs left as a share of all) in the order they should go, until `share` of the MACs are gone.

    Stops early when no layer can spare another channel.
    """
    consumers = _consumers(graph, coupling, inputs)
    counter, kept = MacCounter(graph, coupling), np.ones(coupling.count, bool)
    all_macs = max(counter.total(kept), 1.0)
    losses = np.array([c.losses(coupling.count) for c in consumers]).reshape(len(consumers), coupling.count)
    order: list[tuple[int, float]] = []
    while not order or order[-1][1] > 1.0 - share:
        saved = counter.savings(kept)
        free = kept & _spare(coupling, kept) & (saved > 0)
        free[FIXED] = False
        if not free.any():
            break
        group = int(np.argmin(np.where(free, (losses.sum(axis=0) + 1e-12) / np.maximum(saved, 1.0), np.inf)))
        kept[group] = False
        for index, consumer in enumerate(consumers):
            if (consumer.columns == group).any():
                consumer.drop(group)
                losses[index] = consumer.losses(coupling.count)
        order.append((group, counter.total(kept) / all_macs))
    return order


def _spare(coupling: Coupling, kept: Mask) -> Mask:
    """Groups that no tensor would be empty without."""
    spare = np.ones(coupling.count, bool)
    for row in coupling.groups.values():
        left = np.unique(row[kept[row]])
        if len(left) == 1:
            spare[left[0]] = False
    return spare


def _consumers(graph: Graph, coupling: Coupling, inputs: dict[str, Floats]) -> list[_Consumer]:
    return [
        _consumer(coupling.groups[node.inputs[0]], node, columns[:, 0])
        for node, columns in layer_columns(graph, inputs, MOST_ROWS)
        if not is_depthwise(graph, node) and (coupling.groups[node.inputs[0]] != FIXED).any()
    ]


def _consumer(groups: npt.NDArray[np.int64], node: Conv | Gemm, inputs: Reals) -> _Consumer:
    weights = node.weights.reshape(len(node.weights), -1).astype(np.float64)
    covariance = np.cov(inputs, rowvar=False, bias=True).reshape(weights.shape[1], -1)
    variance = float(((weights @ covariance) * weights).sum())
    floor = DAMPING * max(float(np.trace(covariance)) / len(covariance), 1e-12)
    if len(covariance) > MOST_INPUTS:
        covariance = np.diag(np.diag(covariance))
    inverse = np.asarray(np.linalg.inv(covariance + floor * np.eye(len(covariance))), dtype=np.float64)
    return _Consumer(np.tile(groups, weights.shape[1] // len(groups)), inverse, weights, max(variance, 1e-12))
