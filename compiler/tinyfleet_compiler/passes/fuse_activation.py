"""Lets the node before a Relu or Clip clamp what it writes."""

from dataclasses import replace

from tinyfleet_compiler.graph import Bounded, Clip, Graph, Node


def fuse_activation(graph: Graph) -> Graph:
    """clip(f(x), low, high) -> f(x) bounded by [low, high], for every f that can clamp."""
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        before = nodes.get(node.inputs[0])
        if isinstance(node, Clip) and isinstance(before, Bounded) and graph.only_consumer(before.output) is node:
            del nodes[before.output]
            # The later clamp decides where both disagree.
            low = min(max(before.low, node.low), node.high)
            high = max(min(before.high, node.high), node.low)
            nodes[node.output] = replace(before, output=node.output, low=low, high=high)
        else:
            nodes[node.output] = node
    return graph.with_nodes(nodes.values())
