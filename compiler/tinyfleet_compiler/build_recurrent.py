"""Operators that keep something of their own: node to record."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tinyfleet_compiler import layout
from tinyfleet_compiler.build_scope import Op, Scope, StateVariable, make_op
from tinyfleet_compiler.check_state import float_gates_scratch, gates_scratch_bytes
from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.graph import Floats, Gated, GateNumbers, Gru, LastCell, Lstm, LstmCodes, Node, Svdf, elements
from tinyfleet_compiler.numerics import quantize, quantize_multiplier
from tinyfleet_compiler.operators import Element, OpCode, OpFlag
from tinyfleet_compiler.quantize.gates import round_gates
from tinyfleet_compiler.quantize.parameters import FLOAT, Quantization
from tinyfleet_compiler.state_op import state_op


def _svdf(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Svdf)
    (filters, features), memory = node.filters.shape, node.over_time.shape[1]
    element = Element.INT16 if node.over_time.dtype == np.int16 else Element.INT8
    pairs = [quantize_multiplier(scale) for scale in node.scales]
    fields = {
        "features": features,
        "filters": filters,
        "rank": filters // len(node.bias),
        "memory": memory,
        "state_element": element,
        "state_zero_point": node.state_zero_point,
        "multiplier": pairs[0][0],
        "shift": pairs[0][1],
        "output_multiplier": pairs[1][0],
        "output_shift": pairs[1][1],
    }
    parts = (node.bias.astype("<i4"), node.over_time.astype(node.over_time.dtype.newbyteorder("<")), node.filters)
    table = np.frombuffer(b"".join(part.tobytes() for part in parts), np.int8)
    variable = StateVariable(node.name, node.over_time.nbytes, element, node.state_zero_point)
    macs = node.filters.size + node.over_time.size
    more = {"constant": table, "macs": macs, "states": {"state": variable}}
    return make_op(scope, node, OpCode.SVDF, layout.NO_OVERLAP, fields, **more)


def _lstm_codes(scope: Scope, node: Node) -> Op:
    assert isinstance(node, LstmCodes)
    units = node.numbers.weights.shape[1]
    if not node.keeps:
        scratch = gates_scratch_bytes(units, OpFlag.NONE, anew=True)
        return _gated(scope, node, OpCode.LSTM, node.numbers, scratch_bytes=scratch)
    states = gate_states(node, units, scope.quantization(node.output))
    return _gated(scope, node, OpCode.LSTM, node.numbers, states=states)


def gate_states(node: Node, units: int, hidden: Quantization) -> dict[str, StateVariable]:
    """Where a recurrent layer leaves what it gave last, and its cell."""
    if hidden.element is Element.FLOAT32:
        names = ("hidden",) if isinstance(node, Gru) else ("hidden", "cell")
        return {name: StateVariable(f"{node.name}/{name}", 4 * units, Element.FLOAT32) for name in names}
    return {
        "hidden": StateVariable(f"{node.name}/hidden", units, Element.INT8, hidden.zero_point),
        "cell": StateVariable(f"{node.name}/cell", 2 * units, Element.INT16),
    }


def _gated(scope: Scope, node: Node, code: OpCode, numbers: GateNumbers, start: bytes = b"", **more: Any) -> Op:
    gates, units, features = numbers.weights.shape
    pairs = [quantize_multiplier(float(scale)) for scale in numbers.scales.reshape(-1)]
    shown = 2.0**-15 if code is OpCode.GRU else 2.0**-30
    output = quantize_multiplier(shown / float(np.float32(scope.quantization(node.output).scale)))
    steps = elements(scope.graph.shapes[node.output]) // units
    fields = {
        "features": features,
        "units": units,
        "steps": steps,
        "gate_multipliers": _per_gate([multiplier for multiplier, _ in pairs], gates),
        "gate_shifts": _per_gate([shift for _, shift in pairs], gates),
        "output_multiplier": output[0],
        "output_shift": output[1],
        "cell_power": numbers.cell_power,
        "cell_clip": numbers.cell_clip,
    }
    if "states" not in more:
        fields |= {"hidden": layout.NO_OFFSET, "cell": layout.NO_OFFSET}
    parts = (numbers.biases.astype("<i4").tobytes(), start, numbers.weights.tobytes(), numbers.recurrent.tobytes())
    table = np.frombuffer(b"".join(parts), np.int8)
    macs = steps * (numbers.weights.size + numbers.recurrent.size)
    return make_op(scope, node, code, layout.NO_OVERLAP, fields, constant=table, macs=macs, **more)


def _per_gate(values: list[int], gates: int) -> list[int]:
    """Two sides of `layout.GATES` each; what a record has no gate for is 0."""
    rest = [0] * (layout.GATES - gates)
    return [*values[:gates], *rest, *values[gates:], *rest]


def _real(scope: Scope, node: Node) -> Op:
    """A layer of a float model: it keeps what it needs in the state where others write or read it, else in scratch."""
    assert isinstance(node, Gated)
    source, result = scope.quantization(node.inputs[0]), scope.quantization(node.output)
    if result.element is Element.FLOAT32:
        return _float_gates(scope, node)
    if source.element is not Element.INT8:
        raise ModelError(f"'{node.name}' has no kernel for int16 inputs; leave them int8")
    code, cell = (OpCode.LSTM if isinstance(node, Lstm) else OpCode.GRU), gate_cell(scope.parameters, node)
    numbers = round_gates(node, source, result, int(np.log2(cell.scale)))
    units = numbers.weights.shape[1]
    flags = OpFlag.RESET_FIRST if isinstance(node, Gru) and node.reset_first else OpFlag.NONE
    more: dict[str, Any] = {}
    if node.keeps or len(node.inputs) > 1 or _gives_cell(scope, node):
        more["states"] = gate_states(node, units, result)
    if node.start is not None:
        flags |= OpFlag.GIVEN_START
        more["start"] = _start(node.start, result, cell)
    more |= {"flags": flags, "scratch_bytes": gates_scratch_bytes(units, flags, anew="states" not in more)}
    op = _gated(scope, node, code, numbers, **more)
    begins = len(node.inputs) > 1 and not node.keeps
    return replace(op, inputs=op.inputs[:1], after=begin_names(node) if begins else ())


def _float_gates(scope: Scope, node: Gated) -> Op:
    """LSTM_F32, GRU_F32."""
    _, units, features = node.weights.shape
    code = OpCode.LSTM_F32 if isinstance(node, Lstm) else OpCode.GRU_F32
    flags = OpFlag.RESET_FIRST if isinstance(node, Gru) and node.reset_first else OpFlag.NONE
    flags |= OpFlag.NONE if node.start is None else OpFlag.GIVEN_START
    kept = node.keeps or len(node.inputs) > 1 or _gives_cell(scope, node)
    states = gate_states(node, units, FLOAT) if kept else {}
    start = [] if node.start is None else [node.start[::-1].reshape(-1)]  # the hidden state is last
    parts = [node.bias.reshape(-1), *start, node.weights.reshape(-1), node.recurrent.reshape(-1)]
    steps = elements(scope.graph.shapes[node.output]) // units
    fields = {"features": features, "units": units, "steps": steps}
    fields |= {name: layout.NO_OFFSET for name in ("hidden", "cell") if name not in states}
    more: dict[str, Any] = {"constant": np.concatenate(parts).astype("<f4"), "states": states, "flags": flags}
    more["macs"] = steps * (node.weights.size + node.recurrent.size)
    more["scratch_bytes"] = float_gates_scratch(code, units, flags, anew=not kept)
    op = make_op(scope, node, code, layout.NO_OVERLAP, fields, **more)
    begins = len(node.inputs) > 1 and not node.keeps
    return replace(op, inputs=op.inputs[:1], after=begin_names(node)[: len(states)] if begins else ())


def gate_cell(parameters: dict[str, Quantization], node: Gated) -> Quantization:
    """Of the int16 cell; a GRU's is its hidden state in Q15. Of a float layer: float."""
    if parameters[node.output].element is Element.FLOAT32:
        return FLOAT
    return parameters[node.cell] if isinstance(node, Lstm) else Quantization(2.0**-15, 0, Element.INT16)


