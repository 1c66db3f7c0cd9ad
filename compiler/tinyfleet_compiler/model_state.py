"""What a model keeps between inferences: variables in the caller's state buffer, and the operators that move them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.build_scope import Op, StateVariable
from tinyfleet_compiler.check_state import STATE_ALIGN
from tinyfleet_compiler.graph import Clip, Graph, StateLink, elements
from tinyfleet_compiler.model_gates import begin_ops, drop_unread_ops, kept_inside, settle_gates
from tinyfleet_compiler.numerics import quantize
from tinyfleet_compiler.operators import Element, OpCode
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.state_op import state_op

Parameters = dict[str, Quantization]
_WRITTEN = "#kept"
"""A STATE_WRITE gives no tensor; its record stands in the op list under this name, with no bytes of its own."""


def settle_states(graph: Graph, parameters: Parameters) -> tuple[Graph, Parameters]:
    """The graph with every `kept` tensor at the scale its `read` has, by a RESCALE where it has another one, and
    recurrent layers that begin with what `settle_gates` gives them."""
    graph, parameters = settle_gates(graph, parameters)
    states: list[StateLink] = []
    inside = kept_inside(graph)
    for state in graph.states:
        root, wanted = graph.root(state.kept), parameters[state.read]
        if parameters[root] != wanted and state.read not in inside:
            copy = f"{state.kept}/{state.name}"
            shapes = graph.shapes | {copy: graph.shapes[state.kept]}
            parameters[copy] = wanted
            clip = Clip(f"{state.name}/scale", (state.kept,), copy)
            outputs = (*(o for o in graph.outputs if o != state.kept or o in graph.live_outputs), copy)
            layouts = graph.source_layouts | {copy: graph.source_layouts[state.kept]}
            changes = {"shapes": shapes, "outputs": outputs, "source_layouts": layouts}
            graph = graph.with_nodes((*graph.nodes, clip), **changes)
            state = replace(state, kept=copy, hidden=True)
        states.append(state)
    return replace(graph, states=tuple(states)), parameters


def with_state_ops(built: Sequence[Op], graph: Graph, parameters: Parameters) -> tuple[Op, ...]:
    """The ops with every STATE_READ just before its first reader and every STATE_WRITE just after what it needs."""
    ops = list(built)
    for op in (*begin_ops(graph, parameters), *_state_ops(graph, parameters)):
        if op.code is OpCode.STATE_READ:
            at = next((i for i, other in enumerate(ops) if op.output in other.inputs), len(ops))
        else:
            needed = {*op.inputs, *op.after}
            at = max((i + 1 for i, other in enumerate(ops) if other.output in needed), default=0)
        ops.insert(at, op)
    outputs = [graph.root(name) for name in graph.live_outputs]
    return tuple(drop_unread_ops(ops, outputs) if kept_inside(graph) else ops)


def _state_ops(graph: Graph, parameters: Parameters) -> tuple[Op, ...]:
    """STATE_READ and STATE_WRITE of every link; the write waits for the read of its variable."""
    ops: list[Op] = []
    read_by_any = {graph.root(i) for node in graph.nodes for i in node.inputs} | {graph.root(o) for o in graph.outputs}
    inside = kept_inside(graph)
    for state in (state for state in graph.states if state.read not in inside):
        variable = _variable(graph, parameters, state)
        reads = state.read in read_by_any
        if reads:
            ops.append(
                state_op(f"{state.name}/read", OpCode.STATE_READ, (), state.read, variable, parameters[state.read])
            )
        if graph.root(state.kept) != state.read:
            source, written = graph.root(state.kept), f"{state.name}{_WRITTEN}"
            op = state_op(
                f"{state.name}/write", OpCode.STATE_WRITE, (source,), written, variable, parameters[state.read]
            )
            ops.append(replace(op, after=(state.read,) if reads else ()))
    return tuple(ops)


def _variable(graph: Graph, parameters: Parameters, state: StateLink) -> StateVariable:
    q, size = parameters[state.read], elements(graph.shapes[state.read])
    if state.initial is None:
        return StateVariable(state.name, size * q.bytes, q.element, q.zero_point)
    kind = "<f4" if q.element is Element.FLOAT32 else f"<i{q.bytes}"
    codes: npt.NDArray[Any] = quantize(state.initial, q.scale, q.zero_point, kind).reshape(-1)
    if q.element is not Element.FLOAT32 and (codes == codes[0]).all():
        return StateVariable(state.name, size * q.bytes, q.element, int(codes[0]))
    return StateVariable(state.name, size * q.bytes, q.element, 0, np.ascontiguousarray(codes).view(np.int8))


def written_tensors(ops: Iterable[Op]) -> tuple[str, ...]:
    """Names under which STATE_WRITEs stand; they have no bytes."""
    return tuple(op.output for op in ops if op.code is OpCode.STATE_WRITE)


def place_states(ops: Sequence[Op]) -> tuple[tuple[StateVariable, int], ...]:
    """Every variable of `ops` with its offset in the state buffer, by name, so that equal models stay equal."""
    found = {variable.name: variable for op in ops for variable in op.states.values()}
    placed, at = [], 0
    for name in sorted(found):
        placed.append((found[name], at))
        at += -(-found[name].size_bytes // STATE_ALIGN) * STATE_ALIGN
    return tuple(placed)


def state_bytes(ops: Sequence[Op]) -> int:
    """Bytes of the state buffer."""
    return sum(-(-variable.size_bytes // STATE_ALIGN) * STATE_ALIGN for variable, _ in place_states(ops))
