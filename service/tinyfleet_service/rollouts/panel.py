"""What the gates read of one stage, as arrays: one column per device, one row per look.

`panel_of` builds it from stored records. Sums are gained since the device's start; a look where a device has no row
carries its last sums on. First events and exposures are worked out once per panel and read up to the look that is
judged, so judging all looks of a stage costs little more than judging the last.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_service.analysis import CountEvidence, CountSeries, count_series
from tinyfleet_service.rollouts.snapshots import CANARY, Counts, Record

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
SUMS = ("inferences", "labelled", "correct", "faults", "shadow_inferences")


@dataclass(frozen=True)
class Panel:
    """Devices `D`, looks `L`, latency buckets `B`.

    `sums[name]` and `late[name]` (of the image before, gained after the swap) are `(L, D)`, `pairs` `(L, D, 4)` in
    wire order, `latency` `(L, D, B)` and `before_latency` `(D, B)` counts of the buckets named in `buckets`;
    `at_risk_s` `(L, D)` seconds since the start. `present`, `silent`, `failed` and `heard` (since its start) `(L, D)`
    are what the rows say.
    """

    device_classes: tuple[str, ...]
    strata: tuple[str, ...]
    canary: Bools
    joiner: Bools
    silent_at_start: Bools
    numbers: tuple[int, ...]
    present: Bools
    silent: Bools
    failed: Bools
    heard: Bools
    at_risk_s: Floats
    before: dict[str, Ints]
    sums: dict[str, Ints]
    late: dict[str, Ints]
    pairs: Ints
    buckets: tuple[int, ...]
    before_latency: Ints
    latency: Ints
    _known: dict[Any, Any] = field(default_factory=dict)

    def row(self, number: int) -> int:
        """Index of the newest look up to `number`; -1 before the first."""
        return bisect_right(self.numbers, number) - 1

    def of_class(self, device_class: str | None) -> Bools:
        """Mask of the devices of one class; of all for None."""
        key = ("class", device_class)
        if key not in self._known:
            every = device_class is None
            self._known[key] = np.array([every or name == device_class for name in self.device_classes], dtype=bool)
        mask: Bools = self._known[key]
        return mask

    @cached_property
    def canary_classes(self) -> list[str]:
        """Device classes with a canary, sorted."""
        return sorted({self.device_classes[i] for i in np.flatnonzero(self.canary)})

    def seen(self, number: int) -> Bools:
        """Devices with a row at this look or before."""
        if "seen" not in self._known:
            self._known["seen"] = np.logical_or.accumulate(self.present, axis=0)
        row = self.row(number)
        nobody = np.zeros(len(self.canary), dtype=bool)
        mask: Bools = self._known["seen"][row] if row >= 0 else nobody
        return mask

    def alive(self, number: int) -> Bools:
        """Devices with a row at this very look that are neither silent nor threw the candidate out."""
        row = self.row(number)
        if row < 0 or self.numbers[row] != number:
            return np.zeros(len(self.canary), dtype=bool)
        mask: Bools = self.present[row] & ~self.silent[row] & ~self.failed[row]
        return mask

    def evidence(self, number: int, event: str, device_class: str | None = None) -> CountEvidence:
        """First events and exposure of both arms up to look `number`, one device once.

        `event` is "fault" (first fault or rejection) or "silence". A control that was silent at its start is at risk
        once it has been heard since, as a canary had to be to take the candidate up.
        """
        key = ("evidence", event, device_class)
        if key not in self._known:
            table = self._intervals(self._events(event), self.of_class(device_class))
            self._known[key] = count_series(table)
        series: CountSeries = self._known[key]
        return series.upto(self.row(number))

    def _events(self, event: str) -> Bools:
        happened: Bools = self.silent if event == "silence" else self.failed | (self.sums["faults"] > 0)
        return happened & self.present

    def _intervals(self, happened: Bools, mask: Bools) -> Floats:
        looks = len(self.numbers)
        rows = np.arange(looks)[:, None]
        awake = ~self.silent_at_start | np.logical_or.accumulate(self.heard, axis=0)
        first = np.where((happened & awake).any(axis=0), (happened & awake).argmax(axis=0), looks)
        at_risk = mask & awake & self.present & (rows <= first)
        time_s = np.where(self.present, self.at_risk_s, 0.0)
        gained_s = np.clip(np.diff(time_s, axis=0, prepend=0.0), 0.0, None) * at_risk
        events = at_risk & (rows == first)
        arms = (self.canary, ~self.canary)
        columns = [events[:, arm].sum(axis=1) for arm in arms] + [gained_s[:, arm].sum(axis=1) for arm in arms]
        return np.stack(columns, axis=1).astype(np.float64)


def panel_of(records: Sequence[Record], look: int) -> Panel:
    """Stored records of one stage as arrays, with a row for `look` even when nobody has been seen yet."""
    numbers = tuple(sorted({number for record in records for number in record.looks} | {look}))
    columns = [_column(record, numbers) for record in records]
    buckets = sorted({int(b) for c in columns for counts in (c.before, *c.after) for b in counts.get("latency") or {}})
    shape = (len(numbers), len(records))

    def table(name: str, dtype: Any = np.int64, flags: bool = False) -> Any:
        source = [c.rows if flags else c.after for c in columns]
        values = [[counts.get(name, 0) for counts in rows] for rows in source]
        return np.array(values, dtype=dtype).reshape(shape[::-1]).T

    late = [[record.late(number) for number in numbers] for record in records]
    return Panel(
        device_classes=tuple(r.subject.device_class for r in records),
        strata=tuple(r.subject.stratum for r in records),
        canary=np.array([r.subject.arm == CANARY for r in records], dtype=bool),
        joiner=np.array([r.subject.joiner for r in records], dtype=bool),
        silent_at_start=np.array([bool((r.start or {}).get("silent")) for r in records], dtype=bool),
        numbers=numbers,
        present=np.array([[n in r.looks for r in records] for n in numbers], dtype=bool).reshape(shape),
        silent=table("silent", bool, True),
        failed=table("failed", bool, True),
        heard=table("heard", bool, True),
        at_risk_s=table("at_risk_s", np.float64, True),
        before={name: np.array([c.before.get(name, 0) for c in columns], np.int64) for name in ("labelled", "correct")},
        sums={name: table(name) for name in SUMS},
        late={
            name: np.array([[sums[name] for sums in rows] for rows in late], np.int64).reshape(shape[::-1]).T
            for name in ("labelled", "correct")
        },
        pairs=np.array([[c["shadow_pairs"] for c in column.after] for column in columns], np.int64)
        .reshape(*shape[::-1], 4)
        .swapaxes(0, 1),
        buckets=tuple(buckets),
        before_latency=_histograms([[c.before for c in columns]], buckets)[0],
        latency=_histograms([[c.after[row] for c in columns] for row in range(len(numbers))], buckets),
    )


@dataclass(frozen=True)
class _Column:
    before: Counts
    rows: list[Counts]
    after: list[dict[str, Any]]


def _column(record: Record, numbers: Sequence[int]) -> _Column:
    return _Column(record.before, [record.looks.get(n, {}) for n in numbers], [record.after(n) for n in numbers])


def _histograms(rows: Sequence[Sequence[Counts]], buckets: Sequence[int]) -> Ints:
    devices = len(rows[0]) if rows else 0
    flat = [[(counts.get("latency") or {}).get(str(b), 0) for b in buckets] for row in rows for counts in row]
    return np.array(flat, dtype=np.int64).reshape(len(rows), devices, len(buckets))