def begin_names(node: Gated) -> tuple[str, ...]:
    """Under which the writes of what a layer begins with stand in the op list."""
    return f"{node.name}/begin hidden", f"{node.name}/begin cell"


def _gives_cell(scope: Scope, node: Node) -> bool:
    return any(isinstance(reader, LastCell) for reader in scope.graph.byte_readers(node.output))


def _start(start: Floats, hidden: Quantization, cell: Quantization) -> bytes:
    """Cell, then hidden state, as codes."""
    codes = quantize(start[-1], cell.scale, 0, "<i2"), quantize(start[0], hidden.scale, hidden.zero_point)
    return b"".join(part.tobytes() for part in codes)


def _last_cell(scope: Scope, node: Node) -> Op:
    """STATE_READ of the variable the layer leaves its cell in."""
    assert isinstance(node, LastCell)
    layer = scope.graph.producer(scope.root(node.inputs[0]))
    assert isinstance(layer, Lstm)
    variable = gate_states(layer, layer.weights.shape[1], scope.quantization(layer.output))["cell"]
    op = state_op(node.name, OpCode.STATE_READ, (), node.output, variable, scope.quantization(node.output))
    return replace(op, after=(scope.root(layer.output),))


BUILDERS: dict[type[Node], Callable[[Scope, Node], Op]] = {
    Svdf: _svdf,
    LstmCodes: _lstm_codes,
    Lstm: _real,
    Gru: _real,
    LastCell: _last_cell,
}
FLOAT_BUILDERS: dict[type[Node], Callable[[Scope, Node], Op]] = {Lstm: _real, Gru: _real, LastCell: _last_cell}
"""Those that work over float32 tensors too."""
