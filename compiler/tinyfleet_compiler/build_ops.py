"""Quantised graph -> operators as the image holds them, every field but the offsets resolved."""

from collections.abc import Callable
from typing import Any

from tinyfleet_compiler import (
    build_binary,
    build_elementwise,
    build_features,
    build_float,
    build_int16,
    build_moves,
    build_products,
    build_recurrent,
    build_reduce,
    build_transposed,
    layout,
)
from tinyfleet_compiler.build_elementwise import Codes
from tinyfleet_compiler.build_moves import bytewise
from tinyfleet_compiler.build_scope import Op, Scope, layer_weights, make_op
from tinyfleet_compiler.check_int16 import MOST_COUNT_INT16
from tinyfleet_compiler.check_ops import MOST_EXPONENTIALS
from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.float_run import geometry
from tinyfleet_compiler.graph import (
    Add,
    AveragePool,
    Binary,
    Clip,
    Conv,
    Convert,
    Features,
    Gemm,
    Graph,
    LogSoftmax,
    MaxPool,
    Node,
    Softmax,
    Transpose,
    elements,
)
from tinyfleet_compiler.kernels.windows import Geometry
from tinyfleet_compiler.numerics import quantize_multiplier
from tinyfleet_compiler.operators import Element, OpCode, OpFlag
from tinyfleet_compiler.overlap import pixel_overlap, pixel_overlap_reversed, rows_overlap
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.quantize.taken import QuantizedGraph
from tinyfleet_compiler.quantize.weights import BaseWeights, IntegerWeights

_MOST_RESCALE_SHIFT = 22


def build_ops(
    graph: Graph,
    parameters: dict[str, Quantization],
    base: dict[str, BaseWeights] | None = None,
    fitted: dict[str, IntegerWeights] | None = None,
) -> tuple[Op, ...]:
    """One `Op` per node, in graph order; `base` weights by node output lend their scales where they fit.

    `fitted` weights, by node output too, are taken as they are.
    """
    scope = Scope(graph, parameters, base or {}, fitted or {})
    return tuple(_builder(scope, node)(scope, node) for node in graph.nodes)


def _builder(scope: Scope, node: Node) -> Callable[[Scope, Node], Op]:
    real = scope.quantization(node.output).element is Element.FLOAT32 or isinstance(node, Convert)
    return (build_float.BUILDERS if real else _BUILDERS)[type(node)]


def _window_fields(g: Geometry) -> dict[str, int]:
    return {name: getattr(g, name) for name in Geometry.__dataclass_fields__}


def _conv(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Conv)
    g = geometry(scope.graph, node, node.window, node.groups)
    # One input channel and one group is both; the dense kernel is the general one.
    depthwise = node.groups == g.in_c and g.in_c > 1
    code = OpCode.DEPTHWISE_CONV_2D if depthwise else OpCode.CONV_2D
    macs = g.out_h * g.out_w * node.weights.size
    more = {"weights": layer_weights(scope, node), "macs": macs, "reversed_overlap_bytes": pixel_overlap_reversed(g)}
    return make_op(scope, node, code, pixel_overlap(g), _window_fields(g), **more)


def _gemm(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Gemm)
    outputs, features = node.weights.shape
    rows = elements(scope.graph.shapes[node.inputs[0]]) // features
    fields = {"rows": rows, "in_features": features, "out_features": outputs}
    overlap = rows_overlap(rows, features, outputs)
    weights = layer_weights(scope, node)
    return make_op(scope, node, OpCode.FULLY_CONNECTED, overlap, fields, weights=weights, macs=rows * node.weights.size)


def _pool(scope: Scope, node: Node) -> Op:
    assert isinstance(node, (MaxPool, AveragePool))
    g = geometry(scope.graph, node, node.window)
    if isinstance(node, MaxPool):
        return make_op(scope, node, OpCode.MAX_POOL_2D, pixel_overlap(g), _window_fields(g))
    wide, taps = scope.quantization(node.output).element is Element.INT16, g.kernel_h * g.kernel_w
    if wide and taps > MOST_COUNT_INT16:
        raise ModelError(
            f"'{node.name}' averages {taps} int16 values, at most {MOST_COUNT_INT16}; average in two steps"
        )
    flags = OpFlag.COUNT_INCLUDE_PAD if node.include_pad else OpFlag.NONE
    return make_op(scope, node, OpCode.AVERAGE_POOL_2D, pixel_overlap(g), _window_fields(g), flags=flags)


