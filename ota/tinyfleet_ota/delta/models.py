"""Symbols of a patch as adaptive bits, written once for both directions. SPEC section 6.4.

Residuals of weights: zero flag, sign, unary magnitude with an escape, in contexts of how large the residuals before
were, which sign they had, and whether the old weight was 0. Words: sign, bit length, trailing zeros. Literals: a bit
tree.
"""

from __future__ import annotations

from enum import IntEnum

from tinyfleet_ota.delta.range_coder import Coder
from tinyfleet_ota.errors import DeltaError


class Op(IntEnum):
    """What a segment does."""

    RESIDUAL8 = 0
    SPARSE8 = 1
    LITERAL = 2
    RESIDUAL32 = 3
    GRID32 = 4
    ROWSUM32 = 5
    COPY = 6


WORD = 4
WORD_OPS = (Op.RESIDUAL32, Op.GRID32, Op.ROWSUM32)
WHOLE_OPS = (*WORD_OPS, Op.COPY)
"""Whose lengths are whole words."""

NEAR_CLASSES = 5
ENERGY_BITS = 4
"""Bits of `energy` that make no class of their own: below a quarter of a step a byte."""
BALANCE = 7
"""Up to here residuals of both signs were as many, or none were."""
UNARY_MAX = 14
ESCAPE_BITS_MAX = 7
LENGTH_BITS_MAX = 24

_layout: dict[str, int] = {}


def _contexts(name: str, count: int) -> int:
    first = sum(_layout.values())
    _layout[name] = count
    return first


OP = _contexts("op", 2 * 8)
RESET = _contexts("reset", 1)
LENGTH = _contexts("length", 2 * (LENGTH_BITS_MAX + 1))
MOVED = _contexts("moved", 1)
MOVED_BACK = _contexts("moved_back", 1)
DISTANCE = _contexts("distance", LENGTH_BITS_MAX + 1)
ROWS_MOVED = _contexts("rows_moved", 4)
ROWS_BACK = _contexts("rows_back", 1)
ROWS_DISTANCE = _contexts("rows_distance", LENGTH_BITS_MAX + 1)
ROWS_LENGTH = _contexts("rows_length", LENGTH_BITS_MAX + 1)
ROWS_SAME = _contexts("rows_same", 1)
ROWS_UNIT = _contexts("rows_unit", 1)
BODY = sum(_layout.values())
"""First context of segment bodies: a segment with the reset flag starts all from here anew."""
TREE = _contexts("tree", 256)
ZERO = _contexts("zero", 2 * NEAR_CLASSES)
SIGN = _contexts("sign", 3)
UNARY = _contexts("unary", NEAR_CLASSES * UNARY_MAX)
ESCAPE = _contexts("escape", ESCAPE_BITS_MAX + 1)
NEW_ZERO = _contexts("new_zero", 17)
WORD_ZERO = _contexts("word_zero", 2)
WORD_SIGN = _contexts("word_sign", 1)
WORD_LENGTH = _contexts("word_length", 64)
WORD_LOW = _contexts("word_low", 3)
CONTEXTS = sum(_layout.values())
LAYOUT = dict(_layout)


def code_exp_golomb(coder: Coder, contexts: int, value: int, bits_max: int) -> int:
    """A number from 0: bit length of value + 1 in adaptive unary, its lower bits direct. Raises DeltaError."""
    length = max(0, (value + 1).bit_length() - 1)
    bits = 0
    while coder.bit(contexts + bits, int(bits < length)):
        bits += 1
        if bits > bits_max:
            raise DeltaError("a number in the patch is too large: make it again")
    return (1 << bits | coder.direct(max(0, value + 1 - (1 << length)), bits)) - 1


def code_tree(coder: Coder, contexts: int, value: int, bits: int) -> int:
    """`bits` bits of value, highest first, each in the context of those before it."""
    node = 1
    for shift in range(bits - 1, -1, -1):
        node = node << 1 | coder.bit(contexts + node, value >> shift & 1)
    return node - (1 << bits)


class ByteModel:
    """RESIDUAL8 and SPARSE8: signed differences between old and new weights.

    `energy` follows the magnitudes of the residuals so far, in 1/64, `balance` their signs: both halve in some five
    bytes.
    """

    def __init__(self) -> None:
        self.energy = 0
        self.balance = 0

    def code(self, coder: Coder, old: int, new: int, *, sparse: bool) -> int:
        """The new byte; `old` and `new` are unsigned bytes read as int8."""
        magnitude = old if old < 128 else 256 - old
        if sparse and coder.bit(NEW_ZERO + magnitude // 8, int(new == 0)):
            self._follow(0)
            return 0
        residual = (new - old + 128 & 0xFF) - 128
        residual = self._residual(coder, residual, old != 0)
        self._follow(residual)
        return old + residual & 0xFF

    def _follow(self, residual: int) -> None:
        self.energy += 8 * abs(residual)
        self.energy -= self.energy // 8
        self.balance += 8 * ((residual > 0) - (residual < 0))
        self.balance -= int(self.balance / 8)

    def _residual(self, coder: Coder, residual: int, weighs: bool) -> int:
        near = min(max(self.energy.bit_length() - ENERGY_BITS, 0), NEAR_CLASSES - 1)
        if not coder.bit(ZERO + 2 * near + weighs, int(residual != 0)):
            return 0
        side = (self.balance > BALANCE) + 2 * (self.balance < -BALANCE)
        negative = coder.bit(SIGN + side, int(residual < 0))
        magnitude = self._magnitude(coder, abs(residual), near)
        return -magnitude if negative else magnitude

    def _magnitude(self, coder: Coder, magnitude: int, near: int) -> int:
        contexts = UNARY + near * UNARY_MAX
        for value in range(1, UNARY_MAX + 1):
            if not coder.bit(contexts + value - 1, int(magnitude > value)):
                return value
        return UNARY_MAX + 1 + code_exp_golomb(coder, ESCAPE, magnitude - UNARY_MAX - 1, ESCAPE_BITS_MAX)


class WordModel:
    """Differences of 32-bit words to what is expected of them, wrapping."""

    def __init__(self) -> None:
        self.last = 0
        self.zeros = 0

    def code(self, coder: Coder, old: int, new: int) -> int:
        """The new word; `old`, the expected one, and `new` are unsigned 32-bit."""
        residual = (new - old + 0x80000000 & 0xFFFFFFFF) - 0x80000000
        history = self.last
        self.last = coder.bit(WORD_ZERO + history, int(residual != 0))
        if not self.last:
            return old
        negative = coder.bit(WORD_SIGN, int(residual < 0))
        magnitude = abs(residual)
        bits = code_tree(coder, WORD_LENGTH + 32 * history, magnitude.bit_length() - 1, 5)
        magnitude = 1 << bits | self._below(coder, magnitude, bits)
        return old + (-magnitude if negative else magnitude) & 0xFFFFFFFF

    def _below(self, coder: Coder, magnitude: int, bits: int) -> int:
        """The low `bits` bits: from the lowest up how many are 0, as changes may share a factor, then those above."""
        rest, place, one, before = 0, 0, 0, self.zeros
        while place < bits and not one:
            one = coder.bit(WORD_LOW + (place >= before) + (place > before), magnitude >> place & 1)
            self.zeros = place
            rest |= one << place
            place += 1
        return rest | coder.direct(magnitude >> place & (1 << bits - place) - 1, bits - place) << place
