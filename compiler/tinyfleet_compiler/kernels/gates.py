"""Recurrent gates as NUMERICS.md states them: (image, record, arenas, states), all (N, bytes), -> (N, size)."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.kernels.finish import finish
from tinyfleet_compiler.kernels.int16 import logistic, tanh
from tinyfleet_compiler.layout import GATES
from tinyfleet_compiler.numerics import rescale
from tinyfleet_compiler.operators import Element
from tinyfleet_compiler.tables_int16 import INT16_MAX, INT16_MIN

Int8 = npt.NDArray[np.int8]
Array = npt.NDArray[Any]
_HALF = 1 << 30
"""The multiplier of a power of two."""


class Gates:
    """The gates of one record over a batch of inputs (N, steps, features)."""

    def __init__(self, image: Image, op: ImageOp, arena: Int8) -> None:
        rows = GATES * op.units
        self.op = op
        self.biases = image.array(op.table, 2 * rows, Element.INT32).astype(np.int64).reshape(2, GATES, -1)
        at = op.table + self.biases.size * 4
        over_input = image.array(at, rows * op.features, Element.INT8)
        recurrent = image.array(at + over_input.nbytes, rows * op.units, Element.INT8)
        self.weights = tuple(part.astype(np.int64).reshape(GATES, op.units, -1) for part in (over_input, recurrent))
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


def lstm(image: Image, op: ImageOp, arena: Int8, state: Int8) -> Int8:
    """Gates in order: input, forget, cell, output."""
    gates = Gates(image, op, arena)
    at = slice(op.cell, op.cell + 2 * op.units), slice(op.hidden, op.hidden + op.units)
    cell = np.ascontiguousarray(state[:, at[0]]).view("<i2").astype(np.int64)
    hidden = state[:, at[1]].astype(np.int64)
    rows = []
    for step in range(op.steps):
        let, keep, new, out = (gates.sum(gate, gates.x[:, step], hidden) for gate in range(GATES))
        kept = to_int16(rescale(logistic(keep).astype(np.int64) * cell, _HALF, -14))
        fresh = logistic(let).astype(np.int64) * tanh(new)
        cell = to_int16(kept + to_int16(rescale(fresh, _HALF, -29 - op.cell_power)))
        if op.cell_clip:
            cell = np.clip(cell, -op.cell_clip, op.cell_clip)
        shown = tanh(_cell_places(cell, op.cell_power)).astype(np.int64) * logistic(out)
        rows.append(finish(op, rescale(shown, op.output_multiplier, op.output_shift)))
        hidden = rows[-1].astype(np.int64)
    state[:, at[0]] = cell.astype("<i2").view(np.int8)
    state[:, at[1]] = rows[-1]
    return np.concatenate(rows, axis=1)
