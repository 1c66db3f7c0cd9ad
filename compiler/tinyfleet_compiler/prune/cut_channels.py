"""Takes groups of channels out of a graph: weights, constants and shapes become smaller together."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.graph import Add, Binary, Conv, Gemm, Graph, Node, PRelu, Shape
from tinyfleet_compiler.prune.couple_channels import Coupling, is_depthwise
from tinyfleet_compiler.verify_graph import verify_lowered

Mask = npt.NDArray[np.bool_]


def cut_channels(graph: Graph, coupling: Coupling, kept: Mask) -> Graph:
    """The graph with only the channels of groups where `kept` (count,) is true; FIXED must be kept."""
    masks = {name: kept[groups] for name, groups in coupling.groups.items()}
    nodes = [_cut_node(graph, node, masks) for node in graph.nodes]
    shapes = {name: _cut_shape(shape, masks.get(name)) for name, shape in graph.shapes.items()}
    return verify_lowered(graph.with_nodes(nodes, shapes=shapes), cut_channels.__name__)


def _cut_shape(shape: Shape, mask: Mask | None) -> Shape:
    return shape if mask is None else (*shape[:-1], int(mask.sum()))


def _cut_node(graph: Graph, node: Node, masks: dict[str, Mask]) -> Node:
    cut = _CUTTERS.get(type(node))
    return node if cut is None else cut(graph, node, masks[node.inputs[0]], masks[node.output])


def _conv(graph: Graph, node: Node, source: Mask, result: Mask) -> Node:
    assert isinstance(node, Conv)
    weights, bias = node.weights[result], node.bias[result]
    if is_depthwise(graph, node):
        return replace(node, weights=weights, bias=bias, groups=int(source.sum()))
    return replace(node, weights=weights[..., source] if node.groups == 1 else weights, bias=bias)


def _gemm(graph: Graph, node: Node, source: Mask, result: Mask) -> Node:
    assert isinstance(node, Gemm)
    return replace(node, weights=node.weights[result][:, source], bias=node.bias[result])


def _add(graph: Graph, node: Node, source: Mask, result: Mask) -> Node:
    assert isinstance(node, Add)
    if node.constant is None or result.all():
        return node
    rows = node.constant.reshape(-1, len(result))[:, result]
    return replace(node, constant=rows.reshape(*node.constant.shape[:-1], -1))


def _binary(graph: Graph, node: Node, source: Mask, result: Mask) -> Node:
    assert isinstance(node, Binary)
    if node.constant is None or node.constant.shape[-1] != len(result):
        return node
    return replace(node, constant=node.constant[..., result])


def _prelu(graph: Graph, node: Node, source: Mask, result: Mask) -> Node:
    assert isinstance(node, PRelu)
    if result.all():
        return node
    rows = node.slopes.reshape(-1, len(result))[:, result]
    return replace(node, slopes=rows.reshape(*node.slopes.shape[:-1], -1))


_CUTTERS: dict[type[Node], Callable[[Graph, Node, Mask, Mask], Node]] = {
    Conv: _conv,
    Gemm: _gemm,
    Add: _add,
    Binary: _binary,
    PRelu: _prelu,
}
