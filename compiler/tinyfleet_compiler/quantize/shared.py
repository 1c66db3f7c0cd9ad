"""Tensors that must share scale and zero point because one operator joins their bytes."""

from tinyfleet_compiler.graph import (
    Add,
    Binary,
    Clip,
    Concat,
    Conv,
    DepthToSpace,
    Gather,
    Gemm,
    Graph,
    MatMul,
    MaxPool,
    Node,
    Normalize,
    Pad,
    PRelu,
    Resize,
    Slice,
    SpaceToDepth,
    TopK,
    Transpose,
)

_CHOOSERS = (Conv, Gemm, MatMul, Normalize, Add, Clip, Concat, PRelu, Binary)
"""Nodes that can write at any scale."""
_CARRIERS = (MaxPool, Transpose, Slice, Gather, DepthToSpace, SpaceToDepth)
"""Nodes whose output is right at their input's scale, and loses nothing when that saturates where the output would."""


def carries_scale(node: Node) -> bool:
    """Whether a node that moves data writes at the scale it reads."""
    moves = (Slice, Gather, DepthToSpace, SpaceToDepth, Resize)
    if isinstance(node, TopK):
        return not node.indices
    return isinstance(node, moves) or (isinstance(node, Pad) and node.value == 0.0)


def joins_scales(node: Node) -> bool:
    """Whether all inputs of a node must have the scale of its output."""
    return isinstance(node, Concat) or (isinstance(node, Pad) and node.value != 0.0)


def can_follow(graph: Graph, tensor: str) -> bool:
    """Whether `tensor` may take any scale its only reader asks for."""
    root = graph.root(tensor)
    readers = graph.byte_readers(tensor)
    if len(readers) != 1 or root in {graph.root(output) for output in graph.outputs}:
        return False
    if any(root == state.read for state in graph.states):
        return True
    producer = graph.producer(root)
    if _carries(producer):
        return can_follow(graph, producer.inputs[0])  # type: ignore[union-attr]
    return isinstance(producer, _CHOOSERS)


def scale_owners(graph: Graph) -> dict[str, str]:
    """Tensor -> the tensor whose range decides its scale, for all that follow another."""
    owners: dict[str, str] = {}
    for node in reversed(graph.nodes):
        if joins_scales(node):
            for name in node.inputs:
                _follow(graph, name, owners.get(node.output, node.output), owners)
    return owners


def _follow(graph: Graph, tensor: str, owner: str, owners: dict[str, str]) -> None:
    root = graph.root(tensor)
    owners[root] = owner
    producer = graph.producer(root)
    if _carries(producer):
        _follow(graph, producer.inputs[0], owner, owners)  # type: ignore[union-attr]


def _carries(node: Node | None) -> bool:
    return isinstance(node, _CARRIERS) or (isinstance(node, Pad) and node.value == 0.0)
