"""Recognises the division by a norm that exporters write out: ReduceL2, a bound against zero, Expand, Div."""

import numpy as np

from tinyfleet_compiler.graph import (
    Add,
    Binary,
    BinaryOperator,
    Clip,
    Gather,
    Graph,
    L2Normalize,
    Node,
    Reduce,
    ReduceOperator,
    Reshape,
)
from tinyfleet_compiler.passes.fuse_normalize import adds, is_function, quotient, squared
from tinyfleet_compiler.passes.remove_dead import drop_unread

MOST_EPSILON = 1e-6
"""What bounds a norm against a division by zero, or is added to it. More than that is meant to be seen."""
MOST_SQUARE = 1e-8
"""The same for the sum of squares below the root."""


def fuse_l2_normalize(graph: Graph) -> Graph:
    """x / max(sqrt(sum(x^2)), e) -> l2_normalize(x), over channels or the last axis, with e near zero."""
    made: dict[str, Node] = {node.output: node for node in graph.nodes}
    for node in graph.nodes:
        found = _normalization(graph, made, node)
        if found is not None:
            made[node.output] = found
    return drop_unread(graph.with_nodes(made.values()))


def _normalization(graph: Graph, made: dict[str, Node], node: Node) -> L2Normalize | None:
    for x, divisor in quotient(made, node):
        norm = _unspread(graph, made, divisor)
        root = _unguarded(made, norm, MOST_EPSILON)
        inside = _inside(made, root, divisor)
        way = [divisor, norm, root, inside, _unguarded(made, inside, MOST_SQUARE)]
        total = made.get(way[-1])
        if not isinstance(total, Reduce) or total.operator is not ReduceOperator.SUM:
            continue
        if squared(made, total.inputs[0]) != x or not {total.inputs[0], *way}.isdisjoint(graph.outputs):
            continue
        shape = graph.shapes[x]
        (axis, *more) = total.axes
        reduced = (*shape[:axis], 1, *shape[axis + 1 :])
        if not more and axis in (0, len(shape) - 1) and graph.shapes[norm] == reduced:
            return L2Normalize(node.name, (x,), node.output, axis=axis)
    return None


def _unspread(graph: Graph, made: dict[str, Node], tensor: str) -> str:
    """What an Expand repeated: it repeats by itself where it is divided by."""
    node = made.get(tensor)
    while isinstance(node, Gather) and graph.shapes[node.inputs[0]][node.axis] == 1:
        tensor = node.inputs[0]
        node = made.get(tensor)
    return tensor


def _unguarded(made: dict[str, Node], tensor: str, most: float) -> str:
    """What a bound against zero holds up, and reshapes that keep its order: e + t, max(t, e)."""
    node = made.get(tensor)
    while isinstance(node, (Add, Binary, Clip, Reshape)) and len(node.inputs) == 1 and _is_guard(node, most):
        tensor = node.inputs[0]
        node = made.get(tensor)
    return tensor


def _is_guard(node: Add | Binary | Clip | Reshape, most: float) -> bool:
    if isinstance(node, Reshape):
        return True
    if isinstance(node, Clip):
        return node.low <= most and node.high == np.inf
    bounds = isinstance(node, Binary) and node.operator is BinaryOperator.MAX
    return (adds(node) or bounds) and node.constant is not None and bool((np.abs(node.constant) <= most).all())


def _inside(made: dict[str, Node], root: str, divisor: str) -> str:
    """What a root is taken of; "" where it is none. A power -1/2 is one where the quotient ends in it."""
    node, powers = made.get(root), ("Pow -0.5",) if root == divisor else ()
    return node.inputs[0] if node is not None and is_function(node, "Sqrt", "Pow 0.5", *powers) else ""
