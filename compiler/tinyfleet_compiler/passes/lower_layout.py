"""Turns (C, H, W) tensors into (H, W, C) and every reshape into a view, with as few transposes as algebra allows."""

from dataclasses import dataclass, field, replace

import numpy as np

from tinyfleet_compiler.graph import Add, Binary, Conv, Gemm, Graph, Node, PRelu, Reshape, Shape, Transpose
from tinyfleet_compiler.operators import SourceLayout
from tinyfleet_compiler.passes.turn_axes import turn_axes

_LAST = (1, 2, 0)


def lower_layout(graph: Graph) -> Graph:
    """reshape -> view; gemm(flatten(x)) -> gemm(view(x)), columns permuted; transpose(input) -> view."""
    lowering = _Lowering(graph)
    for node in graph.nodes:
        lowering.lower(node)
    ends = (*graph.inputs, *graph.outputs)
    layouts = {t: SourceLayout.CHANNELS_FIRST if lowering.is_last(t) else SourceLayout.SAME for t in ends}
    return graph.with_nodes(lowering.nodes, shapes=lowering.shapes, source_layouts=layouts, views=lowering.views)


@dataclass
class _Lowering:
    source: Graph
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    views: dict[str, str] = field(default_factory=dict)
    permuted: dict[str, Shape] = field(default_factory=dict)
    """Flattened tensors whose elements are in (H, W, C) order -> that (C, H, W) shape."""

    def __post_init__(self) -> None:
        self.kept = _kept_in_source_order(self.source)
        for tensor in self.source.inputs:
            self.shapes[tensor] = self.physical(tensor)

    def is_last(self, tensor: str) -> bool:
        return len(self.source.shapes[tensor]) == 3 and tensor not in self.kept

    def order(self, tensor: str) -> tuple[int, ...]:
        rank = len(self.source.shapes[tensor])
        return _LAST if self.is_last(tensor) else tuple(range(rank))

    def physical(self, tensor: str) -> Shape:
        shape = self.source.shapes[tensor]
        return tuple(shape[axis] for axis in self.order(tensor))

    def lower(self, node: Node) -> None:
        if isinstance(node, Reshape):
            self.lower_reshape(node)
            return
        if isinstance(node, Transpose):
            perm = tuple(node.perm[axis] for axis in self.order(node.output))
            inside = self.order(node.inputs[0])
            self.move(node, node.inputs[0], tuple(inside.index(axis) for axis in perm), node.output)
            return
        if isinstance(node, Gemm) and node.inputs[0] in self.permuted:
            node = _permute_columns(node, self.permuted[node.inputs[0]])
        elif isinstance(node, Add) and node.constant is not None:
            node = replace(node, constant=_lower_constant(node.constant, self.order(node.output)))
        elif isinstance(node, Binary) and node.constant is not None:
            turned = np.ascontiguousarray(node.constant.transpose(self.order(node.output)))
            node = replace(node, constant=turned)
        elif isinstance(node, PRelu):
            node = replace(node, slopes=_lower_constant(node.slopes, self.order(node.output)))
        node = turn_axes(node, self.order(node.output))
        self.shapes[node.output] = self.physical(node.output)
        if isinstance(node, Conv) and len(self.shapes[node.output]) == 1:
            self.lower_vector_conv(node)
        else:
            self.nodes.append(node)

    def lower_vector_conv(self, node: Conv) -> None:
        """A depthwise 1x1 on a vector (F,) runs on its (1, 1, F) view."""
        features = self.shapes[node.output]
        source, result = f"{node.name}/in", f"{node.name}/out"
        self.shapes[source] = self.shapes[result] = (1, 1, *features)
        self.views[source] = node.inputs[0]
        self.nodes.append(replace(node, inputs=(source,), output=result))
        self.views[node.output] = result

    def lower_reshape(self, node: Reshape) -> None:
        source, target = node.inputs[0], node.output
        if source in self.permuted:
            self.permuted[target] = self.permuted[source]
        elif self.is_last(source) and not _trivial(self.source.shapes[source]):
            if self.only_feeds_gemm(target):
                self.permuted[target] = self.source.shapes[source]
            else:
                source = self.unpack(node, source)
        if self.is_last(target) and not _trivial(self.source.shapes[target]):
            view = f"{target}/view"
            self.shapes[view] = self.source.shapes[target]
            self.views[view] = source
            self.move(node, view, _LAST, target)
        else:
            self.shapes[target] = self.physical(target)
            self.views[target] = source

    def unpack(self, node: Node, source: str) -> str:
        """Transpose `source` back to (C, H, W) order under a new name."""
        name = f"{node.name}/{source}/first"
        self.shapes[name] = self.source.shapes[source]
        self.nodes.append(Transpose(f"{node.name}/unpack", (source,), name, perm=(2, 0, 1)))
        return name

    def only_feeds_gemm(self, tensor: str) -> bool:
        readers = self.source.consumers(tensor)
        if tensor in self.source.outputs or len(self.source.shapes[tensor]) != 1 or not readers:
            return False
        return all(isinstance(r, Gemm) or (isinstance(r, Reshape) and self.only_feeds_gemm(r.output)) for r in readers)

    def move(self, node: Node, source: str, perm: tuple[int, ...], target: str) -> None:
        """A transpose in device order, or a view when only axes of one move."""
        shape = self.shapes[source]
        self.shapes[target] = tuple(shape[axis] for axis in perm)
        long_axes = [axis for axis in perm if shape[axis] > 1]
        if long_axes == sorted(long_axes):
            self.views[target] = source
        else:
            self.nodes.append(Transpose(f"{node.name}/move", (source,), target, perm=perm))


def _kept_in_source_order(graph: Graph) -> set[str]:
    """Inputs read, and outputs written, by transposes only: the device holds them as the model file does."""
    kept = set()
    for tensor in graph.inputs:
        readers = graph.consumers(tensor)
        if readers and tensor not in graph.outputs and all(isinstance(r, Transpose) for r in readers):
            kept.add(tensor)
    for tensor in graph.outputs:
        if isinstance(graph.producer(tensor), Transpose) and not graph.consumers(tensor):
            kept.add(tensor)
    return kept


def _trivial(shape: Shape) -> bool:
    """Whether (C, H, W) and (H, W, C) hold the elements in the same order."""
    return shape[0] == 1 or shape[1] * shape[2] == 1


def _permute_columns(gemm: Gemm, shape: Shape) -> Gemm:
    columns = gemm.weights.reshape(-1, *shape).transpose(0, 2, 3, 1)
    return replace(gemm, weights=np.ascontiguousarray(columns.reshape(gemm.weights.shape)))


def _lower_constant(constant: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """Device order, shortened to what repeats: one value, one row of channels, or all."""
    turned = np.ascontiguousarray(constant.transpose(order))
    rows = turned.reshape(-1, turned.shape[-1])
    if (turned == turned.flat[0]).all():
        return turned.reshape(-1)[:1]
    return rows[0].copy() if (rows == rows[0]).all() else turned.reshape(-1)
