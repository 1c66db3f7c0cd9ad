"""Unstructured pruning: single weights become zero. That saves transfer bytes only: the image holds zeros as bytes."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.float_run import Floats
from tinyfleet_compiler.graph import Conv, Gemm, Graph, Node
from tinyfleet_compiler.prune.columns import layer_columns
from tinyfleet_compiler.prune.curve import Amount, Curve, Cutter, draw_curve
from tinyfleet_compiler.prune.judge import Judge
from tinyfleet_compiler.prune.repair import Masks, repair
from tinyfleet_compiler.prune.score_channels import count_macs

MOST_ROWS = 2_000
Reals = npt.NDArray[np.float64]


def prune_weights(graph: Graph, amount: Amount, judge: Judge, inputs: dict[str, Floats], budget: float | None) -> Curve:
    """Set the smallest weights to zero until `amount` of all weights are zeros, or as many as the budget allows.

    Arguments as for `prune_channels`.
    """
    return draw_curve(graph, weight_cutter(graph, inputs), count_macs, judge, amount, budget)


def weight_cutter(graph: Graph, inputs: dict[str, Floats]) -> Cutter:
    """What makes a share of all weights zero, the smallest first; repaired on `inputs` (N, ...).

    A weight's size is that of what it contributes: squared, times the mean square of its input, as a share of its
    layer's output.
    """
    sizes = _sizes(graph, inputs)
    everything = np.sort(np.concatenate([size.reshape(-1) for size in sizes.values()]))

    def cut(share: float) -> tuple[Graph, Graph]:
        limit = everything[min(int(share * len(everything)), len(everything) - 1)]
        # What is no smaller than the limit stays, but zeros never do.
        free = {output: (size >= limit) & (size > 0.0) for output, size in sizes.items()}
        plain = graph.with_nodes([_zero(node, free) for node in graph.nodes])
        return plain, repair(graph, plain, {}, inputs, free)

    return cut


def zero_share(graph: Graph) -> float:
    """Share of zeros among all weights."""
    weights = [node.weights for node in graph.nodes if isinstance(node, (Conv, Gemm))]
    total = sum(array.size for array in weights)
    return sum(int((array == 0).sum()) for array in weights) / max(total, 1)


def _sizes(graph: Graph, inputs: dict[str, Floats]) -> dict[str, Reals]:
    """Node output -> share of the layer's output that each weight (O, K) makes."""
    found = {}
    for node, columns in layer_columns(graph, inputs, MOST_ROWS):
        squares = np.square(columns).mean(axis=0)  # (groups, K)
        per_group = len(node.weights) // len(squares)
        weights = node.weights.reshape(len(node.weights), -1).astype(np.float64)
        size = np.square(weights) * np.repeat(squares, per_group, axis=0)
        found[node.output] = size / max(float(size.sum()), 1e-30)
    return found


def _zero(node: Node, free: Masks) -> Node:
    if node.output not in free:
        return node
    assert isinstance(node, (Conv, Gemm))
    kept = free[node.output].reshape(node.weights.shape)
    return replace(node, weights=np.where(kept, node.weights, np.float32(0.0)))
