"""Weighted layers as the section hints tell them: which rows, multipliers and biases belong together in both images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MULTIPLIERS, SHIFTS, WEIGHTS, BIASES = 1, 2, 3, 4
"""Kinds of sections this module knows (compiler/SPEC.md section 1); others pair by order alone."""
CHANNEL_BYTES = {MULTIPLIERS: 4, SHIFTS: 1, BIASES: 4}


@dataclass(frozen=True)
class Layer:
    """`count` channels both images have: byte offsets of weight rows, first channels, multipliers, bytes of a row.

    `length` is 0 when rows differ in length; `extra` channels of the new layer have no old ones.
    """

    old_rows: int
    new_rows: int
    old_channel: int
    new_channel: int
    old_words: int
    new_words: int
    count: int
    length: int
    extra: int = 0


@dataclass(frozen=True)
class Layers:
    """All layers, and for each kind of channel section its byte offset in the old and in the new image."""

    layers: tuple[Layer, ...]
    places: dict[int, tuple[int, int]]


def find_layers(
    old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]], old_bytes: int, new_bytes: int
) -> Layers | None:
    """Layers of both images, None unless both have the same number and all numbers fit."""
    one, two = _read(old, old_bytes), _read(new, new_bytes)
    if one is None or two is None or len(one[1]) != len(two[1]):
        return None
    (old_places, old_weights), (new_places, new_weights) = one, two
    layers, channels = [], [0, 0]
    for (old_at, old_count, old_length), (new_at, new_count, new_length) in zip(old_weights, new_weights, strict=True):
        count = min(old_count, new_count)
        length = old_length if old_length == new_length else 0
        old_words, new_words = old_places[MULTIPLIERS] + 4 * channels[0], new_places[MULTIPLIERS] + 4 * channels[1]
        extra = new_count - count
        layers.append(Layer(old_at, new_at, channels[0], channels[1], old_words, new_words, count, length, extra))
        channels = [channels[0] + old_count, channels[1] + new_count]
    return Layers(tuple(layers), {kind: (old_places[kind], new_places[kind]) for kind in CHANNEL_BYTES})


def _read(
    sections: Sequence[dict[str, Any]], image_bytes: int
) -> tuple[dict[int, int], list[tuple[int, int, int]]] | None:
    """Offset of each channel section, and (offset, rows, row bytes) of each weight section."""
    used = [one for one in sections if one.get("kind") in (*CHANNEL_BYTES, WEIGHTS)]
    if any(int(one["offset"]) < 0 or int(one["offset"]) + int(one["size"]) > image_bytes for one in used):
        return None
    weights = sorted(
        (int(one["offset"]), int(one.get("rows") or 0), int(one.get("row_length") or 0))
        for one in sections
        if one.get("kind") == WEIGHTS
    )
    sizes = {int(one["offset"]): int(one["size"]) for one in sections if one.get("kind") == WEIGHTS}
    channels = sum(rows for _, rows, _ in weights)
    places = {}
    for kind, width in CHANNEL_BYTES.items():
        found = [one for one in sections if one.get("kind") == kind]
        if len(found) != 1 or int(found[0]["size"]) != width * channels:
            return None
        places[kind] = int(found[0]["offset"])
    fits = all(rows > 0 and length > 0 and rows * length == sizes[at] for at, rows, length in weights)
    return (places, weights) if weights and fits else None
