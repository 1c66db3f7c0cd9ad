"""Which tensors the device holds channels-last: (C, H, W) as (H, W, C), (C, L) as (L, C).

Nodes that work in any order of axes tie their tensors together; in every such group the nodes that need an order
decide, then the transposes and reshapes around it, whichever leaves more of them without work.
"""

from tinyfleet_compiler.graph import (
    Add,
    ArgMax,
    AveragePool,
    Binary,
    Clip,
    Concat,
    Conv,
    DepthToSpace,
    Gated,
    Gather,
    Gemm,
    Graph,
    L2Normalize,
    LastCell,
    LogSoftmax,
    Lookup,
    MatMul,
    MaxPool,
    Node,
    Normalize,
    Pad,
    PRelu,
    Reduce,
    Reshape,
    Resize,
    Shape,
    Slice,
    Softmax,
    SpaceToDepth,
    TopK,
    Transpose,
    elements,
)

WINDOWS = (Conv, MaxPool, AveragePool, Resize)
"""Nodes that need channels last; on a sequence they run over an image of one row."""
_EITHER = (Add, Binary, Clip, Concat, Gather, Lookup, Pad, PRelu, Slice, Reduce, ArgMax)
"""Nodes that work in any order of axes, as long as all their tensors have the same."""


def wanted_order(graph: Graph, node: Node) -> bool | None:
    """Whether a node needs its tensors channels-last (True) or in the order of the model file (False)."""
    rank = len(graph.shapes[node.inputs[0]])
    if rank == 1:
        return None
    if isinstance(node, (*WINDOWS, DepthToSpace, SpaceToDepth)):
        return True
    if isinstance(node, (Gemm, Gated, LastCell)):
        return False
    if isinstance(node, (L2Normalize, Softmax, LogSoftmax, TopK)):
        return node.axis == 0
    if isinstance(node, Normalize):
        return True if node.groups or node.axes == (0,) else None if len(node.axes) == rank else False
    if isinstance(node, Reduce) and node.axes == (0, 2):
        return True  # neighbours on the device only
    return None


def choose_layouts(graph: Graph) -> set[str]:
    """Names of the tensors to hold channels-last."""
    groups = _Groups(graph)
    decided = {groups.find(tensor): False for tensor in _kept_in_source_order(graph) if tensor in groups.parent}
    decided |= groups.votes()
    while open_groups := [g for g in groups.members if g not in decided]:
        wishes = {g: groups.wish(g, decided) for g in open_groups}
        chosen = max(open_groups, key=lambda g: abs(wishes[g]))
        decided[chosen] = wishes[chosen] > 0 if wishes[chosen] else groups.default(chosen)
    return {tensor for group, last in decided.items() if last for tensor in groups.members[group]}


class _Groups:
    """Tensors of two or three axes, tied together by the nodes that keep their order."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.parent = {t: t for t, shape in graph.shapes.items() if len(shape) >= 2}
        for node in graph.nodes:
            for tensor in node.inputs if _ties(graph, node) else ():
                self.parent[self.find(tensor)] = self.find(node.output)
        for state in graph.states:  # the device keeps what is written in the order it is read
            if state.read in self.parent and state.kept in self.parent:
                self.parent[self.find(state.read)] = self.find(state.kept)
        self.members: dict[str, list[str]] = {}
        for tensor in self.parent:
            self.members.setdefault(self.find(tensor), []).append(tensor)
        self.bridges: dict[str, list[Node]] = {}
        self.products: set[str] = set()
        for node in graph.nodes:
            for tensor in (*node.inputs, node.output):
                if tensor in self.parent and _is_bridge(graph, node):
                    self.bridges.setdefault(self.find(tensor), []).append(node)
                if tensor in self.parent and isinstance(node, MatMul):
                    self.products.add(self.find(tensor))

    def find(self, tensor: str) -> str:
        while self.parent[tensor] != tensor:
            self.parent[tensor] = self.parent[self.parent[tensor]]
            tensor = self.parent[tensor]
        return tensor

    def votes(self) -> dict[str, bool]:
        """Groups that a node decides; where nodes disagree, windows win: they cost most."""
        decided: dict[str, bool] = {}
        for node in self.graph.nodes:
            wanted = wanted_order(self.graph, node)
            for tensor in (*node.inputs, node.output):
                if wanted is not None and tensor in self.parent:
                    group = self.find(tensor)
                    decided[group] = decided.get(group, False) or wanted
        return decided

    def wish(self, group: str, decided: dict[str, bool]) -> int:
        """Elements that transposes and reshapes to decided groups move in source order, less those channels-last."""
        cost = {True: 0, False: 0}
        for node in self.bridges.get(group, ()):
            for last in (True, False):
                states = [self._state(t, group, decided, last) for t in (node.inputs[0], node.output)]
                if None not in states and not _is_view(self.graph, node, bool(states[0]), bool(states[1])):
                    cost[last] += elements(self.graph.shapes[node.output])
        return cost[False] - cost[True]

    def _state(self, tensor: str, group: str, decided: dict[str, bool], last: bool) -> bool | None:
        root = self.find(tensor)
        return last if root == group else decided.get(root)

    def default(self, group: str) -> bool:
        tensors = self.members[group]
        return group not in self.products and any(len(self.graph.shapes[t]) == 3 for t in tensors)


def _ties(graph: Graph, node: Node) -> bool:
    """Whether all tensors of a node should have one order."""
    shapes = [graph.shapes[t] for t in (*node.inputs, node.output)]
    if any(not 2 <= len(s) <= 3 for s in shapes):
        return False
    if isinstance(node, Reshape):
        return shapes[0][0] == shapes[1][0]
    return isinstance(node, _EITHER)


def _is_bridge(graph: Graph, node: Node) -> bool:
    """Transposes, and reshapes that keep several axes: whatever is flattened, the layer behind it is turned instead."""
    ranks = [len(graph.shapes[t]) for t in (node.inputs[0], node.output)]
    return isinstance(node, Transpose) or (isinstance(node, Reshape) and min(ranks) > 1)


def _is_view(graph: Graph, node: Node, source_last: bool, target_last: bool) -> bool:
    """Whether a transpose or reshape moves nothing when its tensors are held so."""
    source, target = graph.shapes[node.inputs[0]], graph.shapes[node.output]
    if isinstance(node, Transpose):
        held = [node.perm[axis] for axis in _order(len(target), target_last)]
        stored = _order(len(source), source_last)
        long = [stored.index(axis) for axis in held if source[axis] > 1]
        return long == sorted(long)
    first, second = source_last and not is_trivial(source), target_last and not is_trivial(target)
    return first == second and (not first or source[0] == target[0])


def _order(rank: int, last: bool) -> list[int]:
    return [*range(1, rank), 0] if last else list(range(rank))


def is_trivial(shape: Shape) -> bool:
    """Whether (C, H, W) and (H, W, C), or (C, L) and (L, C), hold the elements in the same order."""
    return shape[0] == 1 or elements(shape[1:]) == 1


def _kept_in_source_order(graph: Graph) -> set[str]:
    """Inputs read, and sequences given out that are written, by transposes only."""
    kept = set()
    for tensor in graph.inputs:
        readers = graph.consumers(tensor)
        if readers and tensor not in graph.outputs and all(isinstance(r, Transpose) for r in readers):
            kept.add(tensor)
    for tensor in graph.outputs:
        turned = isinstance(graph.producer(tensor), Transpose) and not graph.consumers(tensor)
        if turned and len(graph.shapes[tensor]) == 2:
            kept.add(tensor)
    return kept
