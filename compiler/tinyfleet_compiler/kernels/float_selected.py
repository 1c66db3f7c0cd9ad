"""Float32 products of two tensors, selections and recurrent layers, as NUMERICS.md section 7 states them."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler import float_math
from tinyfleet_compiler.check_state import GATES_OF
from tinyfleet_compiler.float_math import F32, view
from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.kernels.finish import Int8
from tinyfleet_compiler.kernels.float_windows import finish, inputs
from tinyfleet_compiler.layout import NO_OFFSET
from tinyfleet_compiler.operators import Element, OpCode, OpFlag

Places = npt.NDArray[np.int64]


def _places(sizes: tuple[int, ...], steps: tuple[int, ...]) -> Places:
    """Elements a strided walk meets, of shape `sizes`."""
    found = np.zeros((1,) * len(sizes), np.int64)
    for axis, (size, step) in enumerate(zip(sizes, steps, strict=True)):
        shape = [1] * len(sizes)
        shape[axis] = size
        found = found + (np.arange(size, dtype=np.int64) * step).reshape(shape)
    return found


def _batch_matmul(image: Image, op: ImageOp, arena: Int8) -> F32:
    outer, inner, rows, columns = op.dims
    left = _places((outer, inner, rows, op.depth), op.steps)
    right = _places((outer, inner, columns, op.depth), op.steps_b)
    a = inputs(op, arena, int(left.max()) + 1)[:, left]
    if OpFlag.CONSTANT_B in OpFlag(op.flags):
        b = image.array(op.input_b, int(right.max()) + 1, Element.FLOAT32)[None, right]
    else:
        b = view(arena[:, op.input_b : op.input_b + 4 * (int(right.max()) + 1)])[:, right]
    total = np.zeros((len(arena), *op.dims), np.float32)
    for k in range(op.depth):
        total += a[..., k][..., :, None] * b[..., k][..., None, :]
    result = np.empty((len(arena), total[0].size), np.float32)
    result[:, _places(tuple(op.dims), op.output_steps).reshape(-1)] = total.reshape(len(arena), -1)
    return finish(op, result)


def _order(op: ImageOp, arena: Int8) -> tuple[F32, Places]:
    """Rows, and the columns of the first k values of each; not-a-numbers come last."""
    x = inputs(op, arena, op.rows * op.columns).reshape(len(arena), op.rows, op.columns)
    keys = x if op.smallest else -x
    return x, np.argsort(keys, axis=-1, kind="stable")[..., : op.k]


def _top_k(image: Image, op: ImageOp, arena: Int8) -> F32:
    x, order = _order(op, arena)
    return finish(op, np.take_along_axis(x, order, -1).reshape(len(arena), -1))


def _top_k_indices(image: Image, op: ImageOp, arena: Int8) -> F32:
    return finish(op, _order(op, arena)[1].astype(np.float32).reshape(len(arena), -1))


class Gates:
    """The gates of one record over a batch."""

    def __init__(self, image: Image, op: ImageOp, arena: Int8, state: Int8) -> None:
        self.op, self.parts = op, 1 if op.code is OpCode.GRU_F32 else 2
        rows = GATES_OF[op.code] * op.units
        given = self.parts * op.units if op.flags & OpFlag.GIVEN_START else 0
        table = image.array(op.table, rows * (2 + op.features + op.units) + given, Element.FLOAT32)
        biases, start, weights, recurrent = np.split(table, np.cumsum([2 * rows, given, rows * op.features]))
        self.biases = biases.reshape(2, -1, op.units)
        self.weights = weights.reshape(-1, op.units, op.features), recurrent.reshape(-1, op.units, op.units)
        self.x = inputs(op, arena, op.steps * op.features).reshape(len(arena), op.steps, op.features)
        first = start if given else np.zeros(self.parts * op.units, np.float32)
        self.kept = [np.tile(part, (len(arena), 1)) for part in first.reshape(self.parts, op.units)]
        if op.hidden != NO_OFFSET:
            self.kept = [view(state[:, at : at + 4 * op.units]).copy() for at in self.places]

    @property
    def places(self) -> list[int]:
        """Offsets of cell and hidden state in the state, the hidden state last."""
        return [self.op.hidden] if self.parts == 1 else [self.op.cell, self.op.hidden]

    def part(self, side: int, gate: int, values: F32) -> F32:
        """(N, units) sums over the input (side 0) or the hidden state (side 1), begun at the bias."""
        total = np.tile(self.biases[side, gate], (len(values), 1))
        for k in range(values.shape[1]):
            total += self.weights[side][gate][:, k] * values[:, k, None]
        return total

    def gate(self, gate: int, x: F32, hidden: F32) -> F32:
        """(N, units) of both sums."""
        return self.part(0, gate, x) + self.part(1, gate, hidden)

    def keep(self, state: Int8) -> None:
        """Leave cell and hidden state where the next inference finds them."""
        if self.op.hidden != NO_OFFSET:
            for at, values in zip(self.places, self.kept, strict=True):
                state[:, at : at + 4 * self.op.units] = np.ascontiguousarray(values, "<f4").view(np.int8)


def _lstm_step(gates: Gates, x: F32) -> None:
    cell, hidden = gates.kept
    let, keep, new, out = (gates.gate(gate, x, hidden) for gate in range(4))
    cell = float_math.sigmoid(keep) * cell + float_math.sigmoid(let) * float_math.tanh(new)
    gates.kept = [cell, float_math.sigmoid(out) * float_math.tanh(cell)]


def _gru_step(gates: Gates, x: F32) -> None:
    (hidden,) = gates.kept
    keep, reset = (float_math.sigmoid(gates.gate(gate, x, hidden)) for gate in range(2))
    first = gates.op.flags & OpFlag.RESET_FIRST
    back = gates.part(1, 2, reset * hidden) if first else reset * gates.part(1, 2, hidden)
    new = float_math.tanh(gates.part(0, 2, x) + back)
    gates.kept = [keep * hidden + (np.float32(1) - keep) * new]


def _run(step: Callable[[Gates, F32], None], image: Image, op: ImageOp, arena: Int8, state: Int8) -> F32:
    gates, rows = Gates(image, op, arena, state), []
    for at in range(op.steps):
        step(gates, gates.x[:, at])
        gates.kept[-1] = finish(op, gates.kept[-1])
        rows.append(gates.kept[-1])
    gates.keep(state)
    return np.concatenate(rows, axis=1)


def lstm_f32(image: Image, op: ImageOp, arena: Int8, state: Int8) -> F32:
    """Gates in order: input, forget, cell, output."""
    return _run(_lstm_step, image, op, arena, state)


def gru_f32(image: Image, op: ImageOp, arena: Int8, state: Int8) -> F32:
    """Gates in order: update, reset, hidden."""
    return _run(_gru_step, image, op, arena, state)


KERNELS: dict[OpCode, Callable[[Image, ImageOp, Int8], F32]] = {
    OpCode.BATCH_MATMUL_F32: _batch_matmul,
    OpCode.TOP_K_F32: _top_k,
    OpCode.TOP_K_INDICES_F32: _top_k_indices,
}
