"""The telemetry store: batches of messages in, counters per device, image and minute out.

Counters start at 0 with each boot and only grow within it, so the newest report of each (device, image, boot) is all
there is to keep: `merge.py` has the rules. A batch is one transaction; a caller that acknowledges after `ingest`
returns loses nothing and counts nothing twice. Several writers may run at once: one that finds a row changed under its
hands starts its batch again, alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry.columns import Columns, columns_of_image, put_columns
from tinyfleet_service.telemetry.counters import Counters
from tinyfleet_service.telemetry.decode import BATCH_MAX, Report, decode_batch
from tinyfleet_service.telemetry.entries import add_up, image_names
from tinyfleet_service.telemetry.merge import Gain, Kept, Turnover, count_anew, counters_of_image, rows_of_image
from tinyfleet_service.telemetry.schema import check_schema
from tinyfleet_service.telemetry.sqlite import SqliteTables
from tinyfleet_service.telemetry.tables import CURRENT, PAST, Tables, WriteConflictError, in_parts, kept_of
from tinyfleet_service.telemetry.write_batch import MINUTE_S, Written, grow_rollups, write_batch

HOUR_S = 3600
DAY_S = 86_400
_READ_AT_ONCE = 1000


@dataclass(frozen=True)
class Ingested:
    """What became of a batch: image reports stored, image reports known already, refusals with their reasons."""

    stored: int = 0
    known: int = 0
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rollup:
    """What one image counted in one cohort in `width_s` seconds from `since`."""

    since: datetime
    width_s: int
    image: str
    cohort: str
    devices: int
    reports: int
    counters: Counters


def _open_tables(settings: Settings) -> Tables:
    if settings.url.startswith("sqlite"):
        return SqliteTables(settings.dirs.telemetry)
    from tinyfleet_service.telemetry.postgres import PostgresTables  # psycopg is an extra

    return PostgresTables(settings.url)


class TelemetryStore:
    """Last reports, totals and rollups; one per process, usable from several threads."""

    def __init__(self, settings: Settings) -> None:
        self.tables = _open_tables(settings)
        self._settings = settings
        self._turnover = Turnover()

    def ingest(self, batch: Iterable[tuple[str, bytes]]) -> Ingested:
        """Store (device id, telemetry payload) messages in one transaction; unreadable ones are refused and reported.

        At most `BATCH_MAX` at once. Raises DatabaseUnavailableError or StorageError: then nothing was stored and the
        whole batch may come again.
        """
        named = list(batch)
        assert len(named) <= BATCH_MAX
        found = decode_batch([payload for _, payload in named])
        reports: list[tuple[str, Report]] = []
        refused = []
        for (device_id, _), report in zip(named, found, strict=True):
            if isinstance(report, Report):
                reports.append((device_id, report))
            else:
                refused.append(f"{device_id}: {report}")
        written = self._write(reports) if reports else Written()
        return Ingested(written.stored, written.seen - written.stored, (*refused, *written.refused))

    def read_counters(self, device_ids: Sequence[str], image_id: str) -> dict[str, Counters]:
        """Counters of one image on each device that ever reported it, summed over its boots."""
        sums: dict[str, Counters] = {}
        for kept in self._kept(device_ids):
            for device_id, one in kept.items():
                counters = counters_of_image(one.rows, image_id)
                if counters is not None:
                    sums[device_id] = counters
        return sums

    def read_device(self, device_id: str) -> dict[str, dict[str, Any]]:
        """Per image id that a device ever reported, those of its newest report first, what it counted over its boots:
        as `overview`, with `predictions` by class and `energy_uj`.
        """
        rows = [row for kept in self._kept([device_id]) for one in kept.values() for row in one.rows]
        images = dict.fromkeys(name for row in rows for name in image_names(row.images))
        found = {image: counters_of_image(rows, image) or Counters() for image in images}
        return {
            image: {**_summary(counters), "predictions": counters.predictions, "energy_uj": counters.energy_uj}
            for image, counters in found.items()
        }

    def read_columns(self, device_ids: Sequence[str], image_id: str) -> Columns:
        """Counters of one image, summed over boots, as columns in the order of these devices; high waters left out."""
        columns: Columns = {}
        for at, part in enumerate(in_parts(device_ids, _READ_AT_ONCE)):
            place = {device_id: number for number, device_id in enumerate(part)}
            rows = [
                (place[device_id], row)
                for kept in self._kept(part)
                for device_id, one in kept.items()
                for row in rows_of_image(one.rows, image_id)
            ]
            found = columns_of_image(rows, len(part), image_id)
            put_columns(columns, found, at * _READ_AT_ONCE, len(device_ids))
        return columns

    def sum_counters(self, device_ids: Sequence[str], image_id: str) -> Counters:
        """Counters of one image over these devices: what `read_counters` gives, added up."""
        total = Counters()
        for kept in self._kept(device_ids):
            rows = [row for one in kept.values() for row in rows_of_image(one.rows, image_id)]
            total += add_up([(row.images, row.entries) for row in rows], image_id)
        return total

    def _kept(self, device_ids: Sequence[str]) -> Iterator[dict[str, Kept]]:
        for part in in_parts(device_ids, _READ_AT_ONCE):
            where, values = self.tables.any_of("device_id", part)
            with self.tables.reading():
                current = self.tables.query(f"SELECT {CURRENT} FROM {{device_report}} WHERE {where}", values)
                past = self.tables.query(f"SELECT {PAST} FROM {{past_report}} WHERE {where}", values)
            yield kept_of(current, past)

    def last_heard(self, device_ids: Sequence[str]) -> dict[str, datetime]:
        """When telemetry of each device last arrived."""
        heard: dict[str, datetime] = {}
        for part in in_parts(device_ids, _READ_AT_ONCE):
            where, values = self.tables.any_of("device_id", part)
            rows = self._read(f"SELECT device_id, at FROM {{device_report}} WHERE at > 0 AND {where}", values)
            heard.update({device: datetime.fromtimestamp(at, UTC) for device, at in rows})
        return heard

    def totals(self) -> dict[str, Counters]:
        """Counters per image id, over all devices and boots."""
        return {image: _load(text) for image, text in self._read("SELECT image, counters FROM {image_total}")}

    def overview(self) -> dict[str, dict[str, Any]]:
        """Per image id: devices, counts, `accuracy` (as active model), `accuracy_with_shadow`, latencies in us."""
        rows = self._read("SELECT image, devices, counters FROM {image_total}")
        return {image: {"devices": devices, **_summary(_load(text))} for image, devices, text in rows}

    def rollups(self, image_id: str, since: datetime) -> list[Rollup]:
        """What an image counted from `since` on, by time and cohort: minutes, where they are still kept, else hours."""
        rows = self._read(
            "SELECT since, width_s, image, cohort, devices, reports, counters FROM {rollup} "
            "WHERE image = ? AND since >= ? ORDER BY since, cohort",
            [image_id, int(since.timestamp())],
        )
        return [_rollup(row) for row in rows]

    def set_cohorts(self, cohorts: Mapping[str, str]) -> None:
        """Count what these devices report from now on under a cohort of their own in the rollups (device -> cohort)."""
        names = sorted(cohorts)
        with self.tables.transaction():
            self.tables.make(names, 0.0)
            rows = [(cohorts[name], name) for name in names]
            self.tables.execute("UPDATE {device_report} SET cohort = ? WHERE device_id = ?", rows)

    def count_anew(self, device_id: str) -> None:
        """The device's journal begins anew: boots that were reported may come again, and count beside those."""
        with self.tables.transaction(alone=True):
            held = self.tables.hold([device_id], now := time.time())
            count_anew(held[device_id])
            self.tables.write(held, now)

    def expire(self, now: datetime | None = None) -> int:
        """Fold minutes that are older than `rollup_minutes_days` into hours, drop old hours; rollup rows saved."""
        today = (now or datetime.now(UTC)).timestamp()
        minutes = int(today - self._settings.rollup_minutes_days * DAY_S) // HOUR_S * HOUR_S
        hours = int(today - self._settings.rollup_hours_days * DAY_S)
        with self.tables.transaction(alone=True):
            before = self.tables.query("SELECT count(*) FROM {rollup}")[0][0]
            old = self.tables.query(
                "SELECT since, image, cohort, devices, reports, counters FROM {rollup} WHERE width_s = ? AND since < ?",
                [MINUTE_S, minutes],
            )
            grow_rollups(self.tables, _by_hour(old))
            self.tables.execute("DELETE FROM {rollup} WHERE width_s = ? AND since < ?", [(MINUTE_S, minutes)])
            self.tables.execute("DELETE FROM {rollup} WHERE since < ?", [(hours,)])
            return int(before - self.tables.query("SELECT count(*) FROM {rollup}")[0][0])

    def note_ingester(self, member: int, document: Mapping[str, Any]) -> None:
        """Keep how an ingester is doing, for `/metrics`."""
        with self.tables.transaction():
            self.tables.execute(
                "INSERT INTO {ingester} (member, at, document) VALUES (?, ?, ?) "
                "ON CONFLICT (member) DO UPDATE SET at = excluded.at, document = excluded.document",
                [(member, time.time(), json.dumps(document))],
            )

    def forget_ingesters(self, first: int) -> None:
        """Of members from `first` on nothing is said any more: they do not run."""
        with self.tables.transaction():
            self.tables.execute("DELETE FROM {ingester} WHERE member >= ?", [(first,)])

    def ingesters(self) -> dict[int, dict[str, Any]]:
        """What each ingester last said of itself, with `age_s`."""
        rows = self._read("SELECT member, at, document FROM {ingester}")
        return {member: json.loads(text) | {"age_s": max(0.0, time.time() - at)} for member, at, text in rows}

    def schemas(self) -> tuple[int, int]:
        """Schema that the database has, 0 for none, and that this tinyfleet needs. Raises DatabaseUnavailableError."""
        return self.tables.read_schema()

    def check_schema(self) -> None:
        """Raises SettingsError for tables of another tinyfleet, DatabaseUnavailableError."""
        check_schema(*self.schemas())

    def upgrade(self) -> None:
        """Bring the tables up to this tinyfleet, with what they hold.

        Raises SettingsError for a newer one, DatabaseUnavailableError, StorageError.
        """
        self.tables.upgrade()

    def close(self) -> None:
        """Close the connection."""
        self.tables.close()

    def _write(self, reports: Sequence[tuple[str, Report]]) -> Written:
        for alone in (False, True):
            try:
                with self.tables.transaction(alone=alone):
                    return write_batch(self.tables, reports, time.time(), self._turnover)
            except WriteConflictError:
                if alone:
                    raise
        raise AssertionError("unreachable")

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self.tables.reading():
            return self.tables.query(statement, values)


