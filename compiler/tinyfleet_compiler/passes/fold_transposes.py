"""Transposes that cost nothing where they stand elsewhere: behind one another, behind functions of one element,
in the axes of matrix products."""

from dataclasses import replace
from typing import Any

import numpy as np

from tinyfleet_compiler.graph import Add, Binary, Clip, Graph, Lookup, MatMul, Node, Shape, Transpose
from tinyfleet_compiler.passes.remove_dead import drop_unread


def fold_transposes(graph: Graph) -> Graph:
    """transpose(transpose(x)) -> transpose(x); f(transpose(x)) -> transpose(f(x)); matmul(transpose(x), y) and
    transpose(matmul(x, y)) -> matmul(x, y) with other names for its axes."""
    folding = _Folding(graph)
    for node in graph.nodes:
        folding.take(node)
    return drop_unread(graph.with_nodes(folding.made.values(), shapes=folding.shapes))


class _Folding:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made: dict[str, Node] = {}
        self.shapes = dict(graph.shapes)

    def transpose_before(self, tensor: str) -> Transpose | None:
        found = self.made.get(tensor)
        return found if isinstance(found, Transpose) else None

    def take(self, node: Node) -> None:
        before = self.transpose_before(node.inputs[0])
        if isinstance(node, MatMul):
            node = self.with_operands(node)
        elif isinstance(node, Transpose) and before is not None:
            node = replace(node, inputs=before.inputs, perm=_composed(before.perm, node.perm))
        elif isinstance(node, Transpose) and self.lone_product(node) is not None:
            product = self.made.pop(node.inputs[0])
            assert isinstance(product, MatMul)
            axes = tuple(node.perm.index(axis) for axis in product.out_axes)
            node = replace(product, output=node.output, out_axes=axes)
        elif before is not None and _is_pointwise(node) and self.graph.only_consumer(node.inputs[0]) is not None:
            node = self.sink(node, before)
        self.made[node.output] = node

    def lone_product(self, node: Transpose) -> MatMul | None:
        product = self.made.get(node.inputs[0])
        alone = self.graph.only_consumer(node.inputs[0]) is not None
        return product if alone and isinstance(product, MatMul) else None

    def with_operands(self, node: MatMul) -> MatMul:
        inputs, axes = list(node.inputs), [node.a_axes, node.b_axes]
        for index, name in enumerate(node.inputs):
            before = self.transpose_before(name)
            if before is not None:
                inputs[index] = before.inputs[0]
                axes[index] = tuple(before.perm[axis] for axis in axes[index])
        return replace(node, inputs=tuple(inputs), a_axes=axes[0], b_axes=axes[1])

    def sink(self, node: Node, before: Transpose) -> Node:
        """The function first, then the transpose; returns what writes the node's output now."""
        del self.made[before.output]
        inner = f"{node.output}/first"
        self.shapes[inner] = self.shapes[before.inputs[0]]
        self.made[inner] = replace(
            node, inputs=before.inputs, output=inner, **_turned_constant(node, self.shapes[inner])
        )
        return Transpose(before.name, (inner,), node.output, perm=before.perm)


def _composed(first: Shape, second: Shape) -> Shape:
    return tuple(first[axis] for axis in second)


def _is_pointwise(node: Node) -> bool:
    if isinstance(node, (Clip, Lookup)):
        return True
    return isinstance(node, (Add, Binary)) and node.constant is not None and _is_scalar(node)


def _is_scalar(node: Add | Binary) -> bool:
    assert node.constant is not None
    return bool((node.constant == node.constant.flat[0]).all())


def _turned_constant(node: Node, shape: Shape) -> dict[str, Any]:
    """A constant that is one number everywhere, in the shape it meets now."""
    if not isinstance(node, (Add, Binary)) or node.constant is None:
        return {}
    sizes = shape if isinstance(node, Add) else (1,) * len(shape)
    return {"constant": np.full(sizes, node.constant.flat[0], np.float32)}
