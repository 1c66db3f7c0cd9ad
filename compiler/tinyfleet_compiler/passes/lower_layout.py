"""Turns (C, H, W) tensors into (H, W, C), the (C, L) of windows into (L, C), and every reshape into a view.

As few transposes are left as algebra allows; `choose_layouts` says which tensors are turned.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from tinyfleet_compiler.graph import (
    Add,
    Binary,
    Concat,
    Floats,
    Gemm,
    Graph,
    MatMul,
    Node,
    Normalize,
    PRelu,
    Reshape,
    Shape,
    StateLink,
    Transpose,
)
from tinyfleet_compiler.operators import SourceLayout
from tinyfleet_compiler.passes.choose_layouts import WINDOWS, choose_layouts, is_trivial, wanted_order
from tinyfleet_compiler.passes.turn_axes import turn_axes


def lower_layout(graph: Graph) -> Graph:
    """reshape -> view; gemm(flatten(x)) -> gemm(view(x)), columns permuted; transpose(input) -> view."""
    lowering = _Lowering(graph)
    for node in graph.nodes:
        lowering.lower(node)
    ends = (*graph.inputs, *graph.outputs)
    layouts = {t: SourceLayout.CHANNELS_FIRST if lowering.is_last(t) else SourceLayout.SAME for t in ends}
    states = tuple(replace(state, initial=lowering.beginning(state)) for state in graph.states)
    return graph.with_nodes(
        lowering.nodes, shapes=lowering.shapes, source_layouts=layouts, views=lowering.views, states=states
    )


def _order(rank: int, last: bool) -> tuple[int, ...]:
    return (*range(1, rank), 0) if last else tuple(range(rank))


@dataclass
class _Lowering:
    source: Graph
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    views: dict[str, str] = field(default_factory=dict)
    permuted: dict[str, Shape] = field(default_factory=dict)
    """Flattened tensors whose elements are channels last -> the (C, H, W) or (C, L) shape they had."""

    def __post_init__(self) -> None:
        self.last = choose_layouts(self.source)
        for tensor in self.source.inputs:
            self.shapes[tensor] = self.physical(tensor)

    def is_last(self, tensor: str) -> bool:
        return tensor in self.last

    def order(self, tensor: str) -> tuple[int, ...]:
        return _order(len(self.source.shapes[tensor]), self.is_last(tensor))

    def physical(self, tensor: str) -> Shape:
        shape = self.source.shapes[tensor]
        return tuple(shape[axis] for axis in self.order(tensor))

    def beginning(self, state: StateLink) -> Floats | None:
        return None if state.initial is None else np.ascontiguousarray(state.initial.transpose(self.order(state.read)))

    def lower(self, node: Node) -> None:
        if isinstance(node, Reshape):
            self.lower_reshape(node)
        elif isinstance(node, Transpose):
            perm = tuple(node.perm[axis] for axis in self.order(node.output))
            inside = self.order(node.inputs[0])
            self.move(node, node.inputs[0], tuple(inside.index(axis) for axis in perm), node.output)
        elif isinstance(node, MatMul):
            self.shapes[node.output] = self.physical(node.output)
            self.nodes.append(self.name_axes(node))
        else:
            wanted = wanted_order(self.source, node)
            last = self.is_last(node.output) if wanted is None else wanted
            self.place(self.turn(self.read(node, last), last), last)

    def name_axes(self, node: MatMul) -> MatMul:
        """A product takes its tensors in any order: only the names of their axes change."""

        def named(axes: Shape, tensor: str) -> Shape:
            order = self.order(tensor)
            return tuple(order.index(axis) for axis in axes)

        b_axes = node.b_axes if node.constant is not None else named(node.b_axes, node.inputs[1])
        a_axes, out_axes = named(node.a_axes, node.inputs[0]), named(node.out_axes, node.output)
        return replace(node, a_axes=a_axes, b_axes=b_axes, out_axes=out_axes)

    def read(self, node: Node, last: bool) -> Node:
        """Inputs that are held in another order than the node needs are moved."""
        moved = {t: self.reordered(node, t, last) for t in dict.fromkeys(node.inputs) if self.differs(t, last)}
        return replace(node, inputs=tuple(moved.get(t, t) for t in node.inputs))

    def differs(self, tensor: str, last: bool) -> bool:
        return len(self.source.shapes[tensor]) > 1 and self.is_last(tensor) != last

    def turn(self, node: Node, last: bool) -> Node:
        """Axes and constants of a node, in the order its tensors are read and written in."""
        order = _order(len(self.source.shapes[node.output]), last)
        if isinstance(node, Gemm) and node.inputs[0] in self.permuted:
            node = _permute_columns(node, self.permuted[node.inputs[0]])
        elif isinstance(node, Add) and node.constant is not None:
            node = replace(node, constant=_lower_constant(node.constant, order))
        elif isinstance(node, (Binary, Concat)) and node.constant is not None:
            node = replace(node, constant=np.ascontiguousarray(node.constant.transpose(order)))
        elif isinstance(node, Normalize):
            node = replace(node, gamma=node.gamma.transpose(order), beta=node.beta.transpose(order))
        elif isinstance(node, PRelu):
            node = replace(node, slopes=_lower_constant(node.slopes, order))
        return turn_axes(node, order)

    def place(self, node: Node, last: bool) -> None:
        """Append a node; where its output is held in another order than it writes, a move follows."""
        shape = self.source.shapes[node.output]
        written, target = node.output, node.output
        if self.differs(target, last):
            written = f"{target}/written"
        self.shapes[written] = tuple(shape[axis] for axis in _order(len(shape), last))
        node = replace(node, output=written)
        if isinstance(node, WINDOWS) and len(shape) < 3:
            self.lower_row(node)
        else:
            self.nodes.append(node)
        if written != target:
            self.move(node, written, self.turned(len(shape), self.is_last(target)), target)

    def turned(self, rank: int, last: bool) -> tuple[int, ...]:
        """Axes of a move to channels last, or back to the model file's order."""
        return _order(rank, last) if last else (rank - 1, *range(rank - 1))

    def lower_row(self, node: Node) -> None:
        """A window over a sequence (L, C) or a vector (F,) runs on its view of one row, (1, L, C) or (1, 1, F)."""
        source, result = f"{node.name}/in", f"{node.name}/out"
        for view, tensor in ((source, node.inputs[0]), (result, node.output)):
            shape = self.shapes[tensor]
            self.shapes[view] = (*([1] * (3 - len(shape))), *shape)
        self.views[source] = node.inputs[0]
        self.nodes.append(replace(node, inputs=(source,), output=result))
        self.views[node.output] = result

    def lower_reshape(self, node: Reshape) -> None:
        source, target = node.inputs[0], node.output
        first = self.is_last(source) and not is_trivial(self.source.shapes[source])
        second = self.is_last(target) and not is_trivial(self.source.shapes[target])
        if source in self.permuted:
            self.permuted[target] = self.permuted[source]
        elif first and second and self.source.shapes[source][0] == self.source.shapes[target][0]:
            second = False  # the channels stay last: nothing moves
        elif first and self.only_feeds_gemm(target):
            self.permuted[target] = self.source.shapes[source]
        elif first:
            source = self.reordered(node, source, False)
        if second:
            view = f"{target}/view"
            self.shapes[view] = self.source.shapes[target]
            self.views[view] = source
            self.move(node, view, self.order(target), target)
        else:
            self.shapes[target] = self.physical(target)
            self.views[target] = source

    def reordered(self, node: Node, source: str, last: bool) -> str:
        """`source` in the other order than it is held in, under a new name."""
        name = f"{node.name}/{source}/{'last' if last else 'first'}"
        if name not in self.shapes:
            self.move(node, source, self.turned(len(self.source.shapes[source]), last), name)
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
