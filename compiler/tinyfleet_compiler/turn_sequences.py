"""Sequences run by rows: one row of L pixels is L rows of one pixel, byte for byte (`--optimize ram`)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tinyfleet_compiler.build_scope import Op
from tinyfleet_compiler.plan_memory import Plan
from tinyfleet_compiler.rows import WINDOW_CODES

Shapes = dict[str, tuple[int, ...]]
_PAIRS = (
    *(("in_h", "in_w"), ("out_h", "out_w"), ("kernel_h", "kernel_w")),
    *(("stride_h", "stride_w"), ("dilation_h", "dilation_w"), ("pad_top", "pad_left")),
)


def upright_shapes(shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    """(1, L, C) and (L, C) as (L, 1, C)."""
    return {name: _upright(shape) for name, shape in shapes.items()}


def _upright(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == 3 and shape[0] == 1:
        return shape[1], 1, shape[2]
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def upright_ops(ops: Sequence[Op]) -> tuple[Op, ...]:
    """Windows over one row with their axes swapped: weights, order and distances stay what they are."""
    return tuple(_turned(op) for op in ops)


def turn_sequences(ops: Sequence[Op], plan: Plan) -> tuple[Op, ...]:
    """The ops as `plan` runs them: upright inside its cascades, as they were outside, where kernels like long rows."""
    inside = {index for cascade in plan.cascades for index in range(cascade.first, cascade.end)}
    return tuple(_turned(op) if index in inside else op for index, op in enumerate(ops))


def _turned(op: Op) -> Op:
    f = op.fields
    if op.code not in WINDOW_CODES or (f["in_h"], f["out_h"], f["kernel_h"], f["pad_top"]) != (1, 1, 1, 0):
        return op
    swapped = {name: f[other] for pair in _PAIRS for name, other in (pair, pair[::-1])}
    return replace(op, fields=f | swapped)
