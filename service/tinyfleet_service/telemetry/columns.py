"""Counters of one image on many devices as columns: what a fleet counted, without an object per device and counter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyfleet_service.telemetry.decode import Report
from tinyfleet_service.telemetry.entries import (
    BUCKETS,
    ENTRY,
    FIRST_SUM,
    HIGH,
    HISTOGRAM_BASE,
    PAIRS_BASE,
    PLACE_SHIFT,
    SCALARS,
    Array,
    image_names,
)

Columns = dict[tuple[str, int], Array]
"""`(N,)` int64 by counter and bucket (place in `shadow_pairs`; 0 of a plain one), those of zeros left out."""
_PLAIN = {code: name for name, code in SCALARS.items()}
_HISTOGRAMS = {base: name for name, base in HISTOGRAM_BASE.items()}


def columns_of_image(reports: Sequence[tuple[int, Report]], devices: int, image: str) -> Columns:
    """What these reports, each of the device at its number, counted of an image, added up; high waters left out."""
    if not reports:
        return {}
    rows = [report for _, report in reports]
    entries = np.frombuffer(b"".join(row.entries for row in rows), ENTRY)
    of_row = np.repeat(np.arange(len(rows)), [len(row.entries) // ENTRY.itemsize for row in rows])
    places = np.array([image_names(row.images).index(image) for row in rows])
    slots = entries["slot"].astype(np.int64)
    codes = slots & (HIGH - 1)
    mine = np.flatnonzero((slots >> PLACE_SHIFT == places[of_row]) & (codes >= FIRST_SUM))
    values = entries["value"].astype(np.int64)
    values = np.where(slots & HIGH, values << 32, values)[mine]
    known, at = np.unique(codes[mine], return_inverse=True)
    table = np.zeros((len(known), devices), np.int64)
    np.add.at(table, (at, np.array([device for device, _ in reports])[of_row[mine]]), values)
    return {_name(code): column for code, column in zip(known.tolist(), table, strict=True)}


def put_columns(columns: Columns, part: Columns, at: int, devices: int) -> None:
    """Enter the columns of some devices, the first of which is number `at`, into those of all `devices`."""
    for name, values in part.items():
        columns.setdefault(name, np.zeros(devices, np.int64))[at : at + len(values)] = values


def _name(code: int) -> tuple[str, int]:
    if code >= BUCKETS:
        return _HISTOGRAMS[code & ~(BUCKETS - 1)], code & (BUCKETS - 1)
    return ("shadow_pairs", code - PAIRS_BASE) if code >= PAIRS_BASE else (_PLAIN[code], 0)
