"""Segments: what a patch is made of, and their heads as symbols. SPEC section 6.2."""

from __future__ import annotations

from dataclasses import dataclass

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
    TREE,
    WORD,
    WORD_OPS,
    ByteModel,
    Op,
    WordModel,
    code_exp_golomb,
    code_tree,
    scaled_word,
)
from tinyfleet_ota.delta.range_coder import Coder
from tinyfleet_ota.errors import DeltaError


@dataclass(frozen=True)
class Segment:
    """`length` new bytes made by `op`, from old bytes at `old_offset` unless LITERAL; `fresh` forgets contexts."""

    op: Op
    length: int
    old_offset: int = 0
    fresh: bool = False
    ratio: int = 0


def code_head(coder: Coder, segment: Segment, expected: int) -> Segment:
    """Head of a segment; `expected` is where old bytes would go on. Raises DeltaError for an op that does not exist."""
    op = code_tree(coder, OP, segment.op, 3)
    if op not in list(Op):
        raise DeltaError(f"the patch has an unknown operation {op}: update this decoder", op=op)
    fresh = coder.bit(RESET, int(segment.fresh))
    unit = WORD if op in WORD_OPS else 1
    length = unit * (code_exp_golomb(coder, LENGTH, segment.length // unit - 1, LENGTH_BITS_MAX) + 1)
    offset = expected if op == Op.LITERAL else _code_offset(coder, segment.old_offset, expected)
    ratio = 0
    if op == Op.SCALED32:
        ratio = coder.direct(segment.ratio >> 16, 16) << 16
        ratio |= coder.direct(segment.ratio & 0xFFFF, 16)
    if fresh:
        coder.reset(BODY, CONTEXTS)
    return Segment(Op(op), length, offset, bool(fresh), ratio)


def _code_offset(coder: Coder, offset: int, expected: int) -> int:
    distance = offset - expected
    if not coder.bit(MOVED, int(distance != 0)):
        return expected
    back = coder.bit(MOVED_BACK, int(distance < 0))
    distance = 1 + code_exp_golomb(coder, DISTANCE, max(0, abs(distance) - 1), LENGTH_BITS_MAX)
    return expected - distance if back else expected + distance


def code_body(coder: Coder, segment: Segment, old: bytes, new: bytes) -> bytes:
    """New bytes of a segment. `old` are its old bytes, `new` its new ones (anything of that length when decoding)."""
    if segment.op == Op.COPY:
        return old
    if segment.op == Op.LITERAL:
        return bytes(code_tree(coder, TREE, value, 8) for value in new)
    if segment.op in WORD_OPS:
        return _code_words(coder, segment, old, new)
    model = ByteModel()
    sparse = segment.op == Op.SPARSE8
    return bytes(model.code(coder, before, after, sparse=sparse) for before, after in zip(old, new, strict=True))


def _code_words(coder: Coder, segment: Segment, old: bytes, new: bytes) -> bytes:
    model = WordModel()
    words = []
    for at in range(0, len(new), WORD):
        expected = int.from_bytes(old[at : at + WORD], "little")
        if segment.op == Op.SCALED32:
            expected = scaled_word(expected, segment.ratio)
        words.append(model.code(coder, expected, int.from_bytes(new[at : at + WORD], "little")))
    return b"".join(word.to_bytes(WORD, "little") for word in words)
