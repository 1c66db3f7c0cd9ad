"""Builder of operators over two operands with broadcasting (NUMERICS.md section 2)."""

from typing import Any

import numpy as np

from tinyfleet_compiler import layout
from tinyfleet_compiler.broadcast import broadcast_walk
from tinyfleet_compiler.build_elementwise import (
    MOST_PRODUCT_SHIFT,
    MOST_SHIFT,
    MOST_SHIFT_CODES_INT16,
    Codes,
    bounded_multiplier,
    quantize_constant,
)
from tinyfleet_compiler.build_scope import Op, Scope, make_op
from tinyfleet_compiler.graph import Add, Binary, BinaryOperator, Floats, Node, Shape, elements
from tinyfleet_compiler.numerics import quantize_multiplier
from tinyfleet_compiler.operators import Element, OpCode, OpFlag
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.quantize.taken import QuantizedGraph

_CODES = {
    BinaryOperator.ADD: OpCode.ADD_BROADCAST,
    BinaryOperator.SUB: OpCode.SUB,
    BinaryOperator.MUL: OpCode.MUL,
    BinaryOperator.DIV: OpCode.DIV,
    BinaryOperator.MIN: OpCode.MINIMUM,
    BinaryOperator.MAX: OpCode.MAXIMUM,
    BinaryOperator.SQUARED_DIFFERENCE: OpCode.SQUARED_DIFFERENCE,
}
_UNUSED = (0, 0)
_MOST_SUM_SHIFT = 3
"""Two codes of at most 255, halved and shifted by ADD_LEFT_SHIFT, add up to less than 2^28."""


def build_binary(scope: Scope, node: Node) -> Op:
    """Record of a `Binary`; an operand that is not broadcast may be overwritten in place."""
    assert isinstance(node, Binary)
    shapes = scope.graph.shapes
    a, y = scope.quantization(node.inputs[0]), scope.quantization(node.output)
    if node.constant is None:
        constant, b, shape_b = None, scope.quantization(node.inputs[1]), shapes[node.inputs[1]]
    else:
        constant, b = _constant_operand(scope, node, node.constant)
        shape_b = node.constant.shape
    walk = broadcast_walk(shapes[node.inputs[0]], shape_b, shapes[node.output])
    fields: dict[str, Any] = {"dims": walk.dims, "repeats": walk.repeats, "repeats_b": walk.repeats_b}
    fields["reserved"] = 0
    fields["input_b_zero_point"] = b.zero_point
    pairs = _multipliers_int16(node, a, b, y) if y.element is Element.INT16 else _multipliers(node, a, b, y)
    for name, (multiplier, shift) in pairs.items():
        fields |= {f"{name}_multiplier": multiplier, f"{name}_shift": shift}
    flags = OpFlag.NONE if constant is None else OpFlag.CONSTANT_B
    flags |= OpFlag.SWAPPED if node.swapped else OpFlag.NONE
    # An operand that repeats nowhere is read in the order of the output.
    whole = [name for name, repeats in zip(node.inputs, (walk.repeats, walk.repeats_b), strict=False) if not repeats]
    roots = tuple(dict.fromkeys(scope.root(name) for name in whole))
    return make_op(
        scope,
        node,
        _CODES[node.operator],
        0 if roots else layout.NO_OVERLAP,
        fields,
        flags=flags,
        constant=None if constant is None else constant.reshape(-1),
        overlapping_inputs=roots,
    )


def _constant_operand(scope: Scope, node: Binary, constant: Floats) -> tuple[Codes, Quantization]:
    if isinstance(scope.graph, QuantizedGraph):
        taken = scope.graph.constants[node.output]
        return taken.codes, taken.quantization
    return quantize_constant(constant, scope.quantization(node.output).element)


def _multipliers(node: Binary, a: Quantization, b: Quantization, y: Quantization) -> dict[str, tuple[int, int]]:
    if node.operator is BinaryOperator.MUL:
        output = bounded_multiplier(node, a.scale * b.scale / y.scale, MOST_PRODUCT_SHIFT)
        return {"input": _UNUSED, "input_b": _UNUSED, "output": output}
    if node.operator is BinaryOperator.DIV:
        above, below = (b, a) if node.swapped else (a, b)
        scales = (np.float32(q.scale) for q in (above, below, y))
        first, second, third = scales
        real = float(first / (second * third))  # in float32, as TFLM
        return {"input": _UNUSED, "input_b": _UNUSED, "output": bounded_multiplier(node, real, MOST_SHIFT)}
    if node.operator in (BinaryOperator.MIN, BinaryOperator.MAX):
        pairs = [bounded_multiplier(node, q.scale / y.scale, MOST_SHIFT) for q in (a, b)]
        return {"input": pairs[0], "input_b": pairs[1], "output": _UNUSED}
    if node.operator is BinaryOperator.SQUARED_DIFFERENCE:
        found = sum_multipliers(a, b, y, layout.ADD_LEFT_SHIFT)
        shifted = 2.0 * max(a.scale, b.scale) / (1 << layout.SQUARED_DIFFERENCE_LEFT_SHIFT)
        found["output"] = bounded_multiplier(node, shifted * shifted / y.scale, 0)
        return found
    return bounded_sum_multipliers(node, a, b, y)


def bounded_sum_multipliers(
    node: Node, a: Quantization, b: Quantization, y: Quantization
) -> dict[str, tuple[int, int]]:
    """Multipliers of int8 ADD and SUB. Raises `ModelError` where what they add could leave int32."""
    bounded_multiplier(node, 2.0 * max(a.scale, b.scale) / ((1 << layout.ADD_LEFT_SHIFT) * y.scale), _MOST_SUM_SHIFT)
    return sum_multipliers(a, b, y, layout.ADD_LEFT_SHIFT)


def sum_multipliers(a: Quantization, b: Quantization, y: Quantization, left_shift: int) -> dict[str, tuple[int, int]]:
    """Multipliers of ADD and SUB."""
    twice = 2.0 * max(a.scale, b.scale)
    return {
        "input": quantize_multiplier(a.scale / twice),
        "input_b": quantize_multiplier(b.scale / twice),
        "output": quantize_multiplier(twice / ((1 << left_shift) * y.scale)),
    }


def _multipliers_int16(node: Binary, a: Quantization, b: Quantization, y: Quantization) -> dict[str, tuple[int, int]]:
    """As for int8, with bounds that keep 16-bit operands inside int32."""
    if node.operator is BinaryOperator.MUL:
        output = bounded_multiplier(node, a.scale * b.scale / y.scale, 0)
        return {"input": _UNUSED, "input_b": _UNUSED, "output": output}
    if node.operator in (BinaryOperator.MIN, BinaryOperator.MAX):
        pairs = [bounded_multiplier(node, q.scale / y.scale, MOST_SHIFT_CODES_INT16) for q in (a, b)]
        return {"input": pairs[0], "input_b": pairs[1], "output": _UNUSED}
    bounded_multiplier(node, max(a.scale, b.scale) / y.scale / (1 << layout.ADD_LEFT_SHIFT_INT16), -1)
    return sum_multipliers(a, b, y, layout.ADD_LEFT_SHIFT_INT16)


def binary_of(node: Add, shape: Shape) -> Binary:
    """An `Add` as the more general node."""
    constant = node.constant
    if constant is not None:
        axis = next(i for i in range(len(shape) + 1) if elements(shape[i:]) == constant.size)
        constant = constant.reshape((1,) * axis + shape[axis:])
    return Binary(
        node.name,
        node.inputs,
        node.output,
        operator=BinaryOperator.ADD,
        constant=constant,
        low=node.low,
        high=node.high,
    )
