"""Builders of BATCH_MATMUL, TOP_K and NORMALIZE (NUMERICS.md section 2)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler import layout
from tinyfleet_compiler.build_elementwise import Codes, bounded_multiplier, quantize_constant
from tinyfleet_compiler.build_scope import Op, Scope, make_op
from tinyfleet_compiler.check_products import MOST_DEPTH, MOST_NORMALIZED
from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.graph import L2Normalize, MatMul, Node, Normalize, Shape, TopK, elements
from tinyfleet_compiler.numerics import INT32_MAX, round_half_away
from tinyfleet_compiler.operators import OpCode, OpFlag
from tinyfleet_compiler.overlap import rows_overlap
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.quantize.taken import QuantizedGraph

_FACTOR_CODES, _MOST_FACTOR_SUM = 32767, 1 << 24
_MOST_ADDEND = float(1 << 29)
_MOST_EPSILON = (1 << 62) - 1
_MOST_SIZE = 65_535


def _walk(shape: Shape, axes: Sequence[int]) -> tuple[list[int], list[int]]:
    """(sizes, steps) of a dense tensor's axes in the order of `axes`, two to four of them; axes of 1 repeat."""
    steps = [elements(shape[axis + 1 :]) for axis in range(len(shape))]
    missing = 4 - len(axes)
    sizes = [1] * missing + [shape[axis] for axis in axes]
    return sizes, [0] * missing + [steps[axis] if shape[axis] > 1 else 0 for axis in axes]


def _matmul(scope: Scope, node: Node) -> Op:
    assert isinstance(node, MatMul)
    a = scope.quantization(node.inputs[0])
    constant, b, shape_b = _second(scope, node)
    fields = matmul_walks(scope, node, shape_b)
    depth = fields["depth"]
    if depth > MOST_DEPTH:
        raise ModelError(f"'{node.name}' sums up {depth} products, at most {MOST_DEPTH} fit int32; split the product")
    real = a.scale * b.scale * abs(node.alpha) / scope.quantization(node.output).scale
    most = max(0, int(math.log2(INT32_MAX / (depth * 255.0 * 255.0))))
    multiplier, shift = bounded_multiplier(node, real, most)
    fields |= {"input_b_zero_point": b.zero_point, "multiplier": multiplier, "shift": shift}
    flags = OpFlag.NONE if constant is None else OpFlag.CONSTANT_B
    flat = None if constant is None else constant.reshape(-1)
    more = {"flags": flags, "constant": flat, "macs": math.prod(fields["dims"]) * depth}
    return make_op(scope, node, OpCode.BATCH_MATMUL, layout.NO_OVERLAP, fields, **more)


def matmul_walks(scope: Scope, node: MatMul, shape_b: Shape) -> dict[str, Any]:
    """Sizes and steps of a product's record. Raises `ModelError` for axes that are too long."""
    sizes_a, steps = _walk(scope.graph.shapes[node.inputs[0]], node.a_axes)
    _, steps_b = _walk(shape_b, node.b_axes)
    dims, output_steps = _walk(scope.graph.shapes[node.output], node.out_axes)
    if max(dims) > _MOST_SIZE:
        raise ModelError(f"'{node.name}' multiplies {dims}, at most {_MOST_SIZE} along an axis; split the product")
    fields: dict[str, Any] = {"dims": dims, "depth": sizes_a[3], "steps": steps, "output_steps": output_steps}
    return fields | {"steps_b": (*steps_b[:2], steps_b[3], steps_b[2])}


def _second(scope: Scope, node: MatMul) -> tuple[Codes | None, Quantization, Shape]:
    if node.constant is None:
        return None, scope.quantization(node.inputs[1]), scope.graph.shapes[node.inputs[1]]
    if isinstance(scope.graph, QuantizedGraph):
        taken = scope.graph.constants[node.output]
        return taken.codes, taken.quantization, node.constant.shape
    codes, quantization = quantize_constant(node.constant)
    return codes, quantization, node.constant.shape


