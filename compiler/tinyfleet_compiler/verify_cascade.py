"""Replays a cascade of a finished image row by row: every row read must still be what its op made."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.build_ops import Op
from tinyfleet_compiler.errors import VerifyError
from tinyfleet_compiler.image import Image
from tinyfleet_compiler.layout import NO_SOURCE
from tinyfleet_compiler.operators import OpCode, OpFlag
from tinyfleet_compiler.rows import ImageCascade, RowStep, cascade_steps

Ints = npt.NDArray[np.int64]
OrderCheck = Callable[[Op, RowStep, int], None]
_ROWS = 1 << 20
_SCRATCH = -1


def replay_cascade(
    owner: Ints, image: Image, cascade: ImageCascade, ops: Sequence[Op], ids: dict[str, int], check_order: OrderCheck
) -> None:
    """Play the rows of `cascade` on `owner` (a tensor or row per arena byte). Raises `VerifyError`.

    `check_order(op, step, offset of an input row)` proves a row that is written where it is read.
    """
    makers = {op.output: m for m, op in enumerate(ops[cascade.first : cascade.first + len(cascade.links)])}
    _check_wiring(cascade, ops, makers)
    workspace = owner[cascade.workspace : cascade.workspace + cascade.workspace_bytes]
    for step in cascade_steps(image, cascade):
        op = ops[step.index]
        if step.slide is not None:
            moved = owner[step.slide.source : step.slide.source + step.slide.size].copy()
            owner[step.slide.target : step.slide.target + step.slide.size] = moved
        _check_rows(owner, op, step, ids, makers)
        for _, offset in row_operands(op, step):
            check_order(op, step, offset)
        if step.record.scratch_bytes:
            owner[step.record.scratch : step.record.scratch + step.record.scratch_bytes] = _SCRATCH
            _check_rows(owner, op, step, ids, makers)
        start = step.record.output
        owner[start : start + step.window.out_bytes] = _row_id(ids[op.output], step.row)
        # An engine writes here in every step: what lay there is lost.
        workspace[:] = _SCRATCH
    for member, link in enumerate(cascade.links):
        if link.ring_rows == link.rows:
            _join_rows(owner, image, cascade.first + member, ids[ops[cascade.first + member].output], link.rows)


def row_operands(op: Op, step: RowStep) -> list[tuple[str, int]]:
    """Inputs of a step by name, with the arena offset of the first row read."""
    found = [(op.inputs[0], int(step.record.input))]
    if step.record.code is OpCode.ADD and not step.record.flags & OpFlag.CONSTANT_B:
        found.append((op.inputs[-1], int(step.record.input_b)))
    return found


def _check_wiring(cascade: ImageCascade, ops: Sequence[Op], makers: dict[str, int]) -> None:
    for member, link in enumerate(cascade.links):
        op = ops[cascade.first + member]
        pair = op.code is OpCode.ADD and not op.flags & OpFlag.CONSTANT_B
        wanted = makers.get(op.inputs[0], NO_SOURCE), makers.get(op.inputs[-1], NO_SOURCE) if pair else NO_SOURCE
        if (link.source, link.source_b) != wanted:
            raise VerifyError(f"memory plan: '{op.name}' is fed by another op; this is a bug of the compiler")


def _check_rows(owner: Ints, op: Op, step: RowStep, ids: dict[str, int], makers: dict[str, int]) -> None:
    rows = np.arange(step.window.first, step.window.end)
    for name, offset in row_operands(op, step):
        wanted = _row_id(ids[name], rows) if name in makers else np.full(len(rows), ids[name])
        found = owner[offset : offset + len(rows) * step.window.in_bytes]
        wrong = np.flatnonzero(found != np.repeat(wanted, step.window.in_bytes))
        if wrong.size:
            raise VerifyError(
                f"memory plan: row {step.row} of '{op.name}' finds '{name}' overwritten at arena byte "
                f"{offset + int(wrong[0])}; this is a bug of the compiler"
            )


def _row_id(tensor: int, row: int | Ints) -> Ints:
    return np.asarray((tensor + 1) * _ROWS + row, dtype=np.int64)


def _join_rows(owner: Ints, image: Image, index: int, tensor: int, rows: int) -> None:
    """Bytes of an output that is kept whole belong to the tensor from here on; a byte that is lost stays lost."""
    f = image.ops[index].fields
    row_bytes = f["out_w"] * f["out_c"] if "out_w" in f else f["size"] // rows
    place = owner[f["output"] : f["output"] + rows * row_bytes]
    place[place == np.repeat(_row_id(tensor, np.arange(rows)), row_bytes)] = tensor
