"""Joins operators that work on one element alone into a single table."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinyfleet_compiler.graph import Add, Binary, BinaryOperator, Bounded, Clip, Graph, Lookup, Node, Reals

_COMBINE: dict[BinaryOperator, Callable[[Reals, Reals], Reals]] = {
    BinaryOperator.ADD: np.add,
    BinaryOperator.SUB: np.subtract,
    BinaryOperator.MUL: np.multiply,
    BinaryOperator.DIV: np.divide,
    BinaryOperator.MIN: np.minimum,
    BinaryOperator.MAX: np.maximum,
    BinaryOperator.SQUARED_DIFFERENCE: lambda a, b: np.square(a - b),
}


MOST_JOINED = 16
"""Longer chains are cut: what a pass may cost is bounded whatever the model."""


@dataclass(frozen=True)
class _Chain:
    """Nodes, by output, that make a function of the tensor `source` alone."""

    source: str
    through: frozenset[str]


def fuse_lookup(graph: Graph) -> Graph:
    """mul(x, sigmoid(x)), mul(mul(x, add(erf(mul(x, c)), 1)), 0.5), tanh(clip(x)) ... -> one lookup(x)."""
    chains: dict[str, list[_Chain]] = {}
    readers: dict[str, set[str]] = {}
    for node in graph.nodes:
        chains[node.output] = _chains(node, chains, graph)
        for name in node.inputs:
            readers.setdefault(name, set()).add(node.output)
    made: dict[str, Node] = {}
    gone: set[str] = set()
    for node in reversed(graph.nodes):  # the end of a chain comes before its inside
        closed = [c for c in chains[node.output] if _is_closed(c, node.output, readers, graph.outputs)]
        chain = max(closed, key=lambda c: len(c.through), default=None)
        if chain is not None and len(chain.through) > 1 and node.output not in gone:
            made[node.output] = _joined(graph, node, chain)
            gone |= chain.through - {node.output}
    return graph.with_nodes(made.get(node.output, node) for node in graph.nodes if node.output not in gone)


def _chains(node: Node, known: dict[str, list[_Chain]], graph: Graph) -> list[_Chain]:
    """What a node is a function of: its input, or what that is a function of. One chain a source."""
    if _step(node) is None or any(graph.shapes[name] != graph.shapes[node.output] for name in node.inputs):
        return []
    options = [[_Chain(name, frozenset()), *known.get(name, [])] for name in node.inputs]
    pairs = [(a, b) for a in options[0] for b in options[-1] if a.source == b.source]
    joined = [_Chain(a.source, a.through | b.through | {node.output}) for a, b in pairs]
    return [chain for chain in joined if len(chain.through) <= MOST_JOINED]


def _is_closed(chain: _Chain, last: str, readers: dict[str, set[str]], outputs: tuple[str, ...]) -> bool:
    """Whether the inside of a chain is read by the chain alone."""
    inside = chain.through - {last}
    return all(readers[name] <= chain.through for name in inside) and not inside & set(outputs)


def _joined(graph: Graph, last: Node, chain: _Chain) -> Lookup:
    nodes = [node for node in graph.nodes if node.output in chain.through]

    def function(x: Reals) -> Reals:
        values = {chain.source: x}
        for node in nodes:
            step = _step(node)
            assert step is not None
            values[node.output] = step(values[node.inputs[0]], values[node.inputs[-1]])
        return values[last.output]

    return Lookup(last.name, (chain.source,), last.output, function=function, parts=tuple(nodes))


def _step(node: Node) -> Callable[[Reals, Reals], Reals] | None:
    """What a node does to the elements of its first and last input; None when elements depend on others."""
    if isinstance(node, Lookup):
        return lambda a, b: node.function(a)
    if not isinstance(node, (Clip, Add, Binary)):
        return None
    inner: Callable[[Reals, Reals], Reals] = lambda a, b: a  # noqa: E731
    if isinstance(node, (Add, Binary)):
        combine = _COMBINE[node.operator if isinstance(node, Binary) else BinaryOperator.ADD]
        inner = combine
        if node.constant is not None:
            if (node.constant != node.constant.flat[0]).any():
                return None
            inner = _with_constant(combine, float(node.constant.flat[0]), isinstance(node, Binary) and node.swapped)
    return _clamped(inner, node)


def _with_constant(
    combine: Callable[[Reals, Reals], Reals], constant: float, swapped: bool
) -> Callable[[Reals, Reals], Reals]:
    value = np.asarray(constant)
    return (lambda a, b: combine(value, a)) if swapped else (lambda a, b: combine(a, value))


def _clamped(inner: Callable[[Reals, Reals], Reals], node: Bounded) -> Callable[[Reals, Reals], Reals]:
    return lambda a, b: np.clip(inner(a, b), node.low, node.high)
