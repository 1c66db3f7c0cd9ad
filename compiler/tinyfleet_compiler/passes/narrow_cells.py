"""Gives readers of a cell, which is int16, a tensor of the usual type."""

from dataclasses import replace

from tinyfleet_compiler.graph import Clip, Graph, LastCell, Node


def narrow_cells(graph: Graph) -> Graph:
    """last cell -> y  =>  last cell -> wide -> clip(-inf, inf) -> y."""
    nodes: list[Node] = []
    shapes = dict(graph.shapes)
    for node in graph.nodes:
        if isinstance(node, LastCell):
            wide = f"{node.output}/wide"
            shapes[wide] = shapes[node.output]
            nodes += [replace(node, output=wide), Clip(node.name, (wide,), node.output)]
        else:
            nodes.append(node)
    return graph.with_nodes(nodes, shapes=shapes)
