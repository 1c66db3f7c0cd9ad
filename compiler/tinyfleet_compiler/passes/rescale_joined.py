"""Gives the operands of a concatenation tensors of their own where they cannot take its scale."""

from dataclasses import replace

from tinyfleet_compiler.graph import Clip, Graph, Node
from tinyfleet_compiler.quantize.shared import can_follow, joins_scales


def rescale_joined(graph: Graph) -> Graph:
    """concat(x, y) -> concat(clip(x, -inf, inf), y) where x has other readers or a scale of its own; pad alike."""
    nodes: list[Node] = []
    shapes = dict(graph.shapes)
    for node in graph.nodes:
        if joins_scales(node):
            inputs = []
            for index, name in enumerate(node.inputs):
                if not can_follow(graph, name):
                    copy = f"{node.output}/scaled{index}"
                    nodes.append(Clip(f"{node.name}/scale{index}", (name,), copy))
                    shapes[copy] = shapes[name]
                    name = copy
                inputs.append(name)
            node = replace(node, inputs=tuple(inputs))
        nodes.append(node)
    return graph.with_nodes(nodes, shapes=shapes)
