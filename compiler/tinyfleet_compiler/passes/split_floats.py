"""Writes out what float32 tensors have no kernel for in operators that have one; integers keep the node."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tinyfleet_compiler.graph import (
    INFINITY,
    ArgMax,
    Binary,
    BinaryOperator,
    Floats,
    Graph,
    L2Normalize,
    Lookup,
    MatMul,
    Node,
    Normalize,
    Reduce,
    ReduceOperator,
    Shape,
    Unary,
    elements,
)
from tinyfleet_compiler.operators import Element, Function
from tinyfleet_compiler.quantize.parameters import FLOAT
from tinyfleet_compiler.quantize.taken import QuantizedGraph


class _Parts:
    """Nodes that take the place of one, over views of its tensors."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.node, self.nodes = node, list[Node]()
        self.shapes, self.views = dict(graph.shapes), dict(graph.views)

    def name(self, shape: Shape) -> str:
        name = f"{self.node.output}/part{len(self.nodes)}"
        self.shapes[name] = shape
        return name

    def view(self, tensor: str, shape: Shape) -> str:
        name = f"{self.node.output}/{tensor}/as {shape}"
        self.shapes[name], self.views[name] = shape, tensor
        return name

    def two(self, operator: BinaryOperator, a: str, b: str | Floats, output: str = "", **more: Any) -> str:
        shape = self.shapes[a]
        output = output or self.name(shape)
        names, constant = ((a, b), None) if isinstance(b, str) else ((a,), b)
        self.nodes.append(Binary(output, names, output, operator=operator, constant=constant, **more))
        return output

    def mean(self, tensor: str, axes: tuple[int, ...], operator: ReduceOperator = ReduceOperator.MEAN) -> str:
        """Over one axis after the other: each is a run of neighbours."""
        for axis in axes:
            shape = self.shapes[tensor]
            output = self.name(tuple(1 if at == axis else size for at, size in enumerate(shape)))
            self.nodes.append(Reduce(output, (tensor,), output, operator=operator, axes=(axis,)))
            tensor = output
        return tensor

    def root(self, tensor: str) -> str:
        output = self.name(self.shapes[tensor])
        self.nodes.append(Lookup(output, (tensor,), output, function=np.sqrt, unary=Unary(Function.SQRT)))
        return output


def split_floats(graph: Graph) -> Graph:
    """normalisations -> means, differences, products, quotients; squared difference -> difference, product;
    a product times a number -> a product, a product with a constant; arg-min -> arg-max of the negated.

    Of a graph that comes quantised only what reads real numbers."""
    for node in graph.nodes:
        make = next((make for is_one, make in _SPLITS if is_one(node)), None)
        if make is None or not _is_real(graph, node):
            continue
        parts = _Parts(graph, node)
        make(parts, node)
        nodes = list(_replaced(graph, node, parts.nodes))
        graph = graph.with_nodes(nodes, shapes=parts.shapes, views=parts.views)
        if isinstance(graph, QuantizedGraph):
            made = {part.output: FLOAT for part in parts.nodes}
            graph = replace(graph, parameters=made | graph.parameters)
    return graph


def _is_real(graph: Graph, node: Node) -> bool:
    if not isinstance(graph, QuantizedGraph):
        return True
    return graph.parameters[graph.root(node.inputs[0])].element is Element.FLOAT32


def _replaced(graph: Graph, node: Node, parts: list[Node]) -> Iterator[Node]:
    for one in graph.nodes:
        yield from parts if one is node else (one,)


def _normalize(parts: _Parts, node: Node) -> None:
    assert isinstance(node, Normalize)
    shape = parts.shapes[node.output]
    if node.groups:
        held: Shape = (elements(shape[:-1]), node.groups, shape[-1] // node.groups)
        axes: tuple[int, ...] = (2, 0)
    else:
        first = min(node.axes)
        held, axes = (elements(shape[:first]), elements(shape[first:])), (1,)
    x = parts.view(node.inputs[0], held)
    if node.centred:
        x = parts.two(BinaryOperator.SUB, x, parts.mean(x, axes))
    square = parts.mean(parts.two(BinaryOperator.MUL, x, x), axes)
    epsilon = np.full((1,) * len(held), node.epsilon, np.float32)
    y = parts.two(BinaryOperator.DIV, x, parts.root(parts.two(BinaryOperator.ADD, square, epsilon)))
    y = parts.two(BinaryOperator.MUL, parts.view(y, shape), node.gamma)
    parts.nodes.append(
        Binary(
            node.name, (y,), node.output, operator=BinaryOperator.ADD, constant=node.beta, low=node.low, high=node.high
        )
    )


def _l2_normalize(parts: _Parts, node: Node) -> None:
    shape = parts.shapes[node.output]
    x, axis = node.inputs[0], len(shape) - 1
    square = parts.mean(parts.two(BinaryOperator.MUL, x, x), (axis,), ReduceOperator.SUM)
    least = np.full((1,) * len(shape), 1e-12, np.float32)
    parts.two(BinaryOperator.DIV, x, parts.root(parts.two(BinaryOperator.MAX, square, least)), node.output)


def _squared_difference(parts: _Parts, node: Node) -> None:
    assert isinstance(node, Binary)
    second = node.inputs[1] if node.constant is None else node.constant
    apart = parts.name(parts.shapes[node.output])
    names, constant = ((node.inputs[0], second), None) if isinstance(second, str) else (node.inputs, second)
    parts.nodes.append(Binary(apart, names, apart, operator=BinaryOperator.SUB, constant=constant))
    parts.two(BinaryOperator.MUL, apart, apart, node.output, low=node.low, high=node.high)


def _arg_min(parts: _Parts, node: Node) -> None:
    assert isinstance(node, ArgMax)
    negated = parts.name(parts.shapes[node.inputs[0]])
    parts.nodes.append(Lookup(negated, node.inputs, negated, function=np.negative, unary=Unary(Function.NEGATE)))
    parts.nodes.append(ArgMax(node.name, (negated,), node.output, axis=node.axis))


def _scaled_product(parts: _Parts, node: Node) -> None:
    assert isinstance(node, MatMul)
    product = parts.name(parts.shapes[node.output])
    plain = replace(node, name=product, output=product, alpha=1.0, low=-INFINITY, high=INFINITY)
    factor = np.full((1,) * len(parts.shapes[node.output]), node.alpha, np.float32)
    parts.nodes.append(plain)
    parts.two(BinaryOperator.MUL, product, factor, node.output, low=node.low, high=node.high)


def _is_squared(node: Node) -> bool:
    return isinstance(node, Binary) and node.operator is BinaryOperator.SQUARED_DIFFERENCE


_SPLITS: tuple[tuple[Callable[[Node], bool], Callable[[_Parts, Node], None]], ...] = (
    (lambda node: isinstance(node, Normalize), _normalize),
    (lambda node: isinstance(node, L2Normalize), _l2_normalize),
    (_is_squared, _squared_difference),
    (lambda node: isinstance(node, MatMul) and node.alpha != 1.0, _scaled_product),
    (lambda node: isinstance(node, ArgMax) and node.smallest, _arg_min),
)
