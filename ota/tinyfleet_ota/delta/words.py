"""What is expected of 32-bit words: multipliers on a grid, biases with the sums of their weights. SPEC section 6.5.

Integers only, so that every decoder gets the same words. The encoder and the decoder share all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

WORD_BITS = 31
"""Multipliers are normalised: their highest bit is bit 30."""
FACTOR_BITS = 40
FLOAT_BITS = 24
"""Numbers behind multipliers: the mantissa of a float32."""
RATIO_BITS = 30
WINDOW_BITS = 24
"""The window of a row's ratio is sent in units of 2^(24 - 30)."""
UNIT_RATIO = 1 << RATIO_BITS


@dataclass(frozen=True)
class Grid:
    """Words that are `step` times a number of 24 bits, which is near `ratio` times the old word.

    Both factors have 40 bits, the highest set. With `bits` 31 the word is the number itself.
    """

    bits: int
    ratio: int
    step: int = 0

    def number(self, old: int) -> int:
        """The number expected from the old word."""
        return scaled_to(old, WORD_BITS, self.ratio, self.bits)

    def word(self, number: int) -> int:
        """The word of a number; both unsigned 32-bit."""
        if self.bits == WORD_BITS:
            return number
        return scaled_to(number & (1 << self.bits) - 1, self.bits, self.step, WORD_BITS)


PLAIN_GRID = Grid(WORD_BITS, 1 << FACTOR_BITS - 1)
"""The number is the word, and expected to stay."""


def scaled_to(value: int, bits: int, factor: int, result_bits: int) -> int:
    """`value` of `bits` bits times a 40-bit factor, shifted to `result_bits` bits, rounded half up."""
    product = value * (factor >> 8) + (value * (factor & 0xFF) >> 8)
    shift = bits + 31 - result_bits + (product >> (bits + 31) & 1)
    return ((product >> shift - 1) + 1 >> 1) & 0xFFFFFFFF


@dataclass(frozen=True)
class Rows:
    """Where the rows of int8 weights and the multipliers of a run of biases are, in both images; all offsets in bytes.

    `zero_*` are input zero points (int8), `window` / 64 the lower end of the octave of a row's ratio, `ratio` what all
    rows have in common, in units of 2^-30.
    """

    old_rows: int = 0
    new_rows: int = 0
    old_words: int = 0
    new_words: int = 0
    length: int = 1
    zero_old: int = -128
    zero_new: int = -128
    window: int = 48
    ratio: int = UNIT_RATIO

    def after(self, count: int) -> Rows:
        """The rows that follow `count` of these."""
        step, words = count * self.length, 4 * count
        return replace(
            self,
            old_rows=self.old_rows + step,
            new_rows=self.new_rows + step,
            old_words=self.old_words + words,
            new_words=self.new_words + words,
        )

    def fits(self, count: int, old_bytes: int, done_bytes: int) -> bool:
        """Whether `count` rows lie inside the old image and inside what is done of the new one."""
        end = self.after(count)
        inside_old = self.old_rows >= 0 and self.old_words >= 0 and max(end.old_rows, end.old_words) <= old_bytes
        return inside_old and min(self.new_rows, self.new_words) >= 0 and max(end.new_rows, end.new_words) <= done_bytes

    def expected(self, word: int, old: bytes, new: bytes | bytearray) -> int:
        """What the first of these rows' biases should be, from its old word; both unsigned 32-bit."""
        old_sum = row_sum(old[self.old_rows : self.old_rows + self.length])
        new_sum = row_sum(new[self.new_rows : self.new_rows + self.length])
        ratio = self._row_ratio(_word(old, self.old_words), _word(new, self.new_words))
        return scaled_word(word + self.zero_old * old_sum & 0xFFFFFFFF, ratio) - self.zero_new * new_sum & 0xFFFFFFFF

    def _row_ratio(self, old_word: int, new_word: int) -> int:
        """Old over new multiplier, brought into its window by a power of two, times the common ratio; 32 bits."""
        low = self.window << WINDOW_BITS
        ratio = (old_word << RATIO_BITS) // new_word & 0xFFFFFFFF if new_word else UNIT_RATIO
        for _ in range(3):
            ratio = ratio >> 1 if ratio >= (2 * low & 0xFFFFFFFF) else ratio << 1 & 0xFFFFFFFF if ratio < low else ratio
        return ratio * self.ratio >> RATIO_BITS & 0xFFFFFFFF


FIRST_ROWS = Rows()
"""What a block's first ROWSUM32 goes on from."""


def row_sum(row: bytes | bytearray) -> int:
    """Sum of int8 values."""
    return sum(row) - 256 * sum(value > 127 for value in row)


def scaled_word(word: int, ratio: int) -> int:
    """The unsigned 32-bit `word`, read as int32, times ratio / 2^30, rounded half away from zero."""
    negative = word >= 1 << 31
    magnitude = (1 << 32) - word if negative else word
    scaled = magnitude * ratio + (1 << RATIO_BITS >> 1) >> RATIO_BITS
    return (-scaled if negative else scaled) & 0xFFFFFFFF


def _word(image: bytes | bytearray, offset: int) -> int:
    return int.from_bytes(image[offset : offset + 4], "little")
