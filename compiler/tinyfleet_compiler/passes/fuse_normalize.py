"""Recognises layer and root-mean-square normalisation written out as means, squares and roots."""

from dataclasses import replace

import numpy as np

from tinyfleet_compiler.graph import (
    Add,
    Binary,
    BinaryOperator,
    Floats,
    Graph,
    Lookup,
    Node,
    Normalize,
    Reduce,
    ReduceOperator,
    Shape,
)
from tinyfleet_compiler.passes.remove_dead import drop_unread


def fuse_normalize(graph: Graph) -> Graph:
    """d / sqrt(mean(d^2) + e) * g + b, d = x - mean(x) or x -> normalize(x); g and b where they are constants."""
    made: dict[str, Node] = {node.output: node for node in graph.nodes}
    for node in graph.nodes:
        found = _normalization(graph, made, node)
        if found is not None:
            made[node.output] = found
        elif isinstance(node, (Add, Binary)) and node.constant is not None:
            made[node.output] = _with_factor(graph, made, node)
    return drop_unread(graph.with_nodes(made.values()))


def _normalization(graph: Graph, made: dict[str, Node], node: Node) -> Normalize | None:
    """The node that a quotient d / root, or a product d * (1 / root), ends; None for any other."""
    for d, root in quotient(made, node):
        inside = _root(made, root)
        mean = made.get(inside[0]) if inside is not None else None
        if inside is None or not isinstance(mean, Reduce) or not _is_mean(mean) or squared(made, mean.inputs[0]) != d:
            continue
        source, centred = _centred(made, d, mean.axes)
        rounded = {root, inside[0], mean.inputs[0], *({d} - {source})} & set(graph.outputs)
        if rounded or not _is_supported(mean.axes, graph.shapes[source]):
            return None
        one = np.ones((1,) * len(graph.shapes[source]), np.float32)
        return Normalize(
            node.name,
            (source,),
            node.output,
            gamma=one,
            beta=one * 0,
            epsilon=inside[1],
            axes=mean.axes,
            centred=centred,
        )
    return None


def _is_supported(axes: Shape, shape: Shape) -> bool:
    """Axes that lie together at the end of the file's order or of the device's."""
    return axes == (0,) or list(axes) == list(range(axes[0], len(shape)))


def _is_mean(node: Node | None) -> bool:
    return isinstance(node, Reduce) and node.operator is ReduceOperator.MEAN


def _binary(node: Node | None, operator: BinaryOperator) -> bool:
    return isinstance(node, Binary) and node.operator is operator


def quotient(made: dict[str, Node], node: Node) -> list[tuple[str, str]]:
    """(d, root) of d / root; of d * (1 / root) either way round, where the root may be the power -1/2 itself."""
    if len(node.inputs) != 2:
        return []
    pairs = [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])]
    if _binary(node, BinaryOperator.DIV):
        return [(d, r) for d, r in pairs[:1] if not is_function(made.get(r), "Pow -0.5")]
    if not _binary(node, BinaryOperator.MUL):
        return []
    inverse = [(d, made[r].inputs[0]) for d, r in pairs if is_function(made.get(r), "Reciprocal")]
    return [(d, r) for d, r in inverse if not is_function(made.get(r), "Pow -0.5")] + [
        (d, r) for d, r in pairs if is_function(made.get(r), "Pow -0.5")
    ]


def is_function(node: Node | None, *names: str) -> bool:
    """Whether a node is a table of one of these functions."""
    return isinstance(node, Lookup) and node.operator in names


def _root(made: dict[str, Node], tensor: str) -> tuple[str, float] | None:
    """(v, e) of sqrt(v + e), or of the power -1/2 of it."""
    root = made.get(tensor)
    if not is_function(root, "Sqrt", "Pow 0.5", "Pow -0.5"):
        return None
    inside = made.get(root.inputs[0])  # type: ignore[union-attr]
    if isinstance(inside, (Add, Binary)) and inside.constant is not None and adds(inside):
        epsilon = float(inside.constant.flat[0])
        return (inside.inputs[0], epsilon) if (inside.constant == epsilon).all() and epsilon >= 0.0 else None
    return None


def adds(node: Node) -> bool:
    """Whether a node is a sum, however it is held."""
    return isinstance(node, Add) or _binary(node, BinaryOperator.ADD)


def squared(made: dict[str, Node], tensor: str) -> str:
    """d where a tensor is d^2, "" elsewhere."""
    node = made.get(tensor)
    twice = _binary(node, BinaryOperator.MUL) and len(set(node.inputs)) == 1 and len(node.inputs) == 2  # type: ignore[union-attr]
    return node.inputs[0] if node is not None and (twice or is_function(node, "Pow 2")) else ""


def _centred(made: dict[str, Node], tensor: str, axes: Shape) -> tuple[str, bool]:
    """(x, True) where a tensor is x - mean(x), else the tensor and False."""
    node = made.get(tensor)
    if _binary(node, BinaryOperator.SUB) and len(node.inputs) == 2:  # type: ignore[union-attr]
        x, m = node.inputs  # type: ignore[union-attr]
        mean = made.get(m)
        if isinstance(mean, Reduce) and _is_mean(mean) and mean.axes == axes and mean.inputs[0] == x:
            return x, True
    return tensor, False


def _with_factor(graph: Graph, made: dict[str, Node], node: Add | Binary) -> Node:
    """A constant factor or addend that repeats along what is not normalised goes into the normalisation before it."""
    before = made.get(node.inputs[0])
    if not isinstance(before, Normalize) or graph.only_consumer(before.output) is None or before.groups:
        return node
    assert node.constant is not None
    rank = len(graph.shapes[node.output])
    if graph.shapes[before.output] != graph.shapes[node.output] or (isinstance(node, Binary) and node.swapped):
        return node
    constant = _shortened(node.constant.reshape((1,) * (rank - node.constant.ndim) + node.constant.shape), before.axes)
    if constant is None:
        return node
    gamma, beta = before.gamma, before.beta
    match node.operator if isinstance(node, Binary) else BinaryOperator.ADD:
        case BinaryOperator.MUL:
            gamma, beta = gamma * constant, beta * constant
        case BinaryOperator.ADD:
            beta = beta + constant
        case BinaryOperator.SUB:
            beta = beta - constant
        case _:
            return node
    return replace(before, output=node.output, gamma=gamma, beta=beta)


def _shortened(constant: Floats, axes: Shape) -> Floats | None:
    """One value along every axis that is not normalised; None where it differs along one."""
    first = constant[tuple(slice(None) if axis in axes else slice(0, 1) for axis in range(constant.ndim))]
    return first if (constant == first).all() else None
