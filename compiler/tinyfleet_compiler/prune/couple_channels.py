"""Which channels of a channels-last graph can only go together.

Every tensor's last axis is a row of group numbers. A convolution or fully-connected layer starts new groups; depthwise
layers, element-wise nodes and pooling carry them on; Add makes two rows one; Concat joins rows. Group `FIXED` stays:
model inputs and outputs, and whatever a node this file has no rule for touches.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.graph import (
    Add,
    AveragePool,
    Binary,
    Clip,
    Concat,
    Conv,
    Gemm,
    Graph,
    Lookup,
    MaxPool,
    Node,
    Pad,
    PRelu,
    Reduce,
    Resize,
    Shape,
)

Groups = npt.NDArray[np.int64]
FIXED = 0


@dataclass(frozen=True)
class Coupling:
    """Tensor name (views too) -> group of each index of its last axis; groups are 0 (fixed) to `count` - 1."""

    groups: dict[str, Groups]
    count: int


def couple_channels(graph: Graph) -> Coupling:
    """The groups of a channels-last graph."""
    walk = _Walk(graph)
    for name in graph.inputs:
        walk.rows[name] = walk.fixed(name)
    for node in graph.nodes:
        sources = [walk.row(name) for name in node.inputs]
        walk.rows[node.output] = _RULES.get(type(node), _hold)(walk, node, sources)
    for name in graph.outputs:
        walk.sets.join(walk.row(name), np.array([FIXED]))
    return walk.coupling()


def is_depthwise(graph: Graph, node: Node) -> bool:
    """Whether every output channel of a convolution reads one input channel."""
    return isinstance(node, Conv) and node.groups > 1 and node.groups == graph.shapes[node.inputs[0]][-1]


class _Sets:
    """Union-find; the smallest member names a set, so that what is joined with FIXED is FIXED."""

    def __init__(self) -> None:
        self.parents = [FIXED]

    def new(self, count: int) -> Groups:
        first = len(self.parents)
        self.parents += range(first, first + count)
        return np.arange(first, first + count)

    def find(self, member: int) -> int:
        while self.parents[member] != member:
            self.parents[member] = self.parents[self.parents[member]]
            member = self.parents[member]
        return member

    def join(self, left: Groups, right: Groups) -> None:
        for a, b in np.broadcast(left, right):
            low, high = sorted((self.find(int(a)), self.find(int(b))))
            self.parents[high] = low


class _Walk:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.sets = graph, _Sets()
        self.rows: dict[str, Groups] = {}

    def fixed(self, name: str) -> Groups:
        return np.full(self.graph.shapes[name][-1], FIXED)

    def row(self, name: str) -> Groups:
        """Groups of a tensor, worked out from the tensor it is a view of where it is one."""
        if name not in self.rows:
            root = self.graph.root(name)
            self.rows[name] = self._seen(self.rows[root], self.graph.shapes[root], name)
        return self.rows[name]

    def _seen(self, groups: Groups, shape: Shape, view: str) -> Groups:
        rows = np.broadcast_to(groups, shape).reshape(-1, self.graph.shapes[view][-1])
        if (rows == rows[0]).all():
            return np.asarray(rows[0])
        self.sets.join(groups, np.array([FIXED]))
        return self.fixed(view)

    def coupling(self) -> Coupling:
        names = [*self.rows, *(name for name in self.graph.shapes if name not in self.rows)]
        known = {self.graph.root(name) for name in names} & self.rows.keys()
        found = {name: self.row(name) for name in names if self.graph.root(name) in known}
        roots = {name: np.array([self.sets.find(int(g)) for g in row]) for name, row in found.items()}
        _, numbers = np.unique(np.concatenate([[FIXED], *roots.values()]), return_inverse=True)
        parts = np.split(numbers[1:], np.cumsum([len(row) for row in roots.values()])[:-1])
        return Coupling(dict(zip(roots, parts, strict=True)), int(numbers.max()) + 1)


def _hold(walk: _Walk, node: Node, sources: list[Groups]) -> Groups:
    for row in sources:
        walk.sets.join(row, np.array([FIXED]))
    return walk.fixed(node.output)


def _conv(walk: _Walk, node: Node, sources: list[Groups]) -> Groups:
    assert isinstance(node, Conv)
    if node.groups == 1:
        return walk.sets.new(len(node.weights))
    if is_depthwise(walk.graph, node):
        return np.repeat(sources[0], len(node.weights) // node.groups)
    return _hold(walk, node, sources)


def _gemm(walk: _Walk, node: Node, sources: list[Groups]) -> Groups:
    assert isinstance(node, Gemm)
    return walk.sets.new(len(node.weights))


def _carry(walk: _Walk, node: Node, sources: list[Groups]) -> Groups:
    return sources[0]


def _add(walk: _Walk, node: Node, sources: list[Groups]) -> Groups:
    assert isinstance(node, Add)
    if node.constant is not None and node.constant.size % len(sources[0]):
        return _hold(walk, node, sources)
    return _meet(walk, node, sources)


def _binary(walk: _Walk, node: Node, sources: list[Groups]) -> Groups:
    assert isinstance(node, Binary)
    wide = len(walk.fixed(node.output))
    widths = [len(row) for row in sources] + ([] if node.constant is None else [node.constant.shape[-1]])
    whole = all(len(row) == wide for row in sources) and set(widths) <= {1, wide}
    return _meet(walk, node, sources) if whole else _hold(walk, node, sources)


def _prelu(walk: _Walk, node: Node, sources: list[Groups]) -> Groups:
    assert isinstance(node, PRelu)
    return sources[0] if node.slopes.size % len(sources[0]) == 0 else _hold(walk, node, sources)


def _meet(walk: _Walk, node: Node, sources: list[Groups]) -> Groups:
    for row in sources[1:]:
        walk.sets.join(sources[0], row)
    return sources[0]


def _concat(walk: _Walk, node: Node, sources: list[Groups]) -> Groups:
    assert isinstance(node, Concat)
    if node.constant is not None:
        return _hold(walk, node, sources)
    last = len(walk.graph.shapes[node.output]) - 1
    return np.concatenate(sources) if node.axis == last else _meet(walk, node, sources)


def _pad(walk: _Walk, node: Node, sources: list[Groups]) -> Groups:
    assert isinstance(node, Pad)
    return _hold(walk, node, sources) if node.before[-1] or node.after[-1] else sources[0]


def _reduce(walk: _Walk, node: Node, sources: list[Groups]) -> Groups:
    assert isinstance(node, Reduce)
    last = len(walk.graph.shapes[node.inputs[0]]) - 1
    return _hold(walk, node, sources) if last in node.axes else sources[0]


_RULES: dict[type[Node], Callable[[_Walk, Node, list[Groups]], Groups]] = {
    Conv: _conv,
    Gemm: _gemm,
    Add: _add,
    Binary: _binary,
    Clip: _carry,
    Lookup: _carry,
    MaxPool: _carry,
    AveragePool: _carry,
    Resize: _carry,
    PRelu: _prelu,
    Concat: _concat,
    Pad: _pad,
    Reduce: _reduce,
}
"""Exact types: a subclass such as ConvTranspose holds its channels until it has a rule."""
