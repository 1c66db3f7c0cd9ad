"""Nodes over float32 tensors -> op records: no scales, a float range, weights with their bias in one row."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler import layout
from tinyfleet_compiler.broadcast import broadcast_walk
from tinyfleet_compiler.build_moves import MOVES, strided_copy, transpose_steps
from tinyfleet_compiler.build_products import matmul_walks
from tinyfleet_compiler.build_recurrent import FLOAT_BUILDERS as RECURRENT
from tinyfleet_compiler.build_reduce import reduce_runs
from tinyfleet_compiler.build_scope import Op, Scope, make_op
from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.float_run import geometry
from tinyfleet_compiler.graph import (
    Add,
    ArgMax,
    AveragePool,
    Binary,
    BinaryOperator,
    Clip,
    Concat,
    Conv,
    Convert,
    ConvTranspose,
    DepthToSpace,
    Gather,
    Gemm,
    LogSoftmax,
    Lookup,
    MatMul,
    MaxPool,
    Node,
    Pad,
    PRelu,
    Reduce,
    ReduceOperator,
    Resize,
    Slice,
    Softmax,
    SpaceToDepth,
    TopK,
    Transpose,
    elements,
)
from tinyfleet_compiler.kernels.windows import Geometry
from tinyfleet_compiler.operators import ELEMENT_BYTES, Element, Function, OpCode, OpFlag
from tinyfleet_compiler.overlap import pixel_overlap, pixel_overlap_reversed, rows_overlap

_BINARY = {
    BinaryOperator.ADD: OpCode.ADD_F32,
    BinaryOperator.SUB: OpCode.SUB_F32,
    BinaryOperator.MUL: OpCode.MUL_F32,
    BinaryOperator.DIV: OpCode.DIV_F32,
    BinaryOperator.MIN: OpCode.MINIMUM_F32,
    BinaryOperator.MAX: OpCode.MAXIMUM_F32,
}
_REDUCE = {
    ReduceOperator.MEAN: OpCode.REDUCE_SUM_F32,
    ReduceOperator.SUM: OpCode.REDUCE_SUM_F32,
    ReduceOperator.MAX: OpCode.REDUCE_MAX_F32,
    ReduceOperator.MIN: OpCode.REDUCE_MIN_F32,
}
_WORD = ELEMENT_BYTES[Element.FLOAT32]


def _rows(node: Conv | Gemm) -> npt.NDArray[np.float32]:
    """(O, 1 + weights of one output): the bias first."""
    table = np.concatenate([node.bias[:, None], node.weights.reshape(len(node.weights), -1)], axis=1)
    if not np.isfinite(table).all():
        raise ModelError(f"'{node.name}' has weights that are no finite numbers; export the model again")
    return np.ascontiguousarray(table, "<f4")


def _window_fields(g: Geometry) -> dict[str, int]:
    return {name: getattr(g, name) for name in Geometry.__dataclass_fields__}


def _conv(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Conv)
    g = geometry(scope.graph, node, node.window, node.groups)
    code = OpCode.DEPTHWISE_CONV_2D_F32 if node.groups == g.in_c > 1 else OpCode.CONV_2D_F32
    more = {"constant": _rows(node), "macs": g.out_h * g.out_w * node.weights.size}
    more["reversed_overlap_bytes"] = pixel_overlap_reversed(g)
    return make_op(scope, node, code, pixel_overlap(g), _window_fields(g), **more)


def _conv_transpose(scope: Scope, node: Node) -> Op:
    assert isinstance(node, ConvTranspose)
    g = geometry(scope.graph, node, node.window, node.groups)
    more = {"constant": _rows(node), "macs": g.in_h * g.in_w * node.weights.size}
    return make_op(scope, node, OpCode.TRANSPOSE_CONV_2D_F32, layout.NO_OVERLAP, _window_fields(g), **more)


def _gemm(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Gemm)
    outputs, features = node.weights.shape
    rows = elements(scope.graph.shapes[node.inputs[0]]) // features
    fields = {"rows": rows, "in_features": features, "out_features": outputs}
    more = {"constant": _rows(node), "macs": rows * node.weights.size}
    return make_op(scope, node, OpCode.FULLY_CONNECTED_F32, rows_overlap(rows, features, outputs), fields, **more)


def _pool(scope: Scope, node: Node) -> Op:
    assert isinstance(node, (MaxPool, AveragePool))
    g = geometry(scope.graph, node, node.window)
    code = OpCode.MAX_POOL_2D_F32 if isinstance(node, MaxPool) else OpCode.AVERAGE_POOL_2D_F32
    include = isinstance(node, AveragePool) and node.include_pad
    flags = OpFlag.COUNT_INCLUDE_PAD if include else OpFlag.NONE
    return make_op(scope, node, code, pixel_overlap(g), _window_fields(g), flags=flags)


def _add(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Add)
    shape = scope.graph.shapes[node.output]
    constant = node.constant
    if constant is not None and constant.shape != shape:  # over the last axis, or of the full size
        constant = constant.reshape(shape if constant.size == elements(shape) else (*[1] * (len(shape) - 1), -1))
    known = {name: getattr(node, name) for name in ("name", "inputs", "output", "low", "high")}
    return _binary(scope, Binary(**known, operator=BinaryOperator.ADD, constant=constant))


def _binary(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Binary)
    shapes = scope.graph.shapes
    shape_b = shapes[node.inputs[1]] if node.constant is None else node.constant.shape
    walk = broadcast_walk(shapes[node.inputs[0]], shape_b, shapes[node.output])
    flags = OpFlag.NONE if node.constant is None else OpFlag.CONSTANT_B
    flags |= OpFlag.SWAPPED if node.swapped else OpFlag.NONE
    whole = [name for name, repeats in zip(node.inputs, (walk.repeats, walk.repeats_b), strict=False) if not repeats]
    roots = tuple(dict.fromkeys(scope.root(name) for name in whole))
    fields = {"dims": walk.dims, "repeats": walk.repeats, "repeats_b": walk.repeats_b, "reserved": 0}
    constant = None if node.constant is None else node.constant.reshape(-1).astype("<f4")
    overlap = 0 if roots else layout.NO_OVERLAP
    more = {"flags": flags, "constant": constant, "overlapping_inputs": roots}
    return make_op(scope, node, _BINARY[node.operator], overlap, fields, **more)


def _softmax(scope: Scope, node: Node) -> Op:
    shape = scope.graph.shapes[node.inputs[0]]
    code = OpCode.SOFTMAX_F32 if isinstance(node, Softmax) else OpCode.LOG_SOFTMAX_F32
    beta = node.beta if isinstance(node, Softmax) else 1.0
    return make_op(scope, node, code, 0, {"rows": elements(shape[:-1]), "columns": shape[-1], "beta": beta})


def _reduce(scope: Scope, node: Node) -> Op:
    assert isinstance(node, (Reduce, ArgMax))
    fields, overlap = reduce_runs(scope, node, node.axes if isinstance(node, Reduce) else (node.axis,))
    code = _REDUCE[node.operator] if isinstance(node, Reduce) else OpCode.ARG_MAX_F32
    mean = isinstance(node, Reduce) and node.operator is ReduceOperator.MEAN
    return make_op(scope, node, code, overlap, fields | {"divisor": fields["count"] if mean else 1.0})


def _lookup(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Lookup)
    assert node.unary is not None, "checked when the graph was made"
    return _function(scope, node, node.unary.function, node.unary.alpha, node.unary.beta)


def _clip(scope: Scope, node: Node) -> Op:
    return _function(scope, node, Function.IDENTITY, 0.0, 0.0)


def _function(scope: Scope, node: Node, function: Function, alpha: float, beta: float) -> Op:
    families = (OpCode.UNARY_F32, OpCode.EXPONENTIAL_F32, OpCode.TRIGONOMETRIC_F32)
    fields = {"function": function, "size": elements(scope.graph.shapes[node.output]), "alpha": alpha, "beta": beta}
    return make_op(scope, node, families[function // 32], 0, fields)


def _prelu(scope: Scope, node: Node) -> Op:
    assert isinstance(node, PRelu)
    fields = {"slope_count": node.slopes.size, "size": elements(scope.graph.shapes[node.output])}
    return make_op(scope, node, OpCode.PRELU_F32, 0, fields, constant=node.slopes.reshape(-1).astype("<f4"))


def _transpose(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Transpose)
    return _copy(scope, node, 0, *transpose_steps(scope.graph.shapes[node.inputs[0]], node.perm))


def _copy(scope: Scope, node: Node, start: int, dims: tuple[int, ...], strides: tuple[int, ...]) -> Op:
    move = strided_copy(start, dims, strides)
    return make_op(scope, node, OpCode.STRIDED_COPY_F32, move.overlap, move.fields)


def _rearrange(scope: Scope, node: Node) -> Op:
    move = MOVES[type(node)](scope.graph, node)
    return make_op(scope, node, OpCode.STRIDED_COPY_F32, move.overlap, move.fields)


def _pad(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Pad)
    move = MOVES[Pad](scope.graph, node)
    return make_op(scope, node, OpCode.PAD_F32, move.overlap, move.fields | {"value": node.value})


def _concat(scope: Scope, node: Node) -> Op:
    """CONCAT counts bytes, whatever it joins."""
    assert isinstance(node, Concat)
    move = MOVES[Concat](scope.graph, node)
    fields = move.fields | {"lengths": tuple(length * _WORD for length in move.fields["lengths"])}
    constant = None if node.constant is None else node.constant.reshape(-1).astype("<f4")
    op = make_op(scope, node, OpCode.CONCAT, layout.NO_OVERLAP, fields, flags=move.flags, constant=constant)
    return replace(op, inputs=tuple(scope.root(name) for name in node.inputs))


def _gather(scope: Scope, node: Node) -> Op:
    """GATHER counts bytes, whatever it moves."""
    move = MOVES[type(node)](scope.graph, node)
    fields = move.fields | {"in_c": move.fields["in_c"] * _WORD}
    more = {"flags": move.flags, "constant": move.table}
    return make_op(scope, node, OpCode.GATHER, layout.NO_OVERLAP, fields, **more)


def _resize(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Resize)
    if not node.linear:
        return _gather(scope, node)
    places = np.array([*node.rows, *node.columns], np.float64)
    low = np.floor(places)
    table = np.stack([low, places - low], axis=1).astype("<f4")
    # A part that rounds to 1 is the next place itself.
    table[table[:, 1] >= 1.0] += np.array([1.0, -1.0], np.float32)
    move = MOVES[Resize](scope.graph, node)
    more = {"constant": table.reshape(-1)}
    return make_op(scope, node, OpCode.RESIZE_BILINEAR_F32, layout.NO_OVERLAP, move.fields, **more)


def _convert(scope: Scope, node: Node) -> Op:
    source, result = scope.quantization(node.inputs[0]), scope.quantization(node.output)
    to_codes = result.element is not Element.FLOAT32
    code, codes = (OpCode.QUANTIZE, result) if to_codes else (OpCode.DEQUANTIZE, source)
    size = elements(scope.graph.shapes[node.output])
    fields = {
        "size": size,
        "scale": codes.scale,
        "zero_point": codes.zero_point,
        "input_element": source.element,
        "output_element": result.element,
    }
    # Element i is read before it is written: what grows must not reach the codes that are still to come.
    overlap = max(0, (size - 1) * (result.bytes - source.bytes))
    return make_op(scope, node, code, overlap, fields)


def _matmul(scope: Scope, node: Node) -> Op:
    assert isinstance(node, MatMul)
    shape_b = scope.graph.shapes[node.inputs[1]] if node.constant is None else node.constant.shape
    assert node.alpha == 1.0, "split_floats makes it an operator of its own"
    fields = matmul_walks(scope, node, shape_b)
    macs = math.prod(fields["dims"]) * fields["depth"]
    flags = OpFlag.NONE if node.constant is None else OpFlag.CONSTANT_B
    constant = None if node.constant is None else node.constant.reshape(-1).astype("<f4")
    more = {"flags": flags, "constant": constant, "macs": macs}
    return make_op(scope, node, OpCode.BATCH_MATMUL_F32, layout.NO_OVERLAP, fields, **more)


def _top_k(scope: Scope, node: Node) -> Op:
    assert isinstance(node, TopK)
    rows, columns = elements(scope.graph.shapes[node.inputs[0]][:-1]), scope.graph.shapes[node.inputs[0]][-1]
    fields = {"rows": rows, "columns": columns, "k": node.k, "smallest": int(not node.largest)}
    code = OpCode.TOP_K_INDICES_F32 if node.indices else OpCode.TOP_K_F32
    return make_op(scope, node, code, rows_overlap(rows, columns, node.k), fields)


BUILDERS: dict[type[Node], Callable[[Scope, Node], Op]] = {
    MatMul: _matmul,
    TopK: _top_k,
    **RECURRENT,
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    Gemm: _gemm,
    MaxPool: _pool,
    AveragePool: _pool,
    Add: _add,
    Binary: _binary,
    Softmax: _softmax,
    LogSoftmax: _softmax,
    Reduce: _reduce,
    ArgMax: _reduce,
    Lookup: _lookup,
    Clip: _clip,
    PRelu: _prelu,
    Transpose: _transpose,
    Slice: _rearrange,
    DepthToSpace: _rearrange,
    SpaceToDepth: _rearrange,
    Pad: _pad,
    Concat: _concat,
    Gather: _gather,
    Resize: _resize,
    Convert: _convert,
}


def has_float_kernel(node: Node) -> bool:
    """Whether a channels-last node can run over float32 tensors."""
    if isinstance(node, Lookup):
        return node.unary is not None
    return type(node) in BUILDERS and not (isinstance(node, Binary) and node.operator not in _BINARY)
