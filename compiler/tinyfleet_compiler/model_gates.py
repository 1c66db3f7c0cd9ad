"""What recurrent layers begin with: states of their own, or tensors that are written into their variables."""

from collections.abc import Sequence
from dataclasses import replace

from tinyfleet_compiler.build_recurrent import begin_names, gate_cell, gate_states
from tinyfleet_compiler.build_scope import Op
from tinyfleet_compiler.graph import Clip, Gated, Graph, LastCell, Lstm, Node, Reshape, Slice, StateLink
from tinyfleet_compiler.operators import OpCode
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.state_op import state_op

Parameters = dict[str, Quantization]


def settle_gates(graph: Graph, parameters: Parameters) -> tuple[Graph, Parameters]:
    """Layers whose links feed their own ends back keep them; others read what they begin with at their own scales."""
    nodes: list[Node] = []
    parameters, shapes = dict(parameters), dict(graph.shapes)
    for node in graph.nodes:
        if not isinstance(node, Gated) or len(node.inputs) == 1:
            nodes.append(node)
        elif _own_links(graph, node):
            nodes.append(replace(node, keeps=True))
        else:
            copies, node = _at_own_scales(graph, node, parameters)
            for copy in copies:
                shapes[copy.output] = graph.shapes[copy.inputs[0]]
            nodes += [*copies, node]
    return graph.with_nodes(nodes, shapes=shapes), parameters


def kept_inside(graph: Graph) -> set[str]:
    """`read` tensors of the states that layers keep themselves."""
    layers = [node for node in graph.nodes if isinstance(node, Gated) and node.keeps]
    return {graph.root(name) for node in layers for name in node.inputs[1:]}


def begin_ops(graph: Graph, parameters: Parameters) -> list[Op]:
    """STATE_WRITE of hidden state and cell, for every layer that begins with tensors."""
    ops: list[Op] = []
    for node in graph.nodes:
        if not isinstance(node, Gated) or len(node.inputs) == 1 or node.keeps:
            continue
        result, units = parameters[graph.root(node.output)], node.weights.shape[1]
        variables = gate_states(node, units, result)
        # A float GRU has no cell beside its hidden state.
        for name, tensor, part in zip(begin_names(node), (node.inputs[1], node.inputs[-1]), variables, strict=False):
            q = parameters[graph.root(tensor)]
            ops.append(state_op(name, OpCode.STATE_WRITE, (graph.root(tensor),), name, variables[part], q))
    return ops


def drop_unread_ops(ops: Sequence[Op], outputs: Sequence[str]) -> list[Op]:
    """Only what outputs and states need."""
    needed, kept = set(outputs), []
    for op in reversed(ops):
        if op.output in needed or (op.states and op.code is not OpCode.STATE_READ):
            needed.update((*op.inputs, *op.after))
            kept.append(op)
    return kept[::-1]


def _own_links(graph: Graph, node: Gated) -> bool:
    """Whether every further input is a state that only this layer reads, and that gets what this layer ends with."""
    ends = (_is_last_row, _is_last_cell)
    for name, is_end in zip(node.inputs[1:], ends, strict=False):
        link = _link(graph, name)
        readers = [r for r in graph.byte_readers(name) if not isinstance(r, LastCell)]
        if link is None or readers != [node] or not is_end(graph, node, link.kept):
            return False
    return True


def _link(graph: Graph, name: str) -> StateLink | None:
    root = graph.root(name)
    return next((state for state in graph.states if state.read == root and state.initial is None), None)


def _is_last_row(graph: Graph, layer: Gated, tensor: str) -> bool:
    """The layer's output where it is one row, or its last row."""
    root, steps = graph.root(tensor), graph.shapes[layer.output][0]
    if root == layer.output:
        return steps == 1
    node = graph.producer(root)
    last = isinstance(node, Slice) and graph.root(node.inputs[0]) == layer.output
    return last and node.starts == (steps - 1, 0) and graph.shapes[root] == (1, layer.weights.shape[1])  # type: ignore[union-attr]


def _is_last_cell(graph: Graph, layer: Gated, tensor: str) -> bool:
    node = graph.producer(graph.root(tensor))
    while isinstance(node, (Clip, Reshape)):
        node = graph.producer(graph.root(node.inputs[0]))
    return isinstance(node, LastCell) and graph.root(node.inputs[0]) == layer.output


def _at_own_scales(graph: Graph, node: Gated, parameters: Parameters) -> tuple[list[Clip], Gated]:
    """The layer with int8 hidden state and int16 cell to begin with (a GRU's cell is its hidden state, once more)."""
    hidden, cell = node.inputs[1], node.inputs[2] if isinstance(node, Lstm) else node.inputs[1]
    parts = ((hidden, parameters[node.output], "hidden"), (cell, gate_cell(parameters, node), "cell"))
    copies, inputs = [], [node.inputs[0]]
    for name, wanted, part in parts:
        if parameters[graph.root(name)] == wanted:
            inputs.append(name)
            continue
        copy = f"{node.output}/{part} at its scale"
        parameters[copy] = wanted
        copies.append(Clip(copy, (name,), copy))
        inputs.append(copy)
    return copies, replace(node, inputs=tuple(inputs))
