"""Nodes that only move bytes -> what their op records say. Layouts: SPEC.md section 5."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler import layout
from tinyfleet_compiler.build_scope import Op, Scope, make_op
from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.graph import (
    Concat,
    DepthToSpace,
    Floats,
    Gather,
    Graph,
    Node,
    Pad,
    Resize,
    Slice,
    SpaceToDepth,
    elements,
)
from tinyfleet_compiler.numerics import quantize, round_half_away
from tinyfleet_compiler.operators import Element, OpCode, OpFlag
from tinyfleet_compiler.overlap import copy_overlap
from tinyfleet_compiler.quantize.parameters import Quantization

RESIZE_ONE = 1 << layout.RESIZE_FRACTION_BITS


@dataclass(frozen=True, eq=False)
class Move:
    """Fields of a record, and the table it reads or what it joins."""

    code: OpCode
    fields: dict[str, Any]
    overlap: int = layout.NO_OVERLAP
    flags: OpFlag = OpFlag.NONE
    table: npt.NDArray[np.int16] | None = None


def build_move(scope: Scope, node: Node) -> Op:
    """The `Op` of a channels-last node."""
    move = _of_bytes(node, MOVES[type(node)](scope.graph, node), scope.quantization(node.output).bytes)
    more: dict[str, Any] = {"flags": move.flags, "constant": move.table}
    if isinstance(node, Concat) and node.constant is not None:
        more["constant"] = _codes(node.constant, scope.quantization(node.output))
    op = make_op(scope, node, move.code, move.overlap, move.fields, **more)
    if isinstance(node, Concat):
        # The record names every operand, so one that is joined to itself stays twice.
        op = replace(op, inputs=tuple(scope.root(name) for name in node.inputs))
    if isinstance(node, Pad):
        result = scope.quantization(node.output)
        if node.value != 0.0 and result.bytes > 1:
            raise ModelError(f"'{node.name}' pads int16 with {node.value:g}; pad with 0 or leave it int8")
        code = np.clip(round_half_away(node.value / result.scale) + result.zero_point, -128, 127)
        op = replace(op, fields=op.fields | {"input_zero_point": int(code)})
    return op


def _codes(constant: Floats, result: Quantization) -> npt.NDArray[Any]:
    kind = np.int8 if result.element is Element.INT8 else np.int16
    return quantize(constant, result.scale, result.zero_point, kind).reshape(-1)


def bytewise(dims: Sequence[int], strides: Sequence[int], size: int) -> tuple[list[int], list[int]]:
    """Axes of elements of `size` bytes as axes of bytes: one more axis where elements do not lie side by side."""
    steps = [step * size for step in strides]
    if size == 1:
        return list(dims), steps
    if strides and strides[-1] == 1:
        return [*dims[:-1], dims[-1] * size], [*steps[:-1], 1]
    return [*dims, size], [*steps, 1]


def _of_bytes(node: Node, move: Move, size: int) -> Move:
    """A move of elements as one of bytes. Raises `ModelError` where the record has no axis left."""
    if size == 1:
        return move
    f, overlap = dict(move.fields), move.overlap * (size if move.overlap != layout.NO_OVERLAP else 1)
    if move.code is OpCode.RESIZE_BILINEAR:
        raise ModelError(f"'{node.name}' has no int16 kernel; leave it int8")
    if move.code is OpCode.PAD:
        f = {name: (*values[:-1], values[-1] * size) for name, values in f.items()}
    elif move.code is OpCode.CONCAT:
        f["lengths"] = tuple(run * size for run in f["lengths"])
    elif move.code is OpCode.GATHER:
        f["in_c"] *= size
    else:
        used = [(d, s) for d, s in zip(f["dims"], f["strides"], strict=True) if d > 1]
        dims, strides = bytewise([d for d, _ in used], [s for _, s in used], size)
        if len(dims) > 4:
            raise ModelError(f"'{node.name}' moves four axes of int16; leave it int8")
        f = {"start": f["start"] * size, "dims": _four(dims, 1), "strides": _four(strides, 0)}
    return replace(move, fields=f, overlap=overlap)


def _four(values: Sequence[int], fill: int) -> tuple[int, ...]:
    return (*([fill] * (4 - len(values))), *values)


def _steps(shape: Sequence[int]) -> list[int]:
    return [elements(tuple(shape[axis + 1 :])) for axis in range(len(shape))]


def _pad(graph: Graph, node: Node) -> Move:
    assert isinstance(node, Pad)
    shape = graph.shapes[node.inputs[0]]
    index = np.arange(elements(shape), dtype=np.int64).reshape(shape)
    sources = np.pad(index, list(zip(node.before, node.after, strict=True)), constant_values=-1)
    fields = {"dims": _four(shape, 1), "before": _four(node.before, 0), "after": _four(node.after, 0)}
    return Move(OpCode.PAD, fields, copy_overlap(sources.reshape(-1)))


def _concat(graph: Graph, node: Node) -> Move:
    assert isinstance(node, Concat)
    parts = [graph.shapes[name] for name in node.inputs] + ([] if node.constant is None else [node.constant.shape])
    runs = [elements(shape[node.axis :]) for shape in parts]
    outer = elements(graph.shapes[node.output][: node.axis])
    flags = OpFlag.NONE if node.constant is None else OpFlag.CONSTANT_B
    flags |= OpFlag.SWAPPED if node.swapped else OpFlag.NONE
    return Move(OpCode.CONCAT, {"outer": outer, "lengths": (*runs, 0, 0, 0)[:4]}, flags=flags)


def strided_copy(start: int, dims: Sequence[int], strides: Sequence[int]) -> Move:
    """Output element (i0, i1, ...) is input element start + i0 * strides[0] + ...; neighbouring axes are joined."""
    joined: list[tuple[int, int]] = []
    for size, step in zip(dims, strides, strict=True):
        if size == 1:
            continue
        if joined and joined[-1][1] == size * step:
            joined[-1] = (joined[-1][0] * size, step)
        else:
            joined.append((size, step))
    fields = {
        "start": start,
        "dims": _four([size for size, _ in joined], 1),
        "strides": _four([step for _, step in joined], 0),
    }
    sources = np.array([start], np.int64)
    for size, step in joined:
        sources = (sources[:, None] + np.arange(size, dtype=np.int64) * step).reshape(-1)
    return Move(OpCode.STRIDED_COPY, fields, copy_overlap(sources))


def transpose_steps(shape: Sequence[int], perm: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes of a transposition's output, and the input's step along each of its axes."""
    steps = _steps(shape)
    return tuple(shape[axis] for axis in perm), tuple(steps[axis] for axis in perm)


