"""Telemetry in an SQLite file of its own, beside the control plane's: its writers never wait for each other."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tinyfleet_service.errors import DatabaseUnavailableError, FleetError, StorageError
from tinyfleet_service.telemetry.merge import Kept
from tinyfleet_service.telemetry.schema import steps_to_take
from tinyfleet_service.telemetry.tables import CURRENT, NO_BOOT, PAST, Advance, kept_of

BUSY_S = 5.0
TURN_PAUSE_S = 0.01
_CACHE_KIB = 256 << 10
_CHECKPOINT_PAGES = 16_000
"""The log is copied back at 64 MB: a page that changes often until then is copied once."""
_JOURNAL_BYTES = 128 << 20
_NAMES = {name: name for name in ("device_report", "past_report", "image_total", "rollup", "ingester")}
_FIRST = f"""
CREATE TABLE device_report (
    device_id TEXT PRIMARY KEY, cohort TEXT NOT NULL DEFAULT '', boot INTEGER NOT NULL DEFAULT {NO_BOOT},
    number INTEGER NOT NULL DEFAULT -1, at REAL NOT NULL DEFAULT 0,
    images BLOB NOT NULL DEFAULT x'', entries BLOB NOT NULL DEFAULT x''
) WITHOUT ROWID;
CREATE TABLE past_report (
    device_id TEXT NOT NULL, boot INTEGER NOT NULL, number INTEGER NOT NULL,
    images BLOB NOT NULL, entries BLOB NOT NULL, PRIMARY KEY (device_id, boot, number)
) WITHOUT ROWID;
CREATE TABLE image_total (
    image TEXT PRIMARY KEY, devices INTEGER NOT NULL, reports INTEGER NOT NULL, counters TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE rollup (
    width_s INTEGER NOT NULL, since INTEGER NOT NULL, image TEXT NOT NULL, cohort TEXT NOT NULL,
    devices INTEGER NOT NULL, reports INTEGER NOT NULL, counters TEXT NOT NULL,
    PRIMARY KEY (width_s, since, image, cohort)
) WITHOUT ROWID;
CREATE TABLE ingester (
    member INTEGER PRIMARY KEY, at REAL NOT NULL, document TEXT NOT NULL
);
"""
STEPS = (_FIRST,)


class SqliteTables:
    """One connection, usable from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def transaction(self, *, alone: bool = False) -> Iterator[None]:
        """SQLite has one writer at a time, so each is `alone`. Raises DatabaseUnavailableError, StorageError."""
        with self._lock:
            try:
                with self._begun("IMMEDIATE"):
                    yield
            except sqlite3.Error as error:
                self._drop()  # the next call opens the file anew: it may have been replaced or be back
                raise _translated(error) from error

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One snapshot for several queries."""
        with self._lock:
            try:
                with self._begun("DEFERRED"):
                    yield
            except sqlite3.Error as error:
                self._drop()
                raise _translated(error) from error

    def read_current(self, device_ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """The hot rows."""
        where, values = self.any_of("device_id", device_ids)
        return self.query(f"SELECT {CURRENT} FROM device_report WHERE {where}", values)

    def hold(self, device_ids: Sequence[str], at: float) -> dict[str, Kept]:
        """Everything of these devices; the transaction holds the file anyway."""
        self.make(device_ids, at)
        where, values = self.any_of("device_id", device_ids)
        current = self.query(f"SELECT {CURRENT} FROM device_report WHERE {where}", values)
        return kept_of(current, self.query(f"SELECT {PAST} FROM past_report WHERE {where}", values))

    def make(self, device_ids: Sequence[str], at: float) -> None:
        """Rows for devices that have none."""
        rows = [(name, at) for name in device_ids]
        self.execute("INSERT OR IGNORE INTO device_report (device_id, at) VALUES (?, ?)", rows)

    def advance(self, rows: Sequence[Advance], at: float) -> None:
        """Replace reports."""
        self.execute(
            "UPDATE device_report SET number = ?, at = ?, entries = ? WHERE device_id = ?",
            [(after.number, at, after.entries, device_id) for device_id, _, after in rows],
        )

    def write(self, kept: dict[str, Kept], at: float) -> None:
        """Replace everything of these devices."""
        self.execute(
            "UPDATE device_report SET boot = ?, number = ?, images = ?, entries = ?, at = ? WHERE device_id = ?",
            [(*device.current, at, name) for name, device in kept.items()],
        )
        self.execute("DELETE FROM past_report WHERE device_id = ?", [(name,) for name in kept])
        self.execute(
            f"INSERT INTO past_report ({PAST}) VALUES (?, ?, ?, ?, ?)",
            [(name, *row) for name, device in kept.items() for row in device.past],
        )

    def touch(self, device_ids: Sequence[str], at: float) -> None:
        """Note that they were heard."""
        self.execute("UPDATE device_report SET at = ? WHERE device_id = ?", [(at, name) for name in device_ids])

    def lock_totals(self) -> None:
        """The transaction holds the file anyway."""

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a statement with table names in braces."""
        return self._open().execute(statement.format_map(_NAMES), values).fetchall()

    def execute(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row."""
        self._open().executemany(statement.format_map(_NAMES), rows)

    def any_of(self, column: str, values: Sequence[str]) -> tuple[str, Sequence[Any]]:
        """A condition and its parameters."""
        return f"{column} IN ({', '.join('?' * len(values))})", values

    def read_schema(self) -> tuple[int, int]:
        """The number of the file, which may be missing, and of this code."""
        if not self._path.exists():
            return 0, len(STEPS)
        try:
            with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=BUSY_S)) as db:
                return _schema_of(db), len(STEPS)
        except sqlite3.Error as error:
            raise _translated(error) from error

    def upgrade(self) -> None:
        """Take the steps that are missing."""
        with self._lock:
            self._drop()
            try:
                self._open(upgrade=True)
            except sqlite3.Error as error:
                raise _translated(error) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._drop()

    @contextmanager
    def _begun(self, mode: str) -> Iterator[None]:
        db = self._open()
        db.execute(f"BEGIN {mode}")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _open(self, *, upgrade: bool = False) -> sqlite3.Connection:
        if self._connection is None:
            db = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                _turn_to_log(db)
                for pragma in (
                    "synchronous=FULL",  # an acknowledged report must survive a power cut
                    f"cache_size=-{_CACHE_KIB}",
                    f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
                    f"journal_size_limit={_JOURNAL_BYTES}",
                ):
                    db.execute(f"PRAGMA {pragma}")
                _bring_to_schema(db, upgrade)
            except BaseException:
                db.close()
                raise
            self._connection = db
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _schema_of(db: sqlite3.Connection) -> int:
    number: int = db.execute("PRAGMA user_version").fetchone()[0]
    return number or len(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'device_report'").fetchall())


def _bring_to_schema(db: sqlite3.Connection, upgrade: bool) -> None:
    if not steps_to_take(_schema_of(db), STEPS, upgrade=upgrade):
        return
    db.execute("BEGIN IMMEDIATE")
    for step in steps_to_take(_schema_of(db), STEPS, upgrade=upgrade):  # another one may have been faster
        for statement in step.split(";"):  # a script would commit by itself
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {len(STEPS)}")
    db.execute("COMMIT")


def _turn_to_log(db: sqlite3.Connection) -> None:
    """Write-ahead logging. Two that turn a new file to it at once are refused without the wait that others get."""
    until = time.monotonic() + BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # whatever the extended code
            if not busy or time.monotonic() > until:
                raise
            time.sleep(TURN_PAUSE_S)


def _translated(error: sqlite3.Error) -> FleetError:
    if "disk is full" in str(error) or "No space left" in str(error):
        return StorageError(f"the telemetry database cannot grow: {error}", next="free disk space; nothing was changed")
    return DatabaseUnavailableError(
        f"the telemetry database does not answer: {error}", next="check telemetry.db in the data directory"
    )
