"""Works batch normalisation into the weights before it."""

from dataclasses import replace

import numpy as np

from tinyfleet_compiler.graph import Affine, Conv, Gemm, Graph, Node, Window


def fold_affine(graph: Graph) -> Graph:
    """affine(conv(x, W, b)) -> conv(x, s W, s b + t), gemm alike; a lone affine -> depthwise 1x1 convolution."""
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        if isinstance(node, Affine):
            before = nodes.get(node.inputs[0])
            if isinstance(before, (Conv, Gemm)) and _takes(before, node, graph):
                del nodes[before.output]
                nodes[node.output] = _folded(before, node)
            else:
                nodes[node.output] = _as_conv(node)
        else:
            nodes[node.output] = node
    return graph.with_nodes(nodes.values())


def _takes(before: Conv | Gemm, affine: Affine, graph: Graph) -> bool:
    """Whether the normalised channels (axis 0) are the layer's outputs, with nothing clamped between the two."""
    if graph.only_consumer(before.output) is not affine or not np.isinf([before.low, before.high]).all():
        return False
    return isinstance(before, Conv) or len(graph.shapes[before.output]) == 1


def _folded(node: Conv | Gemm, affine: Affine) -> Node:
    scale = affine.scale.astype(np.float64)
    weights = node.weights.astype(np.float64) * scale.reshape(-1, *([1] * (node.weights.ndim - 1)))
    bias = node.bias.astype(np.float64) * scale + affine.shift
    return replace(node, output=affine.output, weights=weights.astype(np.float32), bias=bias.astype(np.float32))


def _as_conv(affine: Affine) -> Conv:
    return Conv(
        affine.name,
        affine.inputs,
        affine.output,
        weights=affine.scale.reshape(-1, 1, 1, 1),
        bias=affine.shift,
        window=Window((1, 1)),
        groups=affine.scale.size,
    )