def _slice(graph: Graph, node: Node) -> Move:
    assert isinstance(node, Slice)
    unit = _steps(graph.shapes[node.inputs[0]])
    start = sum(s * u for s, u in zip(node.starts, unit, strict=True))
    return strided_copy(start, graph.shapes[node.output], [s * u for s, u in zip(node.steps, unit, strict=True)])


def _depth_to_space(graph: Graph, node: Node) -> Move:
    assert isinstance(node, DepthToSpace)
    (height, width, channels), block = graph.shapes[node.inputs[0]], node.block
    run = channels // block
    return strided_copy(0, (height, block, width, run), (width * channels, run, channels, 1))


def _space_to_depth(graph: Graph, node: Node) -> Move:
    assert isinstance(node, SpaceToDepth)
    (height, width, channels), block = graph.shapes[node.inputs[0]], node.block
    row, run = width * channels, block * channels
    return strided_copy(0, (height // block, width // block, block, run), (block * row, run, row, 1))


def _gather(graph: Graph, node: Node) -> Move:
    assert isinstance(node, Gather)
    shape, axis = graph.shapes[node.inputs[0]], node.axis
    rows, run = elements(shape[:axis]), elements(shape[axis + 1 :])
    fields = _resample_fields((rows, shape[axis], run), (rows, len(node.indices)))
    return Move(OpCode.GATHER, fields, flags=OpFlag.SAME_ROWS, table=np.array(node.indices, np.int16))


def _resize(graph: Graph, node: Node) -> Move:
    assert isinstance(node, Resize)
    shape = graph.shapes[node.inputs[0]]
    fields = _resample_fields((shape[0], shape[1], shape[2]), (len(node.rows), len(node.columns)))
    places = [*node.rows, *node.columns]
    if not node.linear:
        return Move(OpCode.GATHER, fields, table=np.array(places, np.int16))
    fixed = np.floor(np.array(places, np.float64) * RESIZE_ONE + 0.5).astype(np.int64)
    table = np.stack([fixed // RESIZE_ONE, fixed % RESIZE_ONE], axis=1).astype(np.int16)
    return Move(OpCode.RESIZE_BILINEAR, fields, table=table.reshape(-1))


def _resample_fields(source: tuple[int, int, int], result: tuple[int, int]) -> dict[str, int]:
    return {"in_h": source[0], "in_w": source[1], "in_c": source[2], "out_h": result[0], "out_w": result[1]}


MOVES: dict[type[Node], Callable[[Graph, Node], Move]] = {
    Pad: _pad,
    Concat: _concat,
    Slice: _slice,
    DepthToSpace: _depth_to_space,
    SpaceToDepth: _space_to_depth,
    Gather: _gather,
    Resize: _resize,
}

BUILDERS: dict[type[Node], Callable[[Scope, Node], Op]] = dict.fromkeys(MOVES, build_move)
