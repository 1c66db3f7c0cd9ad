"""Telemetry in an SQLite file of its own, written by the ingesters alone.

Counters start at 0 with each boot and only grow within it, so the last report of each (device, image, boot) is all
there is to keep: what comes twice or late is recognised by its number and changes nothing. Totals per image are kept up
to date in the same transaction by adding what a report has more than the one before. Old boots are folded into one row
(boot -1, whose number is the highest boot folded), so a device that restarts for ever does not fill the disk.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tinyfleet_service.errors import DatabaseUnavailableError, FleetError, InvalidInputError, StorageError
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry.counters import Counters
from tinyfleet_service.telemetry.reports import Report, read_reports

MAX_IMAGES_PER_DEVICE = 64
KEEP_BOOTS = 8
FOLDED = -1
BUSY_S = 5.0
_IN_CLAUSE = 500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS last_report (
    device_id TEXT NOT NULL, image TEXT NOT NULL, boot INTEGER NOT NULL, number INTEGER NOT NULL,
    role TEXT NOT NULL, at REAL NOT NULL, counters TEXT NOT NULL, PRIMARY KEY (device_id, image, boot)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image_total (image TEXT PRIMARY KEY, devices INTEGER NOT NULL, counters TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS device_seen (device_id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""
_UPSERT = """
INSERT INTO last_report VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (device_id, image, boot) DO UPDATE SET
    number = excluded.number, role = excluded.role, at = excluded.at, counters = excluded.counters
"""


@dataclass(frozen=True)
class Ingested:
    """What became of a batch: reports stored, reports known already, messages refused with their reasons."""

    stored: int = 0
    known: int = 0
    refused: tuple[str, ...] = ()


class TelemetryStore:
    """Last reports and totals; one per process, usable from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.dirs.telemetry
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def ingest(self, batch: Iterable[tuple[str, bytes]]) -> Ingested:
        """Store (device id, telemetry payload) messages in one transaction; unreadable ones are refused and reported.

        Raises DatabaseUnavailableError or StorageError: then nothing was stored and the whole batch may come again.
        """
        newest: dict[tuple[str, str, int], Report] = {}
        seen: set[str] = set()
        count, refused = 0, []
        for device_id, payload in batch:
            try:
                reports = read_reports(device_id, payload)
            except InvalidInputError as error:
                refused.append(f"{device_id}: {error}")
                continue
            seen.add(device_id)
            for report in reports:
                count += 1
                if report.key not in newest or newest[report.key].number < report.number:
                    newest[report.key] = report
        stored = self._store(list(newest.values()), seen, refused)
        return Ingested(stored, count - stored, tuple(refused))

    def read_counters(self, device_ids: Sequence[str], image_id: str) -> dict[str, Counters]:
        """Counters of one image on each device that ever reported it, summed over its boots."""
        sums: dict[str, Counters] = {}
        for part in _parts(device_ids):
            query = f"SELECT device_id, counters FROM last_report WHERE image = ? AND device_id IN ({_marks(part)})"
            for device_id, text in self._read(query, [image_id, *part]):
                sums[device_id] = sums.get(device_id, Counters()) + _load(text)
        return sums

    def last_heard(self, device_ids: Sequence[str]) -> dict[str, datetime]:
        """When telemetry of each device last arrived."""
        heard: dict[str, datetime] = {}
        for part in _parts(device_ids):
            query = f"SELECT device_id, at FROM device_seen WHERE device_id IN ({_marks(part)})"
            heard.update({device: datetime.fromtimestamp(at, UTC) for device, at in self._read(query, list(part))})
        return heard

    def totals(self) -> dict[str, Counters]:
        """Counters per image id, over all devices and boots."""
        return {image: _load(text) for image, text in self._read("SELECT image, counters FROM image_total", [])}

    def overview(self) -> dict[str, dict[str, Any]]:
        """Per image id: devices, counts, `accuracy` (as active model), `accuracy_with_shadow`, latencies in us."""
        rows = self._read("SELECT image, devices, counters FROM image_total", [])
        return {image: _summary(devices, _load(text)) for image, devices, text in rows}

    def fold_old_boots(self, keep: int = KEEP_BOOTS) -> int:
        """Add up all but the newest `keep` boots of each (device, image); how many rows that saved."""
        with self._transaction() as db:
            crowded = db.execute(
                "SELECT device_id, image FROM last_report WHERE boot >= 0 "
                "GROUP BY device_id, image HAVING count(*) > ?",
                [keep],
            ).fetchall()
            return sum(_fold(db, device_id, image, keep) for device_id, image in crowded)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._drop()

    def _store(self, reports: list[Report], seen: set[str], refused: list[str]) -> int:
        if not seen:
            return 0
        now, stored = time.time(), 0
        totals: dict[str, tuple[int, Counters]] = {}
        with self._transaction() as db:
            for report in reports:
                gain = _gain(db, report, refused)
                if gain is None:
                    continue
                text = json.dumps(report.counters.as_dict(), separators=(",", ":"))
                db.execute(_UPSERT, [*report.key, report.number, report.role, now, text])
                devices, counters = totals.get(report.image, (0, Counters()))
                totals[report.image] = (devices + gain[0], counters + gain[1])
                stored += 1
            for image, (devices, counters) in totals.items():
                _add_total(db, image, devices, counters)
            db.executemany("INSERT OR REPLACE INTO device_seen VALUES (?, ?)", [(device, now) for device in seen])
        return stored

    def _read(self, query: str, values: list[Any]) -> list[tuple[Any, ...]]:
        with self._lock, self._errors():
            return self._open().execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            db = self._open()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            db = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._connection = db
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")  # an acknowledged report must survive a power cut
            db.executescript(_SCHEMA)
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._drop()  # the next call opens the file anew: it may have been replaced or be back
            raise _translated(error) from error


