"""Which (C, L) tensors the device holds as (L, C): those that windows slide over, and what only passes them on."""

from tinyfleet_compiler.graph import (
    Add,
    AveragePool,
    Binary,
    Clip,
    Concat,
    Conv,
    Gather,
    Graph,
    Lookup,
    MaxPool,
    Node,
    Pad,
    PRelu,
    Resize,
    Slice,
)

WINDOWS = (Conv, MaxPool, AveragePool, Resize)
"""Nodes that need channels last; on a sequence they run over an image of one row."""
_EITHER = (Add, Binary, Clip, Concat, Gather, Lookup, Pad, PRelu, Slice)
"""Nodes that work in any order of axes, as long as all their tensors have the same."""


def find_sequences(graph: Graph) -> set[str]:
    """Names of the (C, L) tensors to turn."""
    found = {t for node in graph.nodes if isinstance(node, WINDOWS) for t in _tensors(node) if _is_sequence(graph, t)}
    groups = [_tensors(node) for node in graph.nodes if passes_on(graph, node)]
    grown = True
    while grown:
        before = len(found)
        for group in groups:
            if not found.isdisjoint(group):
                found.update(group)
        grown = len(found) > before
    return found


def passes_on(graph: Graph, node: Node) -> bool:
    """Whether a node takes its tensors (C, L) or (L, C) alike."""
    return isinstance(node, _EITHER) and all(_is_sequence(graph, t) for t in _tensors(node))


def _tensors(node: Node) -> tuple[str, ...]:
    return (*node.inputs, node.output)


def _is_sequence(graph: Graph, tensor: str) -> bool:
    return len(graph.shapes[tensor]) == 2
