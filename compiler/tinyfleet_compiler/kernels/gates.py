"""Recurrent gates as NUMERICS.md states them: (image, record, arenas, states), all (N, bytes), -> (N, size)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.check_state import GATES_OF
from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.kernels.finish import finish
from tinyfleet_compiler.kernels.int16 import logistic, tanh
from tinyfleet_compiler.layout import GATES, NO_OFFSET
from tinyfleet_compiler.numerics import rescale
from tinyfleet_compiler.operators import Element, OpFlag
from tinyfleet_compiler.tables_int16 import INT16_MAX, INT16_MIN

Int8 = npt.NDArray[np.int8]
Array = npt.NDArray[Any]
_HALF = 1 << 30
"""The multiplier of a power of two."""


class Gates:
    """The gates of one record over a batch of inputs (N, steps, features)."""

    def __init__(self, image: Image, op: ImageOp, arena: Int8) -> None:
        count = GATES_OF[op.code]
        rows = count * op.units
        self.op = op
        self.biases = image.array(op.table, 2 * rows, Element.INT32).astype(np.int64).reshape(2, count, -1)
        at = op.table + self.biases.size * 4
        self.start = np.zeros(op.units, np.int64), np.full(op.units, op.output_zero_point, np.int64)
        if op.flags & OpFlag.GIVEN_START:
            cell = image.array(at, op.units, Element.INT16)
            hidden = image.array(at + cell.nbytes, op.units, Element.INT8)
            self.start = cell.astype(np.int64), hidden.astype(np.int64)
            at += cell.nbytes + hidden.nbytes
        over_input = image.array(at, rows * op.features, Element.INT8)
        recurrent = image.array(at + over_input.nbytes, rows * op.units, Element.INT8)
        self.weights = tuple(part.astype(np.int64).reshape(count, op.units, -1) for part in (over_input, recurrent))
        x = arena[:, op.input : op.input + op.steps * op.features].astype(np.int64)
        self.x = x.reshape(len(arena), op.steps, op.features)

    def part(self, side: int, gate: int, values: Array) -> Array:
        """(N, units) sums over the input (side 0) or the hidden state (side 1) in Q3.12."""
        sums = (values @ self.weights[side][gate].T + self.biases[side][gate]).astype(np.int32)
        at = side * GATES + gate
        return to_int16(rescale(sums, self.op.gate_multipliers[at], self.op.gate_shifts[at]))

    def sum(self, gate: int, x: Array, hidden: Array) -> Array:
        """What the gate's function reads, times three: (N, units) places of the sigmoid table."""
        return 3 * to_int16(self.part(0, gate, x) + self.part(1, gate, hidden))


def to_int16(values: Array) -> Array:
    """Clamped to int16."""
    return np.asarray(np.clip(values, INT16_MIN, INT16_MAX)).astype(np.int64)


def _cell_places(cell: Array, power: int) -> Array:
    left = 12 + power
    return 3 * cell << left if left >= 0 else (3 * cell + (1 << -left - 1)) >> -left


def _kept(op: ImageOp, gates: Gates, state: Int8) -> tuple[Array, Array]:
    """(hidden state, cell), both (N, units), before the first step."""
    if op.hidden == NO_OFFSET:
        cell, hidden = (np.broadcast_to(row, (len(state), op.units)) for row in gates.start)
        return hidden, cell
    cell = np.ascontiguousarray(state[:, op.cell : op.cell + 2 * op.units]).view("<i2").astype(np.int64)
    return state[:, op.hidden : op.hidden + op.units].astype(np.int64), cell


def _keep(op: ImageOp, state: Int8, hidden: Array, cell: Array) -> None:
    if op.hidden != NO_OFFSET:
        state[:, op.cell : op.cell + 2 * op.units] = cell.astype("<i2").view(np.int8)
        state[:, op.hidden : op.hidden + op.units] = hidden


Step = Callable[[ImageOp, Gates, Array, Array, Array], tuple[Array, Array]]
"""(record, gates, input, hidden state, cell) -> (next cell, what is shown before it is scaled to the output)."""


def _lstm_step(op: ImageOp, gates: Gates, x: Array, hidden: Array, cell: Array) -> tuple[Array, Array]:
    let, keep, new, out = (gates.sum(gate, x, hidden) for gate in range(GATES))
    kept = to_int16(rescale(logistic(keep).astype(np.int64) * cell, _HALF, -14))
    fresh = logistic(let).astype(np.int64) * tanh(new)
    cell = to_int16(kept + to_int16(rescale(fresh, _HALF, -29 - op.cell_power)))
    if op.cell_clip:
        cell = np.clip(cell, -op.cell_clip, op.cell_clip)
    return cell, tanh(_cell_places(cell, op.cell_power)).astype(np.int64) * logistic(out)


def _gru_step(op: ImageOp, gates: Gates, x: Array, hidden: Array, cell: Array) -> tuple[Array, Array]:
    keep, reset = (logistic(gates.sum(gate, x, hidden)).astype(np.int64) for gate in range(2))
    if op.flags & OpFlag.RESET_FIRST:
        faded = finish(op, rescale(rescale(reset * cell, _HALF, -14), op.output_multiplier, op.output_shift))
        back = gates.part(1, 2, faded.astype(np.int64))
    else:
        back = rescale(reset * gates.part(1, 2, hidden), _HALF, -14)
    new = tanh(3 * to_int16(gates.part(0, 2, x) + back)).astype(np.int64)
    kept = rescale(keep * cell, _HALF, -14) + rescale(((1 << 15) - keep) * new, _HALF, -14)
    return to_int16(kept), to_int16(kept)


def _run(step: Step, image: Image, op: ImageOp, arena: Int8, state: Int8) -> Int8:
    gates = Gates(image, op, arena)
    hidden, cell = _kept(op, gates, state)
    rows = []
    for at in range(op.steps):
        cell, shown = step(op, gates, gates.x[:, at], hidden, cell)
        rows.append(finish(op, rescale(shown, op.output_multiplier, op.output_shift)))
        hidden = rows[-1].astype(np.int64)
    _keep(op, state, rows[-1], cell)
    return np.concatenate(rows, axis=1)


def lstm(image: Image, op: ImageOp, arena: Int8, state: Int8) -> Int8:
    """Gates in order: input, forget, cell, output."""
    return _run(_lstm_step, image, op, arena, state)


def gru(image: Image, op: ImageOp, arena: Int8, state: Int8) -> Int8:
    """Gates in order: update, reset, hidden. The cell is the hidden state in Q15."""
    return _run(_gru_step, image, op, arena, state)
