"""One batch of decoded reports into the tables, inside the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinyfleet_service.telemetry.counters import Counters
from tinyfleet_service.telemetry.decode import Report
from tinyfleet_service.telemetry.entries import ID_BYTES
from tinyfleet_service.telemetry.merge import MAX_IMAGES_PER_DEVICE, TURNOVER_PER_DAY, Gain, Ledger, Turnover, merge
from tinyfleet_service.telemetry.tables import Advance, Tables

MINUTE_S = 60
_TOTAL = (
    "INSERT INTO {image_total} (devices, reports, counters, image) VALUES (?, ?, ?, ?) ON CONFLICT (image) DO UPDATE "
    "SET devices = excluded.devices, reports = excluded.reports, counters = excluded.counters"
)
_ROLLUP = (
    "INSERT INTO {rollup} (devices, reports, counters, width_s, since, image, cohort) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (width_s, since, image, cohort) DO UPDATE "
    "SET devices = excluded.devices, reports = excluded.reports, counters = excluded.counters"
)


@dataclass
class Written:
    """Image reports that count, image reports seen in all, and refusals with their reasons."""

    stored: int = 0
    seen: int = 0
    refused: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Sorted:
    """A batch by what must be done: newer reports of known rows, devices to merge with care, devices merely heard."""

    advance: list[Advance]
    merge: dict[str, list[Report]]
    touch: list[str]


def write_batch(tables: Tables, reports: Sequence[tuple[str, Report]], at: float, turnover: Turnover) -> Written:
    """Store reports that arrived at `at` (Unix seconds). Raises WriteConflictError: roll back and call it again."""
    written = Written(seen=sum(len(report.images) // ID_BYTES for _, report in reports))
    newest, others = _newest(reports)
    current = {row[0]: row for row in tables.read_current(list(newest))}
    batch = _sort(newest, others, current)
    ledger = Ledger()
    if batch.merge:
        _merge(tables, batch.merge, ledger, at, turnover, written)
    for _, before, after in batch.advance:
        ledger.replace(before[1], before[5], after)
        written.stored += len(after.images) // ID_BYTES
    if batch.advance:
        tables.advance(batch.advance, at)
    if batch.touch:
        tables.touch(batch.touch, at)
    add_gains(tables, ledger.gains(), at)
    return written


def add_gains(tables: Tables, gains: Sequence[Gain], at: float) -> None:
    """Grow totals and the minute's rollups; last in a transaction, as other writers wait for these rows."""
    if not gains:
        return
    tables.lock_totals()
    by_image: dict[tuple[object, ...], Gain] = {}
    for gain in gains:
        key = (gain.image,)
        by_image[key] = _sum(by_image[key], gain) if key in by_image else gain
    _grow(tables, "image_total", ("image",), by_image, _TOTAL)
    since = int(at) // MINUTE_S * MINUTE_S
    by_minute: dict[tuple[object, ...], Gain] = {(MINUTE_S, since, gain.image, gain.cohort): gain for gain in gains}
    _grow(tables, "rollup", ("width_s", "since", "image", "cohort"), by_minute, _ROLLUP)


def grow_rollups(tables: Tables, gains: Mapping[tuple[object, ...], Gain]) -> None:
    """Add to rollups by (width_s, since, image, cohort)."""
    _grow(tables, "rollup", ("width_s", "since", "image", "cohort"), gains, _ROLLUP)


def _grow(
    tables: Tables, table: str, columns: Sequence[str], gains: Mapping[tuple[object, ...], Gain], statement: str
) -> None:
    where = " AND ".join(f"{column} = ?" for column in columns)
    rows = []
    for key, gain in gains.items():
        found = tables.query(f"SELECT devices, reports, counters FROM {{{table}}} WHERE {where}", key)
        devices, reports, text = found[0] if found else (0, 0, "{}")
        counters = Counters.from_dict(json.loads(text)) + gain.counters
        rows.append((devices + gain.devices, reports + gain.reports, counters_text(counters), *key))
    tables.execute(statement, rows)


def counters_text(counters: Counters) -> str:
    """Counters as JSON, zeros left out."""
    return json.dumps({name: value for name, value in counters.as_dict().items() if value}, separators=(",", ":"))


def _sum(one: Gain, other: Gain) -> Gain:
    counters = one.counters + other.counters
    return Gain(one.image, "", one.devices + other.devices, one.reports + other.reports, counters)


def _newest(reports: Iterable[tuple[str, Report]]) -> tuple[dict[str, Report], dict[str, list[Report]]]:
    """The newest report of each device, and those it does not simply replace: of another boot or other images."""
    newest: dict[str, Report] = {}
    others: dict[str, list[Report]] = {}
    for device_id, report in reports:
        have = newest.setdefault(device_id, report)
        if have is report:
            continue
        if have.boot == report.boot and have.images == report.images:
            if have.number < report.number:
                newest[device_id] = report
        else:
            others.setdefault(device_id, []).append(report)
    return newest, others


def _sort(
    newest: Mapping[str, Report], others: Mapping[str, list[Report]], current: Mapping[str, tuple[Any, ...]]
) -> _Sorted:
    batch = _Sorted([], {}, [])
    for device_id, report in newest.items():
        row = current.get(device_id)
        if row is None or device_id in others or row[2] != report.boot or row[4] != report.images:
            batch.merge[device_id] = [report, *others.get(device_id, ())]
        elif row[3] < report.number:
            batch.advance.append((device_id, row, report))
        else:
            batch.touch.append(device_id)
    return batch


def _merge(
    tables: Tables,
    reports: Mapping[str, list[Report]],
    ledger: Ledger,
    at: float,
    turnover: Turnover,
    written: Written,
) -> None:
    held = tables.hold(sorted(reports), at)
    for device_id, arrived in reports.items():
        for report in sorted(arrived):
            merged = merge(held[device_id], report, ledger, turnover.left(device_id, at))
            turnover.take(device_id, merged.replaced)
            written.stored += merged.counted
            if merged.refused:
                limit = f"{MAX_IMAGES_PER_DEVICE} images, of which {TURNOVER_PER_DAY} a day may be replaced"
                written.refused.append(f"device {device_id} reports more than {limit}")
    tables.write(held, at)
