"""Which old bytes predict which new bytes: sections pair by kind and order, the rest by equal strings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

from tinyfleet_ota.delta.layers import CHANNEL_BYTES, Layer, Layers, find_layers

SEED_BYTES = 8
SEEDS_MAX = 1 << 20
"""Of a larger old image only every second place is looked up, or every third, .."""


@dataclass(frozen=True)
class Region:
    """New bytes [offset, offset + size) and the place `old` of the bytes that predict them, None for nothing.

    `whole`: one operation for all of it. `layer` and `kind` of a channel section, for the channels of one layer.
    """

    offset: int
    size: int
    old: int | None
    width: int = 1
    whole: bool = False
    layer: Layer | None = None
    kind: int = 0


@dataclass(frozen=True)
class _Part:
    """A section, or the gap between two, of one image."""

    kind: str
    offset: int
    size: int
    width: int = 1
    rows: int = 0


def pair_images(
    old: bytes, new: bytes, old_sections: Sequence[dict[str, Any]], new_sections: Sequence[dict[str, Any]]
) -> list[Region]:
    """Regions that tile `new`."""
    if not old:
        parts = _parts(len(new), new_sections)
        return [Region(part.offset, part.size, None, part.width, True) for part in parts]
    old_parts, new_parts = _parts(len(old), old_sections), _parts(len(new), new_sections)
    partners = _partners(old_parts, new_parts)
    found = find_layers(old_sections, new_sections, len(old), len(new))
    regions: list[Region] = []
    for index, part in enumerate(new_parts):
        kind = _channel_kind(found, part)
        if found and kind:
            regions += _pair_channels(found, kind)
        else:
            regions += _pair_parts(old, new, partners.get(index), part)
    return regions


def _channel_kind(found: Layers | None, part: _Part) -> int:
    """Which channel section of known layers `part` is; 0 for none."""
    if found is None or part.kind == "gap":
        return 0
    channels = sum(layer.count + layer.extra for layer in found.layers)
    sizes = {at: (kind, channels * CHANNEL_BYTES[kind]) for kind, (_, at) in found.places.items()}
    kind, size = sizes.get(part.offset, (0, 0))
    return kind if size == part.size else 0


def _pair_channels(found: Layers, kind: int) -> list[Region]:
    """One region for each layer's entries, and one for entries that only the new layer has."""
    old_at, new_at = found.places[kind]
    width = CHANNEL_BYTES[kind]
    regions = []
    for layer in found.layers:
        start, old = new_at + width * layer.new_channel, old_at + width * layer.old_channel
        regions.append(Region(start, width * layer.count, old, width, True, layer, kind))
        if layer.extra:
            regions.append(Region(start + width * layer.count, width * layer.extra, None, width, True))
    return regions


def _parts(size: int, sections: Sequence[dict[str, Any]]) -> list[_Part]:
    """Sections and the gaps between, in order; sections that overlap or leave the image are not believed."""
    parts: list[_Part] = []
    at = 0
    for section in sorted(sections, key=lambda one: (int(one["offset"]), int(one["size"]))):
        offset, length = int(section["offset"]), int(section["size"])
        if length <= 0 or offset < at or offset + length > size:
            continue
        if offset > at:
            parts.append(_Part("gap", at, offset - at))
        kind, rows = f"{section.get('kind')}/{section.get('element')}", int(section.get("rows") or 0)
        parts.append(_Part(kind, offset, length, _width(section), rows))
        at = offset + length
    if at < size:
        parts.append(_Part("gap", at, size - at))
    return parts


def _width(section: dict[str, Any]) -> int:
    """Bytes of an element; 1 where the numbers do not say."""
    elements = int(section.get("rows") or 0) * int(section.get("row_length") or 0)
    return int(section["size"]) // elements if elements and int(section["size"]) % elements == 0 else 1


def _partners(old: list[_Part], new: list[_Part]) -> dict[int, _Part]:
    """Index of a new part -> its old part: in order within a kind, by likeness where the numbers differ."""
    partners: dict[int, _Part] = {}
    for kind in {part.kind for part in new}:
        mine = [(index, part) for index, part in enumerate(new) if part.kind == kind]
        theirs = [part for part in old if part.kind == kind]
        if len(mine) == len(theirs):
            partners.update({index: other for (index, _), other in zip(mine, theirs, strict=True)})
            continue
        shapes = ([(part.size, part.rows) for part in theirs], [(part.size, part.rows) for _, part in mine])
        for block in SequenceMatcher(None, *shapes, autojunk=False).get_matching_blocks():
            for step in range(block.size):
                partners[mine[block.b + step][0]] = theirs[block.a + step]
    return partners


