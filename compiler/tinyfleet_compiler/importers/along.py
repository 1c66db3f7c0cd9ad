"""Operators along one axis that kernels run along the last: a middle axis of three is moved there and back."""

from collections.abc import Callable

from tinyfleet_compiler.graph import Node, Shape, Transpose
from tinyfleet_compiler.importers.context import OnnxNode

Maker = Callable[[str, str, int], Node]
"""(input, output, axis) -> node."""


def along_last(node: OnnxNode, axis: int, make: Maker, result: Shape, output: str = "") -> None:
    """Add what `make` gives for the first input along `axis` (batch left out); `result` is the output's shape."""
    output, shape = output or node.output, node.shape()
    if axis in (0, len(shape) - 1):
        node.context.add(make(node.data(0), output, axis), result)
        return
    perm = (*(a for a in range(len(shape)) if a != axis), axis)
    back = tuple(perm.index(a) for a in range(len(shape)))
    turned, made = f"{output}/turned", f"{output}/made"
    node.context.add(Transpose(turned, (node.data(0),), turned, perm=perm), tuple(shape[a] for a in perm))
    node.context.add(make(turned, made, len(shape) - 1), tuple(result[a] for a in perm))
    node.context.add(Transpose(f"{output}/back", (made,), output, perm=back), result)
