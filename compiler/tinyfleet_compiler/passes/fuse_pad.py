"""Moves explicit zero padding into the convolution or average that reads it."""

from dataclasses import replace

from tinyfleet_compiler.graph import AveragePool, Conv, ConvTranspose, Graph, Node, Pad, Window

_MOST = 255


def fuse_pad(graph: Graph) -> Graph:
    """conv(pad(x)) -> conv(x) with larger pads, average alike; any other pad stays."""
    fused: dict[str, Pad] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Pad) and _takes(graph.only_consumer(node.output), node):
            fused[node.output] = node
        elif node.inputs[0] in fused and isinstance(node, (Conv, AveragePool)):
            nodes.append(_fused(node, fused[node.inputs[0]]))
        else:
            nodes.append(node)
    return graph.with_nodes(nodes)


def _takes(reader: Node | None, pad: Pad) -> bool:
    if pad.value != 0.0 or len(pad.before) not in (2, 3) or pad.before[0] or pad.after[0]:
        return False
    if isinstance(reader, AveragePool):
        # Pads of an average count as zeros only together: mixing both kinds has no single divisor.
        inside = all(p < k for p, k in zip(_sides(pad), reader.window.kernel * 2, strict=True))
        return not any(reader.window.pads) and inside
    if not isinstance(reader, Conv) or isinstance(reader, ConvTranspose):
        return False
    return max(_wider(reader.window, pad).pads) <= _MOST


def _sides(pad: Pad) -> tuple[int, int, int, int]:
    """Top, left, bottom, right."""
    if len(pad.before) == 2:
        return 0, pad.before[1], 0, pad.after[1]
    return pad.before[1], pad.before[2], pad.after[1], pad.after[2]


def _wider(window: Window, pad: Pad) -> Window:
    a, b = window.pads, _sides(pad)
    return replace(window, pads=(a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]))


def _fused(node: Conv | AveragePool, pad: Pad) -> Node:
    window = _wider(node.window, pad)
    if isinstance(node, AveragePool):
        return replace(node, inputs=pad.inputs, window=window, include_pad=True)
    return replace(node, inputs=pad.inputs, window=window)
