"""Operators that keep something of their own: node to record."""

from collections.abc import Callable

import numpy as np

from tinyfleet_compiler import layout
from tinyfleet_compiler.build_scope import Op, Scope, StateVariable, make_op
from tinyfleet_compiler.graph import Node, Svdf
from tinyfleet_compiler.numerics import quantize_multiplier
from tinyfleet_compiler.operators import Element, OpCode


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


BUILDERS: dict[type[Node], Callable[[Scope, Node], Op]] = {Svdf: _svdf}
