"""Counters of analysed devices frozen at their start and at each look, so that every decision can be recomputed.

A device has one *start* in a stage: a canary when it is first seen shadowing or active, a control when its matched
canary is
(controls of a stratum are matched to its canaries in turn, by rank). Rows hold cumulative counters as they were
reported; differences are taken when reading, and a counter that fell (a device that lost them) counts as started anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

CANARY, CONTROL = "canary", "control"
CONTROLS_PER_CANARY = 20
CONTROLS_MIN = 50

Counts = Mapping[str, Any]


class Kind(StrEnum):
    """When a row was taken."""

    BASELINE = "baseline"
    ACTIVATION = "activation"
    LOOK = "look"
    LATE = "late"  # of the image before, at a look
    TAKEN = "taken"  # no counters: a canary that has taken its assignment up and not begun, at a look


@dataclass(frozen=True)
class Row:
    """One frozen set of counters; `look` 0 for starts."""

    device_id: str
    arm: str
    kind: str
    look: int
    image_id: str
    counters: Counts


@dataclass(frozen=True)
class Subject:
    """A device under analysis in one stage: who it is, and the images that stand for before and after."""

    device_id: str
    device_class: str
    stratum: str
    arm: str
    joiner: bool
    before_image: str | None
    after_image: str


@dataclass
class Record:
    """All rows of one subject in one stage."""

    subject: Subject
    before: Counts = field(default_factory=dict)
    start: Counts | None = None
    looks: dict[int, Counts] = field(default_factory=dict)
    late_looks: dict[int, Counts] = field(default_factory=dict)
    _totals: dict[int, dict[str, Any]] = field(default_factory=dict)

    def after(self, look: int) -> dict[str, Any]:
        """Counters gained since the start up to `look`."""
        if len(self._totals) != len(self.looks):
            self._add_up()
        newest = max((number for number in self._totals if number <= look), default=None)
        return self._totals[newest] if newest is not None else add_counts({}, {})

    def late(self, look: int) -> dict[str, int]:
        """Labels that the image before was credited with since the start, up to `look`: answers from before it."""
        newest = max((number for number in self.late_looks if number <= look), default=None)
        gained = gained_since(self.before, self.before if newest is None else self.late_looks[newest])
        return {name: gained[name] for name in ("labelled", "correct")}

    def _add_up(self) -> None:
        gained, last = add_counts({}, {}), self.start or {}
        for number in sorted(self.looks):
            gained = add_counts(gained, gained_since(last, self.looks[number]))
            self._totals[number], last = gained, self.looks[number]


SUMMED = ("inferences", "labelled", "correct", "faults", "active_s", "shadow_inferences", "shadow_agree")


def compact(counters: Any) -> dict[str, Any]:
    """The counters that gates read, as plain JSON; histograms as `{bucket: count}`. Missing counters are zero."""
    counts: dict[str, Any] = {name: int(getattr(counters, name, 0) or 0) for name in SUMMED}
    counts["shadow_pairs"] = [int(v) for v in getattr(counters, "shadow_pairs", None) or (0, 0, 0, 0)]
    counts["latency"] = _histogram(getattr(counters, "latency_histogram", None))
    return counts


def _histogram(value: Any) -> dict[str, int]:
    """Sparse `[bucket, count, ...]`, dense list, pairs or mapping to one form."""
    if not value:
        return {}
    if isinstance(value, Mapping):
        return {str(int(bucket)): int(count) for bucket, count in value.items() if count}
    flat = list(value)
    if flat and isinstance(flat[0], (tuple, list)):
        return {str(int(bucket)): int(count) for bucket, count in flat if count}
    return {str(int(bucket)): int(count) for bucket, count in zip(flat[::2], flat[1::2], strict=False) if count}


def gained_since(old: Counts, new: Counts) -> dict[str, Any]:
    """Difference of cumulative counters; when the device lost its counters, what it counted since."""
    if any(new.get(name, 0) < old.get(name, 0) for name in SUMMED):
        old = {}
    gained: dict[str, Any] = {name: new.get(name, 0) - old.get(name, 0) for name in SUMMED}
    earlier_pairs = old.get("shadow_pairs") or (0, 0, 0, 0)
    pairs = zip(new.get("shadow_pairs") or (0, 0, 0, 0), earlier_pairs, strict=True)
    gained["shadow_pairs"] = [max(a - b, 0) for a, b in pairs]
    earlier = old.get("latency") or {}
    gained["latency"] = {b: max(n - earlier.get(b, 0), 0) for b, n in (new.get("latency") or {}).items()}
    return gained


def add_counts(left: Counts, right: Counts) -> dict[str, Any]:
    """Sum of two counter differences."""
    total: dict[str, Any] = {name: left.get(name, 0) + right.get(name, 0) for name in SUMMED}
    total["shadow_pairs"] = [
        a + b for a, b in zip(left.get("shadow_pairs") or (0,) * 4, right.get("shadow_pairs") or (0,) * 4, strict=True)
    ]
    latency = dict(left.get("latency") or {})
    for bucket, count in (right.get("latency") or {}).items():
        latency[bucket] = latency.get(bucket, 0) + count
    total["latency"] = latency
    return total


def records_of(subjects: Iterable[Subject], rows: Iterable[Row]) -> list[Record]:
    """Rows gathered by subject, in order of device id; rows of other devices are ignored."""
    records = {s.device_id: Record(s) for s in subjects}
    for row in rows:
        record = records.get(row.device_id)
        if record is None:
            continue
        if row.kind == Kind.TAKEN:
            continue
        if row.kind == Kind.LATE:
            record.late_looks[row.look] = row.counters
        elif row.kind == Kind.LOOK:
            record.looks[row.look] = row.counters
        elif row.kind == Kind.ACTIVATION:
            if row.image_id == record.subject.before_image:
                record.before = row.counters
            if row.image_id == record.subject.after_image:
                record.start = row.counters
    return [records[device] for device in sorted(records) if records[device].start is not None]


@dataclass(frozen=True)
class Standing:
    """What `start_times` needs to know of a device in this stage."""

    device_id: str
    stratum: str
    rank: int
    arm: str
    started_at: datetime | None


def matched_starts(standings: Sequence[Standing]) -> dict[str, datetime]:
    """When each device's comparison starts: canaries once they run the candidate, controls with their match."""
    starts: dict[str, datetime] = {}
    strata: dict[str, tuple[list[Standing], list[Standing]]] = {}
    for standing in sorted(standings, key=lambda s: (s.rank, s.device_id)):
        strata.setdefault(standing.stratum, ([], []))[standing.arm == CONTROL].append(standing)
    for canaries, controls in strata.values():
        starts.update({c.device_id: c.started_at for c in canaries if c.started_at})
        begun = [c for c in canaries if c.started_at]
        limit = max(CONTROLS_MIN, CONTROLS_PER_CANARY * len(canaries))
        for index, control in enumerate(controls[:limit] if begun else []):
            matched = canaries[index % len(canaries)]
            if matched.started_at:
                starts[control.device_id] = matched.started_at
    return starts
