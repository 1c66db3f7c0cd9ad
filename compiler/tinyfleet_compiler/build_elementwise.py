"""Builders of operators that work element by element: look-up tables, parametric Relu."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler import build_int16
from tinyfleet_compiler.build_scope import Op, Scope, make_op
from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.graph import Floats, Lookup, Node, PRelu, Reals, elements
from tinyfleet_compiler.numerics import quantize_multiplier, round_half_away
from tinyfleet_compiler.operators import CODE_RANGES, Element, OpCode
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.quantize.taken import QuantizedGraph

MOST_SHIFT = 22
"""9-bit differences may be shifted left this far and stay inside int32."""
MOST_PRODUCT_SHIFT = 14
"""The same for products of two differences."""
MOST_SHIFT_CODES_INT16 = 14
"""The same for int16 codes less an int8 zero point."""
Codes = npt.NDArray[np.int8] | npt.NDArray[np.int16]


def quantize_constant(constant: Floats, element: Element = Element.INT8) -> tuple[Codes, Quantization]:
    """Symmetric codes of a constant operand and their scale."""
    largest = float(np.abs(constant).max())
    last = CODE_RANGES[element][1]
    symmetric = Quantization(float(np.float32(max(largest, 1e-6) / last)), 0, element)
    codes = np.clip(round_half_away(constant.astype(np.float64) / symmetric.scale), -last, last)
    return codes.astype(np.int16) if element is Element.INT16 else codes.astype(np.int8), symmetric


def bounded_multiplier(node: Node, real: float, most_shift: int) -> tuple[int, int]:
    """`quantize_multiplier` of a ratio of scales. Raises `ModelError` where its shift could leave int32."""
    multiplier, shift = quantize_multiplier(real)
    if shift > most_shift:
        raise ModelError(
            f"'{node.name}' keeps a vanishing part of its input's range; remove it or calibrate with real samples"
        )
    return multiplier, shift


def lookup_table(
    function: Callable[[Reals], Reals], source: Quantization, result: Quantization
) -> npt.NDArray[np.int8]:
    """Outputs (256,) int8 for the inputs -128 .. 127 (NUMERICS.md section 2, LUT_INT8)."""
    codes = np.arange(-128, 128, dtype=np.float64)
    with np.errstate(all="ignore"):
        real = function((codes - source.zero_point) * source.scale) / result.scale
    steps = round_half_away(np.clip(np.nan_to_num(real, nan=0.0), -1e6, 1e6))
    return np.clip(steps + result.zero_point, -128, 127).astype(np.int8)


def _lookup(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Lookup)
    if scope.quantization(node.output).element is Element.INT16:
        return build_int16.lookup(scope, node)
    if isinstance(scope.graph, QuantizedGraph):
        table = scope.graph.constants[node.output].codes
    else:
        table = lookup_table(node.function, scope.quantization(node.inputs[0]), scope.quantization(node.output))
    size = elements(scope.graph.shapes[node.output])
    return make_op(scope, node, OpCode.LUT_INT8, 0, {"size": size}, constant=table)


def _prelu(scope: Scope, node: Node) -> Op:
    assert isinstance(node, PRelu)
    if isinstance(scope.graph, QuantizedGraph) and node.output in scope.graph.constants:
        taken = scope.graph.constants[node.output]
        slopes, slope = taken.codes, taken.quantization
    else:
        slopes, slope = quantize_constant(node.slopes)
    source, result = scope.quantization(node.inputs[0]), scope.quantization(node.output)
    positive = bounded_multiplier(node, source.scale / result.scale, MOST_SHIFT)
    negative = bounded_multiplier(node, source.scale * slope.scale / result.scale, MOST_PRODUCT_SHIFT)
    fields = {
        "slope_count": slopes.size,
        "size": elements(scope.graph.shapes[node.output]),
        "multiplier": positive[0],
        "shift": positive[1],
        "slope_multiplier": negative[0],
        "slope_shift": negative[1],
    }
    return make_op(scope, node, OpCode.PRELU, 0, fields, constant=slopes.reshape(-1))


BUILDERS: dict[type[Node], Callable[[Scope, Node], Op]] = {Lookup: _lookup, PRelu: _prelu}

__all__ = ["BUILDERS", "bounded_multiplier", "lookup_table", "quantize_constant"]
