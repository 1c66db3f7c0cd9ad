"""Drops nodes nobody reads and reshapes that change nothing."""

from dataclasses import replace

from tinyfleet_compiler.graph import Clip, Graph, Node, Pad, Reshape, Slice, Transpose


def remove_dead(graph: Graph) -> Graph:
    """unused -> nothing; reshape(x, shape of x) -> x; transpose(x, identity) -> x; clip(x, -inf, inf) -> x;
    a slice of everything, a pad of nothing -> x."""
    renamed: dict[str, str] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        node = replace(node, inputs=tuple(renamed.get(i, i) for i in node.inputs))
        if _is_identity(node, graph) and node.output not in graph.outputs:
            renamed[node.output] = node.inputs[0]
        else:
            kept.append(node)
    return graph.with_nodes(_reachable(kept, graph.outputs))


def drop_unread(graph: Graph) -> Graph:
    """unused -> nothing."""
    return graph.with_nodes(_reachable(list(graph.nodes), graph.outputs))


def _is_identity(node: Node, graph: Graph) -> bool:
    if isinstance(node, Reshape):
        return graph.shapes[node.inputs[0]] == node.shape
    if isinstance(node, Clip):
        return node.low == -float("inf") and node.high == float("inf")
    if isinstance(node, Pad):
        return not any((*node.before, *node.after))
    if isinstance(node, Slice):
        return graph.shapes[node.inputs[0]] == graph.shapes[node.output] and min(node.steps, default=1) > 0
    return isinstance(node, Transpose) and node.perm == tuple(range(len(node.perm)))


def _reachable(nodes: list[Node], outputs: tuple[str, ...]) -> list[Node]:
    needed = set(outputs)
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.output in needed:
            needed.update(node.inputs)
            kept.append(node)
    return kept[::-1]
