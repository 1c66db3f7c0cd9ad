"""Lets a convolution write its channels in the order somebody wants them in."""

from dataclasses import replace

import numpy as np

from tinyfleet_compiler.graph import Conv, Gather, Graph, Node


def fuse_gather(graph: Graph) -> Graph:
    """gather(conv(x, W, b), channels) -> conv(x, W[channels], b[channels]), one group."""
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        before = nodes.get(node.inputs[0])
        if isinstance(before, Conv) and _orders_channels(graph, node, before):
            assert isinstance(node, Gather)
            del nodes[before.output]
            rows = np.array(node.indices)
            taken = replace(before, output=node.output, weights=before.weights[rows], bias=before.bias[rows])
            nodes[node.output] = taken
        else:
            nodes[node.output] = node
    return graph.with_nodes(nodes.values())


def _orders_channels(graph: Graph, node: Node, conv: Conv) -> bool:
    alone = graph.only_consumer(conv.output) is node
    return alone and isinstance(node, Gather) and node.axis == 0 and conv.groups == 1
