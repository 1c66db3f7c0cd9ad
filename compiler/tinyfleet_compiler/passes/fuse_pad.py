"""Moves explicit zero padding into the convolution that reads it."""

from dataclasses import replace

import numpy as np

from tinyfleet_compiler.graph import AveragePool, Conv, Graph, Node, Pad, Window

_MOST = 255


def fuse_pad(graph: Graph) -> Graph:
    """conv(pad(x)) -> conv(x) with larger pads; any other pad -> depthwise 1x1 convolution by one, with pads."""
    fused: dict[str, Pad] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Pad):
            reader = graph.only_consumer(node.output)
            if reader is not None and _takes(reader, node):
                fused[node.output] = node
                continue
            nodes.append(_as_conv(graph, node))
        elif node.inputs[0] in fused and isinstance(node, (Conv, AveragePool)):
            pad = fused[node.inputs[0]]
            nodes.append(_fused(node, pad))
        else:
            nodes.append(node)
    return graph.with_nodes(nodes)


def _takes(reader: Node, pad: Pad) -> bool:
    if isinstance(reader, AveragePool):
        # Pads of an average count as zeros only together: mixing both kinds has no single divisor.
        inside = all(p < k for p, k in zip(pad.pads, reader.window.kernel * 2, strict=True))
        return not any(reader.window.pads) and inside
    return isinstance(reader, Conv) and max(_wider(reader.window, pad).pads) <= _MOST


def _wider(window: Window, pad: Pad) -> Window:
    a, b = window.pads, pad.pads
    return replace(window, pads=(a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]))


def _fused(node: Conv | AveragePool, pad: Pad) -> Node:
    window = _wider(node.window, pad)
    if isinstance(node, AveragePool):
        return replace(node, inputs=pad.inputs, window=window, include_pad=True)
    return replace(node, inputs=pad.inputs, window=window)


def _as_conv(graph: Graph, pad: Pad) -> Conv:
    channels = graph.shapes[pad.inputs[0]][0]
    return Conv(
        pad.name,
        pad.inputs,
        pad.output,
        weights=np.ones((channels, 1, 1, 1), np.float32),
        bias=np.zeros(channels, np.float32),
        window=Window((1, 1), pads=pad.pads),
        groups=channels,
    )
