"""Turns (C, H, W) tensors into (H, W, C), the (C, L) of windows into (L, C), and every reshape into a view.

As few transposes are left as algebra allows.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from tinyfleet_compiler.graph import Add, Binary, Gemm, Graph, Node, PRelu, Reshape, Shape, Transpose, elements
from tinyfleet_compiler.operators import SourceLayout
from tinyfleet_compiler.passes.sequences import WINDOWS, find_sequences, passes_on
from tinyfleet_compiler.passes.turn_axes import turn_axes


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
    """Flattened tensors whose elements are channels last -> the (C, H, W) or (C, L) shape they had."""

    def __post_init__(self) -> None:
        self.kept = _kept_in_source_order(self.source)
        self.sequences = find_sequences(self.source)
        for tensor in self.source.inputs:
            self.shapes[tensor] = self.physical(tensor)

    def is_last(self, tensor: str) -> bool:
        return tensor in self.sequences or (len(self.source.shapes[tensor]) == 3 and tensor not in self.kept)

    def order(self, tensor: str) -> tuple[int, ...]:
        rank = len(self.source.shapes[tensor])
        return (*range(1, rank), 0) if self.is_last(tensor) else tuple(range(rank))

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
        if not isinstance(node, WINDOWS) and not passes_on(self.source, node):
            node = self.read_in_source_order(node)
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
        if isinstance(node, WINDOWS) and len(self.shapes[node.output]) < 3:
            self.lower_row(node)
        elif node.output in self.sequences and not isinstance(node, WINDOWS) and not passes_on(self.source, node):
            self.write_in_source_order(node)
        else:
            self.nodes.append(node)

    def lower_row(self, node: Node) -> None:
        """A window over a sequence (L, C) or a vector (F,) runs on its view of one row, (1, L, C) or (1, 1, F)."""
        source, result = f"{node.name}/in", f"{node.name}/out"
        for view, tensor in ((source, node.inputs[0]), (result, node.output)):
            shape = self.shapes[tensor]
            self.shapes[view] = (*([1] * (3 - len(shape))), *shape)
        self.views[source] = node.inputs[0]
        self.nodes.append(replace(node, inputs=(source,), output=result))
        self.views[node.output] = result

    def read_in_source_order(self, node: Node) -> Node:
        """Sequences (L, C) are turned back for a node that wants (C, L)."""
        turned = {t: self.unpack(node, t) for t in dict.fromkeys(node.inputs) if t in self.sequences}
        return replace(node, inputs=tuple(turned.get(t, t) for t in node.inputs))

    def write_in_source_order(self, node: Node) -> None:
        """The result (C, L) of such a node is turned for the windows that read it."""
        written = f"{node.output}/first"
        self.shapes[written] = self.source.shapes[node.output]
        self.nodes.append(replace(node, output=written))
        self.move(node, written, self.order(node.output), node.output)

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
            self.move(node, view, self.order(target), target)
        else:
            self.shapes[target] = self.physical(target)
            self.views[target] = source

    def unpack(self, node: Node, source: str) -> str:
        """`source` back in the model file's order, (C, H, W) or (C, L), under a new name."""
        name = f"{node.name}/{source}/first"
        last = len(self.source.shapes[source]) - 1
        self.move(node, source, (last, *range(last)), name)
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
    """Whether (C, H, W) and (H, W, C), or (C, L) and (L, C), hold the elements in the same order."""
    return shape[0] == 1 or elements(shape[1:]) == 1


def _permute_columns(gemm: Gemm, shape: Shape) -> Gemm:
    columns = np.moveaxis(gemm.weights.reshape(-1, *shape), 1, -1)
    return replace(gemm, weights=np.ascontiguousarray(columns.reshape(gemm.weights.shape)))


def _lower_constant(constant: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """Device order, shortened to what repeats: one value, one row of channels, or all."""
    turned = np.ascontiguousarray(constant.transpose(order))
    rows = turned.reshape(-1, turned.shape[-1])
    if (turned == turned.flat[0]).all():
        return turned.reshape(-1)[:1]
    return rows[0].copy() if (rows == rows[0]).all() else turned.reshape(-1)
