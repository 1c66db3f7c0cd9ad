"""A small patch's segments changed one by one while that saves bits: where heads are a good part of it, estimates of
whole sections are too coarse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import pairwise
from math import log2

from tinyfleet_ota.delta.models import CONTEXTS, WORD, Op
from tinyfleet_ota.delta.range_coder import Contexts
from tinyfleet_ota.delta.segments import Expected, Segment, code_body, code_head

SYMBOLS_MAX = 120_000
"""Symbols coded for trials of one plan: some tenths of a second."""
PADDING_BYTES = 16
LONG_RUNS = (8, 32, 128)
AHEAD = 2
"""Segments behind a change that are coded to judge it."""
BYTE_OPS = (Op.COPY, Op.RESIDUAL8, Op.SPARSE8, Op.LITERAL, Op.RESIDUAL32)
_WORTH_BITS = 0.05


class _Meter(Contexts):
    """A coder that only adds up what bits cost, and knows what it has coded."""

    def __init__(self) -> None:
        super().__init__(CONTEXTS)
        self.bits = 0.0
        self.symbols = 0
        self.expected = Expected(0)

    def bit(self, context: int, bit: int = 0) -> int:
        share = self.probability[context] / 65536
        self.bits -= log2(1 - share if bit else share)
        self.learn(context, bit)
        return bit

    def direct(self, value: int, bits: int) -> int:
        self.bits += bits
        return value

    def copy(self) -> _Meter:
        """A meter that goes on from here by itself."""
        other = _Meter()
        other.probability, other.count = self.probability.copy(), self.count.copy()
        other.bits, other.symbols, other.expected = self.bits, self.symbols, copy(self.expected)
        return other

    def add(self, images: tuple[bytes, bytes], segments: Sequence[Segment]) -> _Meter:
        """Itself, behind segments."""
        old, new = images
        for segment in segments:
            at = self.expected.made
            done = code_head(self, segment, self.expected)
            code_body(self, done, old, new, new[at : at + segment.length])
            self.expected.follow(done)
            self.symbols += segment.length if segment.op != Op.COPY else 1
        return self


def refine_segments(old: bytes, new: bytes, segments: Sequence[Segment]) -> list[Segment]:
    """Segments of one block that cost no more than those given, most often less.

    A change is judged by its own bits and those of the next segments, whose contexts it has taught.
    """
    best, left, images = list(segments), SYMBOLS_MAX, (old, new)
    meters = [_Meter()]
    at = 0
    while at < len(best) and left > 0:
        fewest, found = _bits(meters[at], images, best[at : at + AHEAD + 2]), None
        for taken, pieces in _variants(old, new, best, at):
            behind = best[at + taken : at + AHEAD + 2]
            if not _fits(pieces, len(old)):
                continue
            bits = _bits(meters[at], images, [*pieces, *behind])
            left -= bits.symbols - meters[at].symbols
            if bits.bits < fewest.bits - _WORTH_BITS:
                fewest, found = bits, (taken, pieces)
        if found:
            best[at : at + found[0]] = found[1]
            at = max(0, at - 2)
            del meters[at + 1 :]
        else:
            meters.append(_bits(meters[at], images, best[at : at + 1]))
            at += 1
    return best


def _bits(meter: _Meter, images: tuple[bytes, bytes], segments: Sequence[Segment]) -> _Meter:
    return meter.copy().add(images, segments)


def _fits(segments: Sequence[Segment], old_bytes: int) -> bool:
    """Whether all old bytes exist; new bytes made from none may not have any."""
    return all(one.op == Op.LITERAL or one.old_offset + one.length <= old_bytes for one in segments)


def _variants(old: bytes, new: bytes, segments: list[Segment], at: int) -> Iterator[tuple[int, list[Segment]]]:
    """How many segments from `at` on are something else, and what: joined, in pieces, coded otherwise, old contexts."""
    one, place = segments[at], sum(segment.length for segment in segments[:at])
    following = segments[at + 1] if at + 1 < len(segments) else None
    if one.op not in BYTE_OPS:
        yield from _word_variants(one, following, place, len(old))
        return
    if following and following.op in BYTE_OPS and one.old_offset + one.length == following.old_offset:
        joined = replace(one, length=one.length + following.length)
        ops = {one.op, following.op}
        for op in ops - {Op.COPY} if len(ops) > 1 else ops:
            yield 2, _coded(joined, op)
    if one.op == Op.COPY:
        return
    for some in _choices(_runs(old, new, place, one)):
        yield 1, _cut_out(one, some)
    for op in set(BYTE_OPS) - {one.op, Op.COPY}:
        yield 1, _coded(one, op)
    if one.fresh:
        yield 1, [replace(one, fresh=False)]


def _word_variants(
    one: Segment, following: Segment | None, place: int, old_bytes: int
) -> Iterator[tuple[int, list[Segment]]]:
    """Words of a layer as plain differences, or together with what pads their section: a head saved."""
    yield 1, [Segment(Op.RESIDUAL32, one.length, one.old_offset, one.fresh)]
    if one.op != Op.ROWSUM32 or not following or following.op != Op.COPY or following.length % WORD:
        return
    longer = replace(one, length=one.length + following.length)
    adjoins = one.old_offset + one.length == following.old_offset and following.length <= PADDING_BYTES
    if adjoins and one.rows.fits(longer.length // WORD, old_bytes, place):
        yield 2, [longer]


def _coded(segment: Segment, op: Op) -> list[Segment]:
    """The segment by another operation; the last bytes of words that are not whole by bytes."""
    rest = segment.length % WORD if op == Op.RESIDUAL32 else 0
    whole = replace(segment, op=op, length=segment.length - rest)
    tail = replace(segment, op=Op.RESIDUAL8, length=rest, old_offset=segment.old_offset + whole.length, fresh=False)
    return [piece for piece in (whole, tail) if piece.length]


def _runs(old: bytes, new: bytes, place: int, segment: Segment) -> list[tuple[int, int]]:
    """Unchanged runs of whole words of a segment, as offsets in it."""
    pairs = zip(old[segment.old_offset :], new[place : place + segment.length], strict=False)
    same = bytes(a == b for a, b in pairs)
    return [(found.start(), found.end()) for found in re.finditer(b"(?:\x01{%d})+" % WORD, same)]


def _choices(runs: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Runs to cut out together: the first, the last, the longest, all that are long."""
    longest = sorted(runs, key=lambda run: run[0] - run[1])[:1]
    found = [runs[:1], runs[-1:], longest]
    found += [[run for run in runs if run[1] - run[0] >= size] for size in LONG_RUNS]
    return [some for number, some in enumerate(found) if some and some not in found[:number]]


def _cut_out(segment: Segment, runs: list[tuple[int, int]]) -> list[Segment]:
    """Runs of a segment as copies, what is between them as it was."""
    found: list[Segment] = []
    edges = [0, *(edge for run in runs for edge in run), segment.length]
    for number, (start, stop) in enumerate(pairwise(edges)):
        op = Op.COPY if number % 2 else segment.op
        fresh = segment.fresh and op != Op.COPY and not any(piece.fresh for piece in found)
        piece = Segment(op, stop - start, segment.old_offset + start, fresh)
        found += _coded(piece, op) if piece.length else []
    return found