def _add(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Add)
    if scope.quantization(node.output).element is Element.INT16:
        return build_binary.build_binary(scope, build_binary.binary_of(node, scope.graph.shapes[node.inputs[0]]))
    size = elements(scope.graph.shapes[node.output])
    constant, b = _operand_b(scope, node)
    a, y = scope.quantization(node.inputs[0]), scope.quantization(node.output)
    pairs = build_binary.bounded_sum_multipliers(node, a, b, y)
    fields: dict[str, Any] = {"size": size, "size_b": size if constant is None else constant.size}
    fields["input_b_zero_point"] = b.zero_point
    for name, (multiplier, shift) in pairs.items():
        fields |= {f"{name}_multiplier": multiplier, f"{name}_shift": shift}
    flags = OpFlag.NONE if constant is None else OpFlag.CONSTANT_B
    inputs = tuple(dict.fromkeys(scope.root(i) for i in node.inputs))
    # `a + a` names one tensor: keep both record fields through input order.
    return make_op(scope, node, OpCode.ADD, 0, fields, flags=flags, constant=constant, overlapping_inputs=inputs)


def _operand_b(scope: Scope, node: Add) -> tuple[Codes | None, Quantization]:
    if node.constant is None:
        return None, scope.quantization(node.inputs[1])
    if isinstance(scope.graph, QuantizedGraph):
        taken = scope.graph.constants[node.output]
        return taken.codes.reshape(-1), taken.quantization
    return build_elementwise.quantize_constant(node.constant)


def _softmax(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Softmax)
    _limit_classes(scope, node)
    if scope.quantization(node.output).element is Element.INT16:
        return build_int16.softmax(scope, node)
    return make_op(scope, node, OpCode.SOFTMAX, 0, _exponential_fields(scope, node, node.beta))


def _limit_classes(scope: Scope, node: Node) -> None:
    classes = scope.graph.shapes[node.inputs[0]][-1]
    if classes > MOST_EXPONENTIALS:
        help = "end the model before it, or compile with --type float32"
        raise ModelError(f"'{node.name}' chooses among {classes} classes, at most {MOST_EXPONENTIALS}; {help}")


def _exponential_fields(scope: Scope, node: Node, beta: float) -> dict[str, int]:
    shape = scope.graph.shapes[node.inputs[0]]
    scale = beta * scope.quantization(node.inputs[0]).scale
    bits = layout.SOFTMAX_INTEGER_BITS
    multiplier, left_shift = quantize_multiplier(min(scale * float(1 << (31 - bits)), float((1 << 31) - 1)))
    return {
        "rows": elements(shape[:-1]),
        "columns": shape[-1],
        "multiplier": multiplier,
        "left_shift": left_shift,
        "diff_min": -int(((1 << bits) - 1) * float(1 << (31 - bits)) / float(1 << left_shift)),
    }


def _log_softmax(scope: Scope, node: Node) -> Op:
    _limit_classes(scope, node)
    fields = _exponential_fields(scope, node, 1.0)
    multiplier, shift = quantize_multiplier(2.0 ** (31 - fields["left_shift"]) / fields["multiplier"])
    fields |= {"reverse_multiplier": multiplier, "reverse_shift": shift}
    return make_op(scope, node, OpCode.LOG_SOFTMAX, 0, fields)


def _rescale(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Clip)
    if Element.INT16 in (scope.quantization(node.inputs[0]).element, scope.quantization(node.output).element):
        return build_int16.rescale(scope, node)
    ratio = scope.quantization(node.inputs[0]).scale / scope.quantization(node.output).scale
    multiplier, shift = quantize_multiplier(ratio)
    if shift > _MOST_RESCALE_SHIFT:
        raise ModelError(
            f"'{node.name}' keeps a vanishing part of its input's range; remove it or calibrate with real samples"
        )
    size = elements(scope.graph.shapes[node.output])
    return make_op(scope, node, OpCode.RESCALE, 0, {"size": size, "multiplier": multiplier, "shift": shift})


def _transpose(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Transpose)
    shape = scope.graph.shapes[node.inputs[0]]
    steps = [elements(shape[axis + 1 :]) for axis in range(len(shape))]
    dims, strides = bytewise(
        [shape[axis] for axis in node.perm], [steps[axis] for axis in node.perm], scope.quantization(node.output).bytes
    )
    missing = 4 - len(dims)
    if missing < 0:
        raise ModelError(f"'{node.name}' moves four axes of int16; leave it int8")
    fields = {"dims": (*([1] * missing), *dims), "strides": (*([0] * missing), *strides)}
    return make_op(scope, node, OpCode.TRANSPOSE, layout.NO_OVERLAP, fields)


_BUILDERS: dict[type[Node], Callable[[Scope, Node], Op]] = {
    Conv: _conv,
    Gemm: _gemm,
    MaxPool: _pool,
    AveragePool: _pool,
    Add: _add,
    Softmax: _softmax,
    Clip: _rescale,
    Transpose: _transpose,
    LogSoftmax: _log_softmax,
    **build_elementwise.BUILDERS,
    **build_reduce.BUILDERS,
    Binary: build_binary.build_binary,
    **build_moves.BUILDERS,
    **build_transposed.BUILDERS,
    **build_recurrent.BUILDERS,
    Features: build_features.build_features,
    **build_products.BUILDERS,
}

__all__ = ["Op", "build_ops"]