def _top_k(scope: Scope, node: Node) -> Op:
    assert isinstance(node, TopK)
    shape = scope.graph.shapes[node.inputs[0]]
    assert node.axis in (-1, len(shape) - 1), "lowering puts the axis last"
    rows, columns = elements(shape[:-1]), shape[-1]
    fields = {"rows": rows, "columns": columns, "k": node.k, "smallest": int(not node.largest)}
    code = OpCode.TOP_K_INDICES if node.indices else OpCode.TOP_K
    return make_op(scope, node, code, rows_overlap(rows, columns, node.k), fields)


def _normalize(scope: Scope, node: Node) -> Op:
    assert isinstance(node, Normalize)
    shape = scope.graph.shapes[node.inputs[0]]
    sizes = _group_sizes(node, shape)
    source, result = scope.quantization(node.inputs[0]), scope.quantization(node.output)
    n = sizes["count"] * sizes["run"]
    if n > MOST_NORMALIZED:
        raise ModelError(f"'{node.name}' normalises {n} values together, at most {MOST_NORMALIZED}; use more groups")
    epsilon = min(round(node.epsilon * n * n / (source.scale * source.scale)), _MOST_EPSILON)
    table, step = _factors(node, shape, sizes)
    multiplier, shift = bounded_multiplier(node, step / result.scale, 30)
    if (_MOST_FACTOR_SUM + int(np.abs(table[1]).max())) << max(shift, 0) > INT32_MAX:
        raise ModelError(f"the output range of '{node.name}' is tiny against its factors; calibrate with real samples")
    fields = sizes | {"epsilon": (epsilon & 0xFFFFFFFF, epsilon >> 32), "centred": int(node.centred)}
    fields |= {"multiplier": multiplier, "shift": shift}
    # Groups that alternate in memory are not read in the order they are written.
    overlap = 0 if sizes["count"] == 1 else layout.NO_OVERLAP
    return make_op(scope, node, OpCode.NORMALIZE, overlap, fields, constant=table.reshape(-1))


def _group_sizes(node: Normalize, shape: Shape) -> dict[str, int]:
    if node.groups:
        run = shape[-1] // node.groups
        return {"outer": 1, "count": elements(shape[:-1]), "groups": node.groups, "run": run}
    first = min(node.axes)
    assert sorted(node.axes) == list(range(first, len(shape))), "lowering puts the axes last"
    return {"outer": elements(shape[:first]), "count": 1, "groups": 1, "run": elements(shape[first:])}


def _factors(node: Normalize, shape: Shape, sizes: dict[str, int]) -> tuple[npt.NDArray[np.int32], float]:
    """(2, groups x run): gamma and beta in steps of the second value, which is what they are stored in."""
    columns = sizes["groups"] * sizes["run"]
    gamma, beta = (
        np.broadcast_to(values, shape).reshape(-1, columns)[0].astype(np.float64) for values in (node.gamma, node.beta)
    )
    largest = max(float(np.abs(gamma).max()), float(np.abs(beta).max()) * 2 * _FACTOR_CODES / _MOST_ADDEND, 1e-9)
    grid = largest / _FACTOR_CODES
    codes = np.stack([round_half_away(gamma / grid), round_half_away(beta / (grid / 2))])
    return codes.astype(np.int32), grid / 2


def _l2_normalize(scope: Scope, node: Node) -> Op:
    shape = scope.graph.shapes[node.output]
    if shape[-1] > layout.MOST_SQUARES:
        raise ModelError(f"'{node.name}' normalises {shape[-1]} values, at most {layout.MOST_SQUARES} fit; split it")
    return make_op(scope, node, OpCode.L2_NORMALIZE, 0, {"rows": elements(shape[:-1]), "columns": shape[-1]})


BUILDERS: dict[type[Node], Callable[[Scope, Node], Op]] = {
    MatMul: _matmul,
    TopK: _top_k,
    Normalize: _normalize,
    L2Normalize: _l2_normalize,
}
