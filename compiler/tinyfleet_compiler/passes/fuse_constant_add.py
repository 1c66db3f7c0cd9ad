"""Adds a constant per output channel to the bias instead of to the tensor."""

from dataclasses import replace

import numpy as np

from tinyfleet_compiler.graph import Add, Conv, Gemm, Graph, Node


def fuse_constant_add(graph: Graph) -> Graph:
    """add(conv(x, W, b), c) -> conv(x, W, b + c), gemm alike, where c is the same at every position."""
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        before = nodes.get(node.inputs[0])
        per_channel = _per_channel(node, before)
        if isinstance(before, (Conv, Gemm)) and per_channel is not None and graph.only_consumer(before.output) is node:
            del nodes[before.output]
            nodes[node.output] = replace(before, output=node.output, bias=before.bias + per_channel)
        else:
            nodes[node.output] = node
    return graph.with_nodes(nodes.values())


def _per_channel(node: Node, before: Node | None) -> np.ndarray | None:
    if not isinstance(node, Add) or node.constant is None:
        return None
    constant = node.constant
    # Channels are the first axis of an image and the last of everything else.
    flat = (
        constant.reshape(constant.shape[0], -1).T
        if isinstance(before, Conv)
        else constant.reshape(-1, constant.shape[-1])
    )
    return flat[0] if (flat == flat[0]).all() else None
