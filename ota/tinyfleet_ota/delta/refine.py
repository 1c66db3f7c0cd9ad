"""A small patch's segments changed one by one while that saves bits: where heads are a good part of it, estimates of
whole sections are too coarse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from math import log2

from tinyfleet_ota.delta.models import CONTEXTS, WORD, Op
from tinyfleet_ota.delta.range_coder import Contexts
from tinyfleet_ota.delta.segments import Expected, Segment, code_body, code_head

SYMBOLS_MAX = 120_000
"""Symbols coded for trials of one plan: some tenths of a second."""
RUN_BYTES = 4
"""Shorter runs of unchanged bytes never pay for a head."""
LONG_RUNS = (8, 32, 128)
BYTE_OPS = (Op.COPY, Op.RESIDUAL8, Op.SPARSE8, Op.LITERAL, Op.RESIDUAL32)
_WORTH_BITS = 0.05


class _Meter(Contexts):
    """A coder that only adds up what bits cost."""

    def __init__(self) -> None:
        super().__init__(CONTEXTS)
        self.bits = 0.0

    def bit(self, context: int, bit: int = 0) -> int:
        share = self.probability[context] / 65536
        self.bits -= log2(1 - share if bit else share)
        self.learn(context, bit)
        return bit

    def direct(self, value: int, bits: int) -> int:
        self.bits += bits
        return value


def refine_segments(old: bytes, new: bytes, segments: Sequence[Segment]) -> list[Segment]:
    """Segments of one block that cost no more than those given, most often less."""
    best, left = list(segments), SYMBOLS_MAX
    fewest = _bits(old, new, best)
    at = 0
    while at < len(best) and left > 0:
        variants = (one for one in _variants(old, new, best, at) if _fits(one, len(old)))
        tried = [(_bits(old, new, one), one) for one in variants]
        left -= len(tried) * sum(segment.length for segment in best if segment.op != Op.COPY)
        bits, one = min(tried, key=lambda pair: pair[0], default=(fewest, best))
        if bits < fewest - _WORTH_BITS:
            best, fewest, at = one, bits, max(0, at - 2)
        else:
            at += 1
    return best


def _bits(old: bytes, new: bytes, segments: Sequence[Segment]) -> float:
    meter, expected, at = _Meter(), Expected(0), 0
    for segment in segments:
        done = code_head(meter, segment, expected)
        code_body(meter, done, old, new, new[at : at + segment.length])
        expected.follow(done)
        at += segment.length
    return meter.bits


def _fits(segments: Sequence[Segment], old_bytes: int) -> bool:
    """Whether all old bytes exist; new bytes made from none may not have any."""
    return all(one.op == Op.LITERAL or one.old_offset + one.length <= old_bytes for one in segments)


def _variants(old: bytes, new: bytes, segments: list[Segment], at: int) -> Iterator[list[Segment]]:
    """The segments with the one at `at` joined to the next, in pieces, coded otherwise, or with old contexts."""
    one, place = segments[at], sum(segment.length for segment in segments[:at])
    before, behind = segments[:at], segments[at + 1 :]
    if one.op not in BYTE_OPS:
        return
    if behind and behind[0].op in BYTE_OPS and one.old_offset + one.length == behind[0].old_offset:
        joined = replace(one, length=one.length + behind[0].length)
        for op in {one.op, behind[0].op} - {Op.COPY}:
            yield [*before, *_coded(joined, op), *behind[1:]]
    if one.op == Op.COPY:
        return
    runs = _runs(old, new, place, one)
    for some in _choices(runs):
        yield [*before, *_cut_out(one, some), *behind]
    for op in set(BYTE_OPS) - {one.op, Op.COPY}:
        yield [*before, *_coded(one, op), *behind]
    if one.fresh:
        yield [*before, replace(one, fresh=False), *behind]


def _coded(segment: Segment, op: Op) -> list[Segment]:
    """The segment by another operation; the last bytes of words that are not whole by bytes."""
    rest = segment.length % WORD if op == Op.RESIDUAL32 else 0
    whole = replace(segment, op=op, length=segment.length - rest)
    tail = replace(segment, op=Op.RESIDUAL8, length=rest, old_offset=segment.old_offset + whole.length, fresh=False)
    return [piece for piece in (whole, tail) if piece.length]


def _runs(old: bytes, new: bytes, place: int, segment: Segment) -> list[tuple[int, int]]:
    """Unchanged runs of a segment as offsets in it."""
    pairs = zip(old[segment.old_offset :], new[place : place + segment.length], strict=False)
    same = bytes(a == b for a, b in pairs)
    return [(found.start(), found.end()) for found in re.finditer(b"\x01{%d,}" % RUN_BYTES, same)]


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
