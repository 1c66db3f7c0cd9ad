"""Segments: what a patch is made of, and their heads as symbols. SPEC section 6.2."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tinyfleet_ota.delta.models import (
    BODY,
    CONTEXTS,
    DISTANCE,
    LENGTH,
    LENGTH_BITS_MAX,
    MOVED,
    MOVED_BACK,
    OP,
    RESET,
    ROWS_BACK,
    ROWS_DISTANCE,
    ROWS_LENGTH,
    ROWS_MOVED,
    ROWS_SAME,
    ROWS_UNIT,
    TREE,
    WHOLE_OPS,
    WORD,
    WORD_OPS,
    ByteModel,
    Op,
    WordModel,
    code_exp_golomb,
    code_tree,
)
from tinyfleet_ota.delta.range_coder import Coder
from tinyfleet_ota.delta.words import FACTOR_BITS, FIRST_ROWS, FLOAT_BITS, PLAIN_GRID, UNIT_RATIO, WORD_BITS, Grid, Rows
from tinyfleet_ota.errors import DeltaError


@dataclass(frozen=True)
class Segment:
    """`length` new bytes made by `op`, from old bytes at `old_offset` unless LITERAL; `fresh` forgets contexts."""

    op: Op
    length: int
    old_offset: int = 0
    fresh: bool = False
    grid: Grid = PLAIN_GRID
    rows: Rows = FIRST_ROWS


@dataclass
class Expected:
    """What the heads of a block expect by what went before: where old bytes go on, which rows follow, whether bytes
    were changed. `made` are the new bytes there are.
    """

    offset: int
    rows: Rows = FIRST_ROWS
    changed: bool = False
    made: int = field(init=False)

    def __post_init__(self) -> None:
        """A block's first old bytes are at the place of its new ones."""
        self.made = self.offset

    def follow(self, segment: Segment) -> None:
        """Move behind `segment`."""
        self.offset = segment.old_offset + segment.length
        self.changed = segment.op != Op.COPY
        if segment.op == Op.ROWSUM32:
            self.rows = segment.rows.after(segment.length // WORD)
        elif segment.op in WORD_OPS:
            self.rows = replace(self.rows, old_words=segment.old_offset, new_words=self.made)
        elif self.changed:
            self.rows = replace(self.rows, old_rows=segment.old_offset, new_rows=self.made)
        self.made += segment.length


def code_head(coder: Coder, segment: Segment, expected: Expected) -> Segment:
    """Head of a segment. Raises DeltaError for an op that does not exist."""
    op = code_tree(coder, OP + 8 * expected.changed, segment.op, 3)
    if op not in list(Op):
        raise DeltaError(f"the patch has an unknown operation {op}: update this decoder", op=op)
    fresh = coder.bit(RESET, int(segment.fresh))
    unit = WORD if op in WHOLE_OPS else 1
    lengths = LENGTH + (LENGTH_BITS_MAX + 1) * (op == Op.COPY)
    length = unit * (code_exp_golomb(coder, lengths, segment.length // unit - 1, LENGTH_BITS_MAX) + 1)
    offset = expected.offset
    if op != Op.LITERAL:
        offset = _code_moved(coder, (MOVED, MOVED_BACK, DISTANCE), segment.old_offset, expected.offset)
    grid = _code_grid(coder, segment.grid) if op == Op.GRID32 else segment.grid
    rows = _code_rows(coder, segment.rows, expected.rows) if op == Op.ROWSUM32 else segment.rows
    if fresh:
        coder.reset(BODY, CONTEXTS)
    return Segment(Op(op), length, offset, bool(fresh), grid, rows)


def _code_moved(coder: Coder, contexts: tuple[int, int, int], offset: int, expected: int) -> int:
    moved, moved_back, distances = contexts
    distance = offset - expected
    if not coder.bit(moved, int(distance != 0)):
        return expected
    back = coder.bit(moved_back, int(distance < 0))
    distance = 1 + code_exp_golomb(coder, distances, max(0, abs(distance) - 1), LENGTH_BITS_MAX)
    return expected - distance if back else expected + distance & 0xFFFFFFFF


def _code_grid(coder: Coder, grid: Grid) -> Grid:
    bits = FLOAT_BITS if coder.direct(int(grid.bits == FLOAT_BITS), 1) else WORD_BITS
    ratio = _code_factor(coder, grid.ratio)
    return Grid(bits, ratio, _code_factor(coder, grid.step) if bits < WORD_BITS else 0)


def _code_factor(coder: Coder, factor: int) -> int:
    """40 bits of which the highest is set."""
    return 1 << FACTOR_BITS - 1 | coder.direct(factor & (1 << FACTOR_BITS - 1) - 1, FACTOR_BITS - 1)


def _code_rows(coder: Coder, rows: Rows, expected: Rows) -> Rows:
    names = ("old_rows", "new_rows", "old_words", "new_words")
    places, moved = {}, 0
    for place, name in enumerate(names):
        # A new place is expected to be moved as its old one was.
        at = getattr(expected, name) + (moved if place % 2 else 0) & 0xFFFFFFFF
        places[name] = _code_moved(coder, (ROWS_MOVED + place, ROWS_BACK, ROWS_DISTANCE), getattr(rows, name), at)
        moved = places[name] - at
    length = 1 + code_exp_golomb(coder, ROWS_LENGTH, rows.length - 1, LENGTH_BITS_MAX)
    zeros = (expected.zero_old, expected.zero_new, expected.window)
    if coder.bit(ROWS_SAME, int((rows.zero_old, rows.zero_new, rows.window) != zeros)):
        zeros = _signed(coder, rows.zero_old), _signed(coder, rows.zero_new), coder.direct(rows.window, 8)
    ratio = UNIT_RATIO
    if coder.bit(ROWS_UNIT, int(rows.ratio != UNIT_RATIO)):
        ratio = coder.direct(rows.ratio, 32)
    return Rows(**places, length=length, zero_old=zeros[0], zero_new=zeros[1], window=zeros[2], ratio=ratio)


def _signed(coder: Coder, value: int) -> int:
    byte = coder.direct(value & 0xFF, 8)
    return byte - 256 if byte > 127 else byte


def code_body(coder: Coder, segment: Segment, old: bytes, done: bytes | bytearray, new: bytes) -> bytes:
    """New bytes of a segment. `done` starts with the image before them, `new` are they (any bytes when decoding)."""
    source = old[segment.old_offset : segment.old_offset + segment.length]
    if segment.op == Op.COPY:
        return source
    if segment.op == Op.LITERAL:
        return bytes(code_tree(coder, TREE, value, 8) for value in new)
    if segment.op in WORD_OPS:
        return _code_words(coder, segment, source, (old, done), new)
    model = ByteModel()
    sparse = segment.op == Op.SPARSE8
    return bytes(model.code(coder, before, after, sparse=sparse) for before, after in zip(source, new, strict=True))


def _code_words(
    coder: Coder, segment: Segment, source: bytes, images: tuple[bytes, bytes | bytearray], new: bytes
) -> bytes:
    model = WordModel()
    rows = segment.rows
    words = []
    for at in range(0, len(new), WORD):
        before = int.from_bytes(source[at : at + WORD], "little")
        after = int.from_bytes(new[at : at + WORD], "little")
        if segment.op == Op.GRID32:
            number = grid_number(segment.grid, before, after)
            after = segment.grid.word(model.code(coder, segment.grid.number(before), number))
        elif segment.op == Op.ROWSUM32:
            after = model.code(coder, rows.expected(before, *images), after)
            rows = rows.after(1)
        else:
            after = model.code(coder, before, after)
        words.append(after)
    return b"".join(word.to_bytes(WORD, "little") for word in words)


def grid_number(grid: Grid, old: int, word: int) -> int:
    """The number whose word is `word`, of several the one nearest to what is expected; when there is none, any."""
    if grid.bits == WORD_BITS:
        return word
    near = round(word * (1 << grid.bits + FACTOR_BITS - WORD_BITS) / grid.step) if grid.step else 0
    numbers = [
        number
        for scaled in (near, near // 2, near * 2)
        for number in range(scaled - 2, scaled + 3)
        if 0 <= number < 1 << grid.bits and grid.word(number) == word
    ]
    return min(numbers, key=lambda number: abs(number - grid.number(old)), default=0)


def moved_segment(segment: Segment, first: int) -> Segment:
    """What remains of a segment behind its first `first` bytes."""
    rows = segment.rows.after(first // WORD) if segment.op == Op.ROWSUM32 else segment.rows
    return replace(
        segment, length=segment.length - first, old_offset=segment.old_offset + first, fresh=False, rows=rows
    )
