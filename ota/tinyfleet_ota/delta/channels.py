"""Segments for a layer's multipliers and biases, where they beat plain differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tinyfleet_ota.delta.fit_rows import fit_rows
from tinyfleet_ota.delta.grids import grid_of
from tinyfleet_ota.delta.models import WORD, Op
from tinyfleet_ota.delta.pairing import Region
from tinyfleet_ota.delta.segments import Segment, grid_number
from tinyfleet_ota.delta.words import Rows

_GRID_HEAD_BITS = {False: 93.0, True: 53.0}
_ROWS_HEAD_BITS = 45.0
STILL_BYTES = 4096
"""How far from a layer's multipliers words that stayed are looked for."""


def grid_segment(old: bytes, new: bytes, region: Region) -> Segment | None:
    """Multipliers as numbers on a grid; None when differences are as good."""
    before, after = _words(old, region.old or 0, region.size), _words(new, region.offset, region.size)
    grid = grid_of(np.array(before), np.array(after))
    if grid is None or before == after:
        return None
    misses = [grid_number(grid, a, b) - grid.number(a) for a, b in zip(before, after, strict=True)]
    if _bits(misses) + _GRID_HEAD_BITS[grid.bits == 31] >= _bits(_differences(before, after)):
        return None
    return Segment(Op.GRID32, region.size, region.old or 0, _is_first(region), grid=grid)


def rows_segment(old: bytes, new: bytes, region: Region) -> Segment | None:
    """Biases with the sums of their weights; None when differences are as good or rows do not match."""
    layer = region.layer
    if layer is None or not layer.length or layer.new_rows + layer.count * layer.length > region.offset:
        return None
    before, after = _words(old, region.old or 0, region.size), _words(new, region.offset, region.size)
    if before == after:
        return None
    start = Rows(layer.old_rows, layer.new_rows, layer.old_words, layer.new_words, layer.length)
    fitted = [
        fit_rows(one, old, new, np.array(before, "<u4").view("<i4"), np.array(after, "<u4").view("<i4"))
        for one in (start, _unscaled(start, old, new, region))
    ]
    bits, rows = min(((_rows_bits(one, old, new, before, after), one) for one in fitted), key=lambda pair: pair[0])
    if bits + _ROWS_HEAD_BITS >= _bits(_differences(before, after)):
        return None
    return Segment(Op.ROWSUM32, region.size, region.old or 0, _is_first(region), rows=rows)


def _unscaled(rows: Rows, old: bytes, new: bytes, region: Region) -> Rows:
    """The rows with words that are the same in both images, the nearest ones: then no row is scaled by its multiplier.

    A bias that the compiler moved on a grid around the old one is not, whatever its channel's scale.
    """
    steps = (sign * step for step in range(0, STILL_BYTES, WORD) for sign in (1, -1))
    for step in steps:
        before, after = rows.old_words + step, rows.new_words + step
        if min(before, after) >= 0 and old[before : before + region.size] == new[after : after + region.size]:
            one = replace(rows, old_words=before, new_words=after)
            if one.fits(region.size // WORD, len(old), region.offset):
                return one
    return rows


def _rows_bits(rows: Rows, old: bytes, new: bytes, before: Sequence[int], after: Sequence[int]) -> float:
    expected = []
    for word in before:
        expected.append(rows.expected(word, old, new))
        rows = rows.after(1)
    return _bits(_differences(expected, after))


def _is_first(region: Region) -> bool:
    """Contexts start anew with the first layer: biases and multipliers are of other sizes than what went before."""
    return region.layer is not None and region.layer.new_channel == 0


def _words(image: bytes, offset: int, size: int) -> list[int]:
    return [int(word) for word in np.frombuffer(image, "<u4", size // WORD, offset)]


def _differences(before: Sequence[int], after: Sequence[int]) -> list[int]:
    return [(b - a + (1 << 31)) % (1 << 32) - (1 << 31) for a, b in zip(before, after, strict=True)]


def _bits(differences: Sequence[int]) -> float:
    """Roughly what differences of words cost."""
    return sum(1.0 if not miss else 3.0 + 1.2 * abs(miss).bit_length() for miss in differences)
