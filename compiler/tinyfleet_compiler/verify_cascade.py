"""Replays a cascade of a finished image row by row: every row read must still be what its op made."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.build_ops import Op
from tinyfleet_compiler.errors import VerifyError
from tinyfleet_compiler.image import Image
from tinyfleet_compiler.layout import NO_SOURCE
from tinyfleet_compiler.operators import OpCode, OpFlag
from tinyfleet_compiler.rows import ImageCascade, Place, RowLink, RowStep, cascade_steps

Ints = npt.NDArray[np.int64]
OrderCheck = Callable[[Op, RowStep, int], None]
_TENSORS, _ROWS = 1 << 32, 1 << 16
_SCRATCH = -1


def replay_cascade(
    owner: Ints, image: Image, cascade: ImageCascade, ops: Sequence[Op], ids: dict[str, int], check_order: OrderCheck
) -> None:
    """Play the rows of `cascade` on `owner` (a tensor, or a pixel of a row, per arena byte). Raises `VerifyError`.

    `check_order(op, step, offset of an input row)` proves a row that is written where it is read.
    """
    makers = {op.output: m for m, op in enumerate(ops[cascade.first : cascade.first + len(cascade.links)])}
    _check_wiring(cascade, ops, makers)
    workspace = owner[cascade.workspace : cascade.workspace + cascade.workspace_bytes]
    for step in cascade_steps(image, cascade):
        op = ops[step.index]
        # An engine writes its record, and what it gathers, in every step: what lay there is lost.
        workspace[:] = _SCRATCH
        if step.slide is not None:
            moved = owner[step.slide.source : step.slide.source + step.slide.size].copy()
            owner[step.slide.target : step.slide.target + step.slide.size] = moved
        _check_rows(owner, op, step, ids, makers)
        if step.gather is None:
            for _, place in row_operands(op, step):
                check_order(op, step, place.offset)
        if step.record.scratch_bytes:
            owner[step.record.scratch : step.record.scratch + step.record.scratch_bytes] = _SCRATCH
            if step.gather is None:
                _check_rows(owner, op, step, ids, makers)
        made = _pixel_ids(ids[op.output], np.array([step.row]), step.columns.first, step.columns.end)
        start = step.record.output
        owner[start : start + step.window.out_bytes] = np.repeat(made, step.window.out_bytes // step.columns.columns)
    for member, link in enumerate(cascade.links):
        if link.whole:
            _join_rows(owner, image, cascade.first + member, ids[ops[cascade.first + member].output], link)


def row_operands(op: Op, step: RowStep) -> list[tuple[str, Place]]:
    """Inputs of a step by name, with where they lie."""
    return list(zip((op.inputs[0], op.inputs[-1]), step.places, strict=False))


def _check_wiring(cascade: ImageCascade, ops: Sequence[Op], makers: dict[str, int]) -> None:
    for member, link in enumerate(cascade.links):
        op = ops[cascade.first + member]
        pair = op.code is OpCode.ADD and not op.flags & OpFlag.CONSTANT_B
        wanted = makers.get(op.inputs[0], NO_SOURCE), makers.get(op.inputs[-1], NO_SOURCE) if pair else NO_SOURCE
        if (link.source, link.source_b) != wanted:
            raise VerifyError(f"memory plan: '{op.name}' is fed by another op; this is a bug of the compiler")


def _check_rows(owner: Ints, op: Op, step: RowStep, ids: dict[str, int], makers: dict[str, int]) -> None:
    window = step.window
    rows = np.arange(window.first, window.end)
    for name, place in row_operands(op, step):
        pixels = _pixel_ids(ids[name], rows, window.left, window.right)
        wanted = np.repeat(pixels if name in makers else np.full(pixels.shape, ids[name]), window.pixel, axis=1)
        places = place.offset + np.arange(len(rows))[:, None] * place.pitch + np.arange(wanted.shape[1])
        wrong = places[owner[places] != wanted]
        if wrong.size:
            raise VerifyError(
                f"memory plan: row {step.row} of '{op.name}' finds '{name}' overwritten at arena byte "
                f"{int(wrong[0])}; this is a bug of the compiler"
            )


def _pixel_ids(tensor: int, rows: Ints, first: int, end: int) -> Ints:
    """(rows, columns) numbers, different for all pixels of all tensors."""
    return np.asarray((tensor + 1) * _TENSORS + rows[:, None] * _ROWS + np.arange(first, end), dtype=np.int64)


def _join_rows(owner: Ints, image: Image, index: int, tensor: int, link: RowLink) -> None:
    """Bytes of an output that is kept whole belong to the tensor from here on; a byte that is lost stays lost."""
    f = image.ops[index].fields
    pixel = f["out_c"] if "out_c" in f else f["size"] // (link.rows * link.width)
    wanted = np.repeat(_pixel_ids(tensor, np.arange(link.rows), 0, link.width).ravel(), pixel)
    place = owner[f["output"] : f["output"] + wanted.size]
    place[place == wanted] = tensor