def _gain(db: sqlite3.Connection, report: Report, refused: list[str]) -> tuple[int, Counters] | None:
    """(1 when the device is new to the image, what the report adds); None for one that is known or not taken."""
    rows = db.execute(
        "SELECT boot, number, counters FROM last_report WHERE device_id = ? AND image = ? AND boot IN (?, ?)",
        [report.device_id, report.image, report.boot, FOLDED],
    ).fetchall()
    by_boot = {boot: (number, text) for boot, number, text in rows}
    if FOLDED in by_boot and report.boot <= by_boot[FOLDED][0]:
        return None
    if report.boot in by_boot:
        number, text = by_boot[report.boot]
        return None if number >= report.number else (0, report.counters - _load(text))
    return _first(db, report, refused)


def _first(db: sqlite3.Connection, report: Report, refused: list[str]) -> tuple[int, Counters] | None:
    """The first report of a boot; a device cannot make up images without end."""
    images = {
        row[0] for row in db.execute("SELECT DISTINCT image FROM last_report WHERE device_id = ?", [report.device_id])
    }
    if report.image in images:
        return 0, report.counters
    if len(images) >= MAX_IMAGES_PER_DEVICE:
        refused.append(f"device {report.device_id} reports more than {MAX_IMAGES_PER_DEVICE} images")
        return None
    return 1, report.counters


def _add_total(db: sqlite3.Connection, image: str, devices: int, gain: Counters) -> None:
    row = db.execute("SELECT devices, counters FROM image_total WHERE image = ?", [image]).fetchone()
    before = _load(row[1]) if row else Counters()
    text = json.dumps((before + gain).as_dict(), separators=(",", ":"))
    db.execute("INSERT OR REPLACE INTO image_total VALUES (?, ?, ?)", [image, devices + (row[0] if row else 0), text])


def _fold(db: sqlite3.Connection, device_id: str, image: str, keep: int) -> int:
    where = "device_id = ? AND image = ?"
    rows = db.execute(
        f"SELECT boot, number, role, at, counters FROM last_report WHERE {where} ORDER BY boot", [device_id, image]
    ).fetchall()
    old = rows[: len(rows) - keep]
    if len(old) < 2:
        return 0
    total = Counters()
    for row in old:
        total += _load(row[4])
    last_boot, _, role, at, _ = old[-1]
    db.execute(f"DELETE FROM last_report WHERE {where} AND boot <= ?", [device_id, image, last_boot])
    text = json.dumps(total.as_dict(), separators=(",", ":"))
    db.execute(_UPSERT, [device_id, image, FOLDED, last_boot, role, at, text])
    return len(old) - 1


def _summary(devices: int, counters: Counters) -> dict[str, Any]:
    plain = counters.as_dict()
    names = ("inferences", "labelled", "correct", "faults", "active_s", "shadow_inferences", "shadow_agree")
    return {
        "devices": devices,
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


def _parts(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(items), _IN_CLAUSE):
        yield items[at : at + _IN_CLAUSE]


def _marks(items: Sequence[str]) -> str:
    return ", ".join("?" for _ in items)


def _translated(error: sqlite3.Error) -> FleetError:
    if "disk is full" in str(error) or "No space left" in str(error):
        return StorageError(f"the telemetry database cannot grow: {error}", next="free disk space; nothing was changed")
    return DatabaseUnavailableError(
        f"the telemetry database does not answer: {error}", next="check telemetry.db in the data directory"
    )