def _pair_parts(old: bytes, new: bytes, partner: _Part | None, part: _Part) -> list[Region]:
    if partner is None:
        return [Region(part.offset, part.size, None, part.width, True)]
    if part.kind == "gap":
        return match_strings(old, new, partner.offset, partner.size, part.offset, part.size)
    if partner.size == part.size:
        return [Region(part.offset, part.size, partner.offset, part.width, True)]
    return _pair_rows(partner, part)


def _pair_rows(partner: _Part, part: _Part) -> list[Region]:
    """Sections of another shape: row by row, as far as both have rows and columns."""
    rows, old_rows = max(1, part.rows), max(1, partner.rows)
    width, old_width = part.size // rows, partner.size // old_rows
    common = min(width, old_width)
    if width == old_width or not common:
        shared = min(part.size, partner.size)
        pieces = [Region(part.offset, shared, partner.offset, part.width)]
        return _with_rest(pieces, part)
    pieces = []
    for row in range(min(rows, old_rows)):
        start = part.offset + row * width
        pieces.append(Region(start, common, partner.offset + row * old_width, part.width))
        if width > common:
            pieces.append(Region(start + common, width - common, None, part.width))
    return _with_rest(pieces, part)


def _with_rest(pieces: list[Region], part: _Part) -> list[Region]:
    done = pieces[-1].offset + pieces[-1].size
    rest = part.offset + part.size - done
    return [*pieces, Region(done, rest, None, part.width)] if rest else pieces


def match_strings(old: bytes, new: bytes, old_at: int, old_size: int, new_at: int, new_size: int) -> list[Region]:
    """Regions for unstructured bytes: stay on one alignment, change it where a longer equal string says so."""
    shifts = _alignments(old[old_at : old_at + old_size], new[new_at : new_at + new_size])
    regions = []
    for (start, shift), (end, _) in pairwise([*shifts, (new_size, 0)]):
        regions += _on_alignment(new_at + start, end - start, old_at + start + shift, len(old))
    return regions


def _on_alignment(offset: int, size: int, old: int, old_bytes: int) -> list[Region]:
    """One region, cut where its old bytes would lie outside the old image."""
    before = min(size, max(0, -old))
    inside = max(0, min(size, old_bytes - old) - before)
    pieces = [(offset, before, None), (offset + before, inside, old + before)]
    pieces.append((offset + before + inside, size - before - inside, None))
    return [Region(at, length, source) for at, length, source in pieces if length]


def _alignments(old: bytes, new: bytes) -> list[tuple[int, int]]:
    """(new offset, shift from there on): old offset = new offset + shift."""
    found = [(0, 0)]
    if old == new or len(old) < SEED_BYTES:
        return found
    seeds: dict[bytes, int] = {}
    for at in range(len(old) - SEED_BYTES, -1, -(1 + len(old) // SEEDS_MAX)):
        seeds[old[at : at + SEED_BYTES]] = at
    at = 0
    while at <= len(new) - SEED_BYTES:
        shift = found[-1][1]
        run = _equal(old, at + shift, new, at) if at + shift >= 0 else 0
        place = seeds.get(new[at : at + SEED_BYTES]) if run < SEED_BYTES else None
        if place is not None and place - at != shift:
            run = _equal(old, place, new, at)
            if _is_telling(new[at : at + run]):
                found.append((at, place - at))
        at += max(1, run)
    return found


def _is_telling(text: bytes) -> bool:
    """Long and varied enough to say that the bytes moved: runs of zeros are everywhere."""
    return len(text) >= 2 * SEED_BYTES and len(set(text)) > 2


def _equal(old: bytes, old_at: int, new: bytes, new_at: int) -> int:
    """Length of the equal string at both places."""
    length, step = 0, 64
    while old[old_at + length : old_at + length + step] == new[new_at + length : new_at + length + step]:
        length += step
        if old_at + length >= len(old) or new_at + length >= len(new):
            return max(0, min(len(old) - old_at, len(new) - new_at))
    while old_at + length < len(old) and new_at + length < len(new) and old[old_at + length] == new[new_at + length]:
        length += 1
    return length
