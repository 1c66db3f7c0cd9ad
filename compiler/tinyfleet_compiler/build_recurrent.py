"""Operators that keep something of their own: node to record."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyfleet_compiler import layout
from tinyfleet_compiler.build_scope import Op, Scope, StateVariable, make_op
from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.graph import Gated, GateNumbers, Gru, Lstm, LstmCodes, Node, Svdf, elements
from tinyfleet_compiler.numerics import quantize_multiplier
from tinyfleet_compiler.operators import Element, OpCode
from tinyfleet_compiler.quantize.gates import round_gates


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
    units, hidden = node.numbers.weights.shape[1], scope.quantization(node.output)
    states = {
        "hidden": StateVariable(f"{node.name}/hidden", units, Element.INT8, hidden.zero_point),
        "cell": StateVariable(f"{node.name}/cell", 2 * units, Element.INT16),
    }
    return _gated(scope, node, OpCode.LSTM, node.numbers, states=states)


def _gated(scope: Scope, node: Node, code: OpCode, numbers: GateNumbers, **more: Any) -> Op:
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
    parts = (numbers.biases.astype("<i4"), numbers.weights, numbers.recurrent)
    table = np.frombuffer(b"".join(part.tobytes() for part in parts), np.int8)
    macs = steps * (numbers.weights.size + numbers.recurrent.size)
    return make_op(scope, node, code, layout.NO_OVERLAP, fields, constant=table, macs=macs, **more)


def _per_gate(values: list[int], gates: int) -> list[int]:
    """Two sides of `layout.GATES` each; what a record has no gate for is 0."""
    rest = [0] * (layout.GATES - gates)
    return [*values[:gates], *rest, *values[gates:], *rest]


def _anew(scope: Scope, node: Node) -> Op:
    """A layer that begins anew with every inference keeps what it needs in scratch."""
    assert isinstance(node, Gated)
    code = OpCode.LSTM if isinstance(node, Lstm) else OpCode.GRU
    power = int(np.log2(scope.parameters[node.cell].scale)) if isinstance(node, Lstm) else -15
    source, result = scope.quantization(node.inputs[0]), scope.quantization(node.output)
    if source.element is not Element.INT8:
        raise ModelError(f"'{node.name}' has no kernel for int16 inputs; leave them int8")
    numbers = round_gates(node, source, result, power)
    units = numbers.weights.shape[1]
    return _gated(scope, node, code, numbers, scratch_bytes=3 * units)


BUILDERS: dict[type[Node], Callable[[Scope, Node], Op]] = {Svdf: _svdf, LstmCodes: _lstm_codes, Lstm: _anew, Gru: _anew}