def _by_hour(rows: Iterable[tuple[Any, ...]]) -> dict[tuple[object, ...], Gain]:
    sums: dict[tuple[object, ...], Gain] = {}
    for since, image, cohort, devices, reports, text in rows:
        key = (HOUR_S, since // HOUR_S * HOUR_S, image, cohort)
        have = sums.get(key) or Gain(image, cohort, 0, 0, Counters())
        sums[key] = Gain(image, cohort, have.devices + devices, have.reports + reports, have.counters + _load(text))
    return sums


def _rollup(row: tuple[Any, ...]) -> Rollup:
    since, width_s, image, cohort, devices, reports, text = row
    return Rollup(datetime.fromtimestamp(since, UTC), width_s, image, cohort, devices, reports, _load(text))


def _summary(counters: Counters) -> dict[str, Any]:
    plain = counters.as_dict()
    names = ("inferences", "labelled", "correct", "faults", "active_s", "shadow_inferences", "shadow_agree")
    return {
        **{name: plain[name] for name in names},
        "shadow_pairs": plain["shadow_pairs"],
        "accuracy": counters.accuracy,
        "accuracy_with_shadow": counters.accuracy_with_shadow,
        "latency_p50_us": counters.latency_us(0.50),
        "latency_p95_us": counters.latency_us(0.95),
        "arena_high_water_bytes": counters.arena_high_water_bytes,
        "stack_high_water_bytes": counters.stack_high_water_bytes,
    }


def _load(text: str) -> Counters:
    return Counters.from_dict(json.loads(text))
