"""Counters of one report in the form the hot table keeps: entries of six bytes, zeros left out.

An entry is a slot (uint16) and a value (uint32, little-endian). The slot's bits: 15-12 the image's place in the report,
11 set when the value counts 2^32, 10-0 the code: a counter of `SCALARS`, or a histogram's base plus the bucket. So the
entries of any number of reports add up in a few numpy calls, without a Python object per counter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_service.telemetry.counters import HISTOGRAMS, PAIRS, Counters

Array = npt.NDArray[Any]
ENTRY = np.dtype([("slot", "<u2"), ("value", "<u4")])
CODES = 2048
PLACE_SHIFT = 12
HIGH = 1 << 11
ID_BYTES = 16
BUCKETS = 256

ROLE, ARENA, STACK = 0, 1, 2
SCALARS = {
    "arena_high_water_bytes": ARENA,
    "stack_high_water_bytes": STACK,
    "inferences": 3,
    "labelled": 4,
    "correct": 5,
    "faults": 6,
    "active_s": 7,
    "shadow_inferences": 8,
    "shadow_agree": 9,
    "energy_uj": 10,
    "activations": 11,
}
PAIRS_BASE = 16
HISTOGRAM_BASE = {name: BUCKETS * (1 + index) for index, name in enumerate(HISTOGRAMS)}
FIRST_SUM = STACK + 1


def pack(rows: Array, slots: Array, values: Array, reports: int) -> tuple[Array, Array]:
    """Entries sorted by report with the bounds of each, from parallel arrays of what is not 0.

    Report `i` is `bounds[i]:bounds[i + 1]`; at most 2^16 reports.
    """
    big = np.flatnonzero(values >= 1 << 32)
    if len(big):
        rows = np.concatenate([rows, rows[big]])
        slots = np.concatenate([slots, slots[big] | HIGH])
        values = np.concatenate([values, values[big] >> 32])
    order = np.argsort(rows.astype(np.uint16), kind="stable")
    entries = np.empty(len(order), ENTRY)
    entries["slot"], entries["value"] = slots.take(order), values.take(order) & 0xFFFFFFFF
    bounds = np.zeros(reports + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=reports), out=bounds[1:])
    return entries, bounds


def pack_counters(images: Sequence[tuple[int, Counters]]) -> bytes:
    """The entries of one report: (role, counters) of each image in order."""
    slots: list[int] = []
    values: list[int] = []
    for place, (role, counters) in enumerate(images):
        for code, value in [(ROLE, role), *_codes(counters)]:
            if value:
                slots.append(place << PLACE_SHIFT | code)
                values.append(value)
    rows = np.zeros(len(slots), np.int64)
    entries, _ = pack(rows, np.array(slots, np.int64), np.array(values, np.int64), 1)
    return entries.tobytes()


def unpack_counters(images: bytes, data: bytes) -> dict[str, tuple[int, Counters]]:
    """Inverse of `pack_counters`: (role, counters) by image id, hex; `images` are the ids one after the other."""
    names = image_names(images)
    places: list[dict[int, int]] = [{} for _ in names]
    for slot, value in np.frombuffer(data, ENTRY).tolist():
        codes, code = places[slot >> PLACE_SHIFT], slot & (CODES - 1)
        if slot & HIGH:
            code, value = code & ~HIGH, value << 32
        codes[code] = codes.get(code, 0) + value
    return {name: (codes.get(ROLE, 0), counters_of(codes)) for name, codes in zip(names, places, strict=True)}


@lru_cache(maxsize=4096)
def image_names(images: bytes) -> tuple[str, ...]:
    """Image ids, hex, of a row's `images`."""
    return tuple(images[at : at + ID_BYTES].hex() for at in range(0, len(images), ID_BYTES))


def add_up(rows: Sequence[tuple[bytes, bytes]], image: str) -> Counters:
    """One image over many reports: their `images` and entries. Sums, and maxima of high waters."""
    sums = Gains(2)  # the other one for what does not count
    if rows:
        names = [image_names(images) for images, _ in rows]
        groups = np.ones((len(rows), max(map(len, names))), np.int64)
        groups[np.arange(len(rows)), [row.index(image) for row in names]] = 0
        sums.add([entries for _, entries in rows], groups, 1)
    return sums.counters(0)


def counters_of(codes: dict[int, int]) -> Counters:
    """Counters from {code: value}."""
    values: dict[str, Any] = {name: codes.get(code, 0) for name, code in SCALARS.items()}
    values["shadow_pairs"] = tuple(codes.get(PAIRS_BASE + n, 0) for n in range(PAIRS))
    by_base: dict[int, dict[int, int]] = {base: {} for base in HISTOGRAM_BASE.values()}
    for code in sorted(code for code in codes if code >= BUCKETS):
        by_base[code & ~(BUCKETS - 1)][code & (BUCKETS - 1)] = codes[code]
    values.update({name: by_base[base] for name, base in HISTOGRAM_BASE.items()})
    return Counters(**values)


def _codes(counters: Counters) -> list[tuple[int, int]]:
    found = [(code, getattr(counters, name)) for name, code in SCALARS.items()]
    found += [(PAIRS_BASE + n, value) for n, value in enumerate(counters.shadow_pairs)]
    for name, base in HISTOGRAM_BASE.items():
        found += [(base + bucket, count) for bucket, count in getattr(counters, name).items()]
    return found


class Gains:
    """Sums of entries over groups (one per image and cohort): what a batch adds to totals and rollups."""

    def __init__(self, groups: int) -> None:
        self._sums = np.zeros((groups, CODES), np.int64)

    def add(self, data: Sequence[bytes], groups: Array, sign: int) -> None:
        """Add (`sign` 1) or take away (-1) reports; `groups` (reports, places) int: the group of each image."""
        entries = np.frombuffer(b"".join(data), ENTRY)
        rows = np.repeat(np.arange(len(data)), [len(item) // ENTRY.itemsize for item in data])
        slots = entries["slot"].astype(np.int64)
        codes, values = slots & (HIGH - 1), entries["value"].astype(np.int64)
        values = np.where(slots & HIGH, values << 32, values)
        index = groups[rows, slots >> PLACE_SHIFT] * CODES + codes
        summed = codes >= FIRST_SUM
        flat = self._sums.reshape(-1)
        np.add.at(flat, index[summed], sign * values[summed])
        if sign > 0:  # high waters are maxima
            peak = (codes == ARENA) | (codes == STACK)
            np.maximum.at(flat, index[peak], values[peak])

    def counters(self, group: int) -> Counters:
        """What a group gained."""
        found = np.flatnonzero(self._sums[group])
        return counters_of(dict(zip(found.tolist(), self._sums[group][found].tolist(), strict=True)))
