"""Works a positive factor before or after a product of activations into its multiplier."""

from dataclasses import replace

import numpy as np

from tinyfleet_compiler.graph import Binary, BinaryOperator, Graph, MatMul, Node


def fuse_scale(graph: Graph) -> Graph:
    """mul(matmul(x, y), c) -> c matmul(x, y); matmul(mul(x, c), y) -> c matmul(x, y)."""
    made: dict[str, Node] = {}
    for node in graph.nodes:
        before = made.get(node.inputs[0])
        factor = _factor(node)
        if isinstance(before, MatMul) and factor and _is_open(before) and graph.only_consumer(before.output) is node:
            del made[before.output]
            node = replace(before, output=node.output, alpha=before.alpha * factor)
        elif isinstance(node, MatMul):
            node = _with_plain_operands(graph, node, made)
        made[node.output] = node
    return graph.with_nodes(made.values())


def _with_plain_operands(graph: Graph, node: MatMul, made: dict[str, Node]) -> MatMul:
    inputs, alpha = list(node.inputs), node.alpha
    for index, name in enumerate(node.inputs):
        before = made.get(name)
        factor = _factor(before)
        if before is not None and factor and graph.only_consumer(name) is not None and node.inputs.count(name) == 1:
            del made[name]
            inputs[index], alpha = before.inputs[0], alpha * factor
    return replace(node, inputs=tuple(inputs), alpha=alpha)


def _is_open(node: MatMul) -> bool:
    return bool(np.isinf([node.low, node.high]).all())


def _factor(node: Node | None) -> float:
    """The number that a node multiplies by, 0 for any other node."""
    if not isinstance(node, Binary) or node.operator is not BinaryOperator.MUL or node.constant is None:
        return 0.0
    value = float(node.constant.flat[0])
    plain = node.constant.size == 1 and np.isinf([node.low, node.high]).all()
    return value if plain and value > 0.0 else 0.0
