"""The records that move a tensor between arena and state."""

from tinyfleet_compiler.build_scope import Op, StateVariable
from tinyfleet_compiler.operators import CODE_RANGES, Element, OpCode
from tinyfleet_compiler.quantize.parameters import Quantization


def state_op(
    name: str, code: OpCode, inputs: tuple[str, ...], output: str, variable: StateVariable, q: Quantization
) -> Op:
    """STATE_READ or STATE_WRITE of a whole variable."""
    low, high = CODE_RANGES.get(q.element, CODE_RANGES[Element.INT8])
    ranges = {"input_zero_point": q.zero_point, "output_zero_point": q.zero_point}
    # The record's bounds are bytes; a state operator clamps nothing.
    ranges |= {"activation_min": max(low, -128), "activation_max": min(high, 127)}
    return Op(name, code, inputs, output, ranges | {"size": variable.size_bytes}, 0, states={"state": variable})
