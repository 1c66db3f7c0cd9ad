"""Counters of many devices at one moment, as columns, and how a row of the database holds them.

A page is zlib over one line of JSON (device ids, names and types of the columns) and the columns one after another,
little endian, each in the narrowest type that holds it: a few bytes a device.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_service.rollouts.snapshots import HISTOGRAMS, PAIRS, SUMMED
from tinyfleet_service.telemetry.columns import Columns as CounterColumns

Columns = dict[str, npt.NDArray[Any]]
_LEVEL = 1
"""Of zlib: 6 takes five times as long for a tenth less."""


@dataclass(frozen=True)
class Frozen:
    """Devices `N` and named columns `(N,)`: integers, flags, or float64. Counts of histograms are `<kind>:<bucket>`."""

    devices: tuple[str, ...]
    columns: Columns

    def encode(self) -> bytes:
        """As a row of the database holds it."""
        packed = {name: _narrow(column) for name, column in self.columns.items()}
        head = {"devices": self.devices, "columns": {name: column.dtype.str for name, column in packed.items()}}
        line = json.dumps(head, separators=(",", ":")).encode() + b"\n"
        return zlib.compress(b"".join([line, *(column.tobytes() for column in packed.values())]), _LEVEL)


def decode(data: bytes) -> Frozen:
    """Inverse of `Frozen.encode`; columns are int64, bool or float64 again."""
    line, _, rest = zlib.decompress(data).partition(b"\n")
    head = json.loads(line)
    devices, at, columns = tuple(head["devices"]), 0, {}
    for name, kind in head["columns"].items():
        packed = np.frombuffer(rest, np.dtype(kind), len(devices), at)
        at += packed.nbytes
        columns[name] = packed if packed.dtype.kind in "fb" else packed.astype(np.int64)
    return Frozen(devices, columns)


def _narrow(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if column.dtype.kind in "fb" or not len(column):
        return column
    kind = np.dtype(np.int64) if column.min() < 0 else np.min_scalar_type(column.max())
    return column.astype(kind.newbyteorder("<"))


def counter_columns(found: CounterColumns, devices: int) -> Columns:
    """What gates read of the counters that telemetry has; what nobody counted is zero, of histograms left out."""
    nothing = np.zeros(devices, np.int64)
    columns: Columns = {name: found.get((name, 0), nothing) for name in SUMMED}
    columns |= {name: found.get(("shadow_pairs", at), nothing) for at, name in enumerate(PAIRS)}
    for kind, counter in HISTOGRAMS.items():
        buckets = sorted(bucket for name, bucket in found if name == counter)
        columns |= {f"{kind}:{bucket}": found[counter, bucket] for bucket in buckets}
    return columns


def flag_columns(rows: Sequence[Mapping[str, bool]], names: Sequence[str]) -> Columns:
    """Flags of each device as columns."""
    return {name: np.array([row[name] for row in rows], dtype=bool) for name in names}
