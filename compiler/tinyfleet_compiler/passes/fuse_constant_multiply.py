"""Works a constant factor per output channel into the weights before it."""

from dataclasses import replace

import numpy as np

from tinyfleet_compiler.graph import Binary, BinaryOperator, Conv, Floats, Gemm, Graph, Node


def fuse_constant_multiply(graph: Graph) -> Graph:
    """mul(conv(x, W, b), c) -> conv(x, c W, c b), gemm alike, where c is the same at every position."""
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        before = nodes.get(node.inputs[0])
        factors = _per_channel(graph, node, before)
        if isinstance(before, (Conv, Gemm)) and factors is not None and graph.only_consumer(before.output) is node:
            del nodes[before.output]
            nodes[node.output] = _scaled(before, factors, node.output)
        else:
            nodes[node.output] = node
    return graph.with_nodes(nodes.values())


def _per_channel(graph: Graph, node: Node, before: Node | None) -> Floats | None:
    """Factors (O,) when they depend on the channel alone, else None."""
    if not isinstance(node, Binary) or node.operator is not BinaryOperator.MUL or node.constant is None:
        return None
    if not isinstance(before, (Conv, Gemm)) or not np.isinf([before.low, before.high]).all():
        return None
    if graph.shapes[node.output] != graph.shapes[before.output]:
        return None
    # Channels are the first axis of what windows slide over and the last of everything else.
    axis = 0 if isinstance(before, Conv) else -1
    if node.constant.size not in (1, node.constant.shape[axis]):
        return None
    return np.broadcast_to(node.constant.reshape(-1), (len(before.bias),))


def _scaled(node: Conv | Gemm, factors: Floats, output: str) -> Node:
    weights = node.weights * factors.reshape(-1, *([1] * (node.weights.ndim - 1)))
    return replace(node, output=output, weights=weights, bias=node.bias * factors)
