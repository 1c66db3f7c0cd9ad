"""Builders of reductions over neighbouring axes (NUMERICS.md section 2)."""

from collections.abc import Callable
from typing import Any

from tinyfleet_compiler.build_scope import Op, Scope, make_op
from tinyfleet_compiler.check_int16 import MOST_COUNT_INT16
from tinyfleet_compiler.check_ops import MOST_COUNT
from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.graph import ArgMax, Node, Reduce, ReduceOperator, elements
from tinyfleet_compiler.numerics import INT32_MAX, quantize_multiplier
from tinyfleet_compiler.operators import Element, OpCode

_CODES = {
    ReduceOperator.MEAN: OpCode.REDUCE_SUM,
    ReduceOperator.SUM: OpCode.REDUCE_SUM,
    ReduceOperator.MAX: OpCode.REDUCE_MAX,
    ReduceOperator.MIN: OpCode.REDUCE_MIN,
}


def mean_multiplier(real: float, count: int) -> tuple[int, int]:
    """(Q31 multiplier, shift) of real / count, the division worked in as TFLM does (`QuantizedMeanOrSum`)."""
    multiplier, shift = quantize_multiplier(real)
    bits = min(count.bit_length() - 1, 32, 31 + shift)
    return (multiplier << bits) // count, shift - bits


def _reduce(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Reduce)
    fields, overlap = reduce_runs(scope, node, node.axes)
    multiplier, shift = (0, 0)
    if _CODES[node.operator] is OpCode.REDUCE_SUM:
        multiplier, shift = _sum_multiplier(scope, node, fields["count"])
    fields |= {"multiplier": multiplier, "shift": shift}
    return make_op(scope, node, _CODES[node.operator], overlap, fields)


def _sum_multiplier(scope: Scope, node: Reduce, count: int) -> tuple[int, int]:
    real = scope.quantization(node.inputs[0]).scale / scope.quantization(node.output).scale
    pair = mean_multiplier(real, count) if node.operator is ReduceOperator.MEAN else quantize_multiplier(real)
    wide = scope.quantization(node.inputs[0]).element is Element.INT16
    most, largest = (MOST_COUNT_INT16, 1 << 15) if wide else (MOST_COUNT, 255)
    if count > most or (largest * count) << max(pair[1], 0) > INT32_MAX:
        raise ModelError(f"'{node.name}' reduces {count} values beyond int32; reduce in two steps or calibrate again")
    return pair


def _arg_max(scope: Scope, node: Node) -> Op:
    assert isinstance(node, ArgMax)
    fields, overlap = reduce_runs(scope, node, (node.axis,))
    code = OpCode.ARG_MIN if node.smallest else OpCode.ARG_MAX
    return make_op(scope, node, code, overlap, fields | {"multiplier": 0, "shift": 0})


def reduce_runs(scope: Scope, node: Node, axes: tuple[int, ...]) -> tuple[dict[str, Any], int]:
    """Fields outer, count and inner, and the overlap in elements."""
    shape = scope.graph.shapes[node.inputs[0]]
    assert axes == tuple(range(axes[0], axes[-1] + 1)), "axes of a reduction are neighbours"
    count, inner = elements(shape[axes[0] : axes[-1] + 1]), elements(shape[axes[-1] + 1 :])
    # A run of single values is read whole before its result is written, so the output may start inside the first one.
    return {"outer": elements(shape[: axes[0]]), "count": count, "inner": inner}, 1 - count if inner == 1 else 0


BUILDERS: dict[type[Node], Callable[[Scope, Node], Op]] = {Reduce: _reduce, ArgMax: _arg_max}
