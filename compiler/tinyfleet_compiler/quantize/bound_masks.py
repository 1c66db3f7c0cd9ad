"""Masks of attention, whose -1e9 would leave int8 nothing for the scores beside it."""

from dataclasses import replace

import numpy as np

from tinyfleet_compiler.graph import Add, Binary, BinaryOperator, Graph, Node, Softmax
from tinyfleet_compiler.quantize.calibrate import Observed
from tinyfleet_compiler.quantize.taken import QuantizedGraph

MASK = -1e4
"""What exporters add to scores that do not count: this, -65504, -1e9, or the lowest float32."""
MARGIN = 11.0
"""A score so far below the smallest that was seen has less than 2^-15 of the largest one's probability."""


def bound_masks(graph: Graph, observed: dict[str, Observed]) -> Graph:
    """softmax(x + mask) -> softmax(clamp(x + mask')), where mask' just reaches what is below every x. The same graph
    where there is no such sum, or where the numbers come with it."""
    if isinstance(graph, QuantizedGraph):
        return graph
    nodes = [_bounded(graph, node, observed) for node in graph.nodes]
    changed = any(new is not old for new, old in zip(nodes, graph.nodes, strict=True))
    return graph.with_nodes(nodes) if changed else graph


def _bounded(graph: Graph, node: Node, observed: dict[str, Observed]) -> Node:
    if not isinstance(node, (Add, Binary)) or node.constant is None or node.low != -np.inf:
        return node
    reader, counts = _softmax(graph, node.output), node.constant > MASK
    product = isinstance(node, Binary) and node.operator is not BinaryOperator.ADD
    if product or reader is None or counts.all() or not counts.any():
        return node
    seen = observed[graph.root(node.inputs[0])]
    low = float(seen.low + node.constant[counts].min() - MARGIN / reader.beta)
    return replace(node, constant=np.where(counts, node.constant, np.float32(low - seen.high)), low=low)


def _softmax(graph: Graph, tensor: str) -> Softmax | None:
    """The only reader of a tensor, where it is one."""
    readers = graph.byte_readers(tensor)
    alone = len(readers) == 1 and tensor not in map(graph.root, graph.outputs)
    return readers[0] if alone and isinstance(readers[0], Softmax) and readers[0].beta > 0.0 else None
