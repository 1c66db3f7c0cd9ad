"""Names the axes of nodes that work along one, in device order."""

from dataclasses import replace

from tinyfleet_compiler.graph import (
    ArgMax,
    Concat,
    Gather,
    L2Normalize,
    LogSoftmax,
    Node,
    Normalize,
    Pad,
    Reduce,
    Shape,
    Slice,
    Softmax,
    TopK,
)


def turn_axes(node: Node, order: tuple[int, ...]) -> Node:
    """The node for tensors whose axis i is axis order[i] of the model file; other nodes as they are."""

    def turned(values: Shape) -> Shape:
        return tuple(values[axis] for axis in order)

    if isinstance(node, Pad):
        return replace(node, before=turned(node.before), after=turned(node.after))
    if isinstance(node, Slice):
        return replace(node, starts=turned(node.starts), steps=turned(node.steps))
    if isinstance(node, (Concat, Gather, ArgMax, L2Normalize, Softmax, LogSoftmax, TopK)):
        return replace(node, axis=order.index(node.axis % len(order)))
    if isinstance(node, (Reduce, Normalize)):
        return replace(node, axes=tuple(sorted(order.index(axis) for axis in node.axes)))
    return node
