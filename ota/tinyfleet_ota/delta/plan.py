"""From regions to segments: the cheapest operation for each window by estimate, cut at checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyfleet_ota.delta.channels import grid_segment, rows_segment
from tinyfleet_ota.delta.layers import BIASES, MULTIPLIERS
from tinyfleet_ota.delta.models import WORD, WORD_OPS, Op
from tinyfleet_ota.delta.pairing import Region
from tinyfleet_ota.delta.segments import Segment, moved_segment

Array: TypeAlias = NDArray[np.int64]

WINDOW_BYTES = 512
HEAD_BITS = 24.0
SYMBOL_BITS = 5.0
FRESH_BYTES = 1024
"""Sections from this size on may start with fresh contexts: learning anew can cost less than wrong expectations."""


@dataclass(frozen=True)
class Tactics:
    """What no estimate tells for certain, so that the encoder tries it: contexts anew with each large section; words of
    a layer by its channels.
    """

    fresh: bool = True
    channels: bool = True


def plan_segments(old: bytes, new: bytes, regions: Sequence[Region], spacing: int, tactics: Tactics) -> list[Segment]:
    """Segments that make `new`, none crossing a multiple of `spacing`."""
    chosen = [segment for region in regions for segment in _choose(old, new, region, tactics)]
    segments: list[Segment] = []
    at = 0
    for segment in _merged(chosen):
        for piece in _cut(segment, at, spacing):
            segments.append(piece)
            at += piece.length
    return _whole_copies(segments, spacing)


def _whole_copies(segments: Sequence[Segment], spacing: int) -> list[Segment]:
    """Copies of whole words only; what is left of one goes to the bytes behind it where no checkpoint is between."""
    result: list[Segment] = []
    at = 0
    for segment in (piece for one in segments for piece in _whole(one)):
        last = result[-1] if result else None
        goes_on = last is not None and last.old_offset + last.length == segment.old_offset
        small = (
            last is not None and last.op == Op.RESIDUAL8 and last.length < WORD and not (spacing and at % spacing == 0)
        )
        if last is not None and goes_on and small and segment.op in (Op.RESIDUAL8, Op.SPARSE8):
            result[-1] = replace(segment, length=last.length + segment.length, old_offset=last.old_offset)
        else:
            result.append(segment)
        at += segment.length
    return result


def _whole(segment: Segment) -> list[Segment]:
    rest = segment.length % WORD if segment.op == Op.COPY else 0
    whole = replace(segment, length=segment.length - rest)
    tail = Segment(Op.RESIDUAL8, rest, segment.old_offset + whole.length)
    return [piece for piece in (whole, tail) if piece.length]


def _choose(old: bytes, new: bytes, region: Region, tactics: Tactics) -> list[Segment]:
    """One operation for a section, one per window elsewhere."""
    if region.old is None:
        return [Segment(Op.LITERAL, region.size)]
    if tactics.channels and region.layer is not None and region.size >= WORD:
        segment = _channel_segment(old, new, region)
        if segment is not None:
            return [segment]
    if region.whole:
        return _choose_window(old, new, region, 0, region.size, tactics)
    segments = []
    for start in range(0, region.size, WINDOW_BYTES):
        size = min(WINDOW_BYTES, region.size - start)
        segments += _choose_window(old, new, region, start, size, tactics)
    return segments


def _channel_segment(old: bytes, new: bytes, region: Region) -> Segment | None:
    """Multipliers on their grid, biases with the sums of their rows."""
    if region.kind == MULTIPLIERS:
        return grid_segment(old, new, region)
    return rows_segment(old, new, region) if region.kind == BIASES else None


def _choose_window(old: bytes, new: bytes, region: Region, start: int, size: int, tactics: Tactics) -> list[Segment]:
    at, old_at = region.offset + start, (region.old or 0) + start
    before, after = old[old_at : old_at + size], new[at : at + size]
    if before == after:
        return [Segment(Op.COPY, size, old_at)]
    fresh = tactics.fresh and size >= FRESH_BYTES
    costs = _costs(before, after, region.width)
    best = min(costs, key=lambda op: costs[op])
    return [Segment(best, size, old_at, fresh)]


def _costs(before: bytes, after: bytes, width: int) -> dict[Op, float]:
    """Estimated bits of each operation that fits."""
    old = np.frombuffer(before, np.int8).astype(np.int64)
    new = np.frombuffer(after, np.int8).astype(np.int64)
    residual = (new - old + 128) % 256 - 128
    costs = {Op.LITERAL: _entropy_bits(new + 128, 256), Op.RESIDUAL8: _residual_bits(residual)}
    costs[Op.SPARSE8] = _sparse_bits(old, new, residual)
    if width == WORD and len(after) % WORD == 0:
        costs[Op.RESIDUAL32] = _word_bits(before, after)
    return costs


def _entropy_bits(symbols: Array, alphabet: int) -> float:
    """Order-0 entropy plus what an adaptive coder pays to learn it."""
    counts = np.bincount(symbols, minlength=alphabet).astype(float)
    counts = counts[counts > 0]
    return float((counts * -np.log2(counts / counts.sum())).sum() + SYMBOL_BITS * len(counts))


def _residual_bits(residual: Array) -> float:
    magnitude = np.abs(residual)
    escape = np.maximum(magnitude - 15, 0)
    direct = 2 * np.floor(np.log2(escape + 1))[magnitude > 14].sum()
    return _entropy_bits(np.minimum(magnitude, 15), 16) + float((residual != 0).sum() + direct)


def _sparse_bits(old: Array, new: Array, residual: Array) -> float:
    level = np.minimum(np.abs(old) // 4, 7)
    zero = new == 0
    bits = 0.0
    for one in range(8):
        flags = zero[level == one]
        if flags.size:
            bits += _entropy_bits(flags.astype(np.int64), 2)
    rest = residual[~zero]
    return bits + (_residual_bits(rest) if rest.size else 0.0)


def _word_bits(before: bytes, after: bytes) -> float:
    old = np.frombuffer(before, "<i4").astype(np.int64)
    new = np.frombuffer(after, "<i4").astype(np.int64)
    residual = (new - old + 2**31) % 2**32 - 2**31
    changed = residual[residual != 0]
    length = np.where(residual == 0, 0, np.floor(np.log2(np.maximum(np.abs(residual), 1))) + 1).astype(np.int64)
    zeros = np.log2(changed & -changed).astype(np.int64)
    between = np.maximum(length[residual != 0] - zeros - 2, 0)
    return _entropy_bits(length, 33) + _entropy_bits(zeros, 32) + float(between.sum() + len(changed))


def _merged(segments: list[Segment]) -> list[Segment]:
    """Neighbours of one operation on one alignment become one, across sections too: a head costs a byte or two."""
    result: list[Segment] = []
    for segment in segments:
        last = result[-1] if result else None
        adjoins = last is not None and (segment.op == Op.LITERAL or last.old_offset + last.length == segment.old_offset)
        goes_on = last is not None and adjoins and last.op == segment.op and not segment.fresh
        if last is not None and goes_on and segment.op not in (Op.GRID32, Op.ROWSUM32):
            result[-1] = replace(last, length=last.length + segment.length)
        else:
            result.append(segment)
    return result


def _cut(segment: Segment, at: int, spacing: int) -> list[Segment]:
    """The segment in pieces that end at checkpoints; words that straddle one are coded as bytes."""
    if not spacing or at // spacing == (at + segment.length - 1) // spacing:
        return [segment]
    first = spacing - at % spacing
    if segment.op in WORD_OPS and first % WORD:
        segment = Segment(Op.RESIDUAL8, segment.length, segment.old_offset, segment.fresh)
    pieces = [replace(segment, length=first)]
    for start in range(first, segment.length, spacing):
        rest = moved_segment(segment, start)
        pieces.append(replace(rest, length=min(spacing, rest.length)))
    return pieces
