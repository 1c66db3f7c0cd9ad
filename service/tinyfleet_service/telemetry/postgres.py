"""Telemetry in PostgreSQL, in a schema of its own beside the control plane.

A batch travels by binary COPY into a temporary table and from there in one UPDATE, which finds each row by its key and
the number it had when it was read: no row is locked before that. Rows have no index but the key and half of each page
free (`fillfactor`): devices that were first seen together report together, and a batch that updates every row of a page
must find room there, or it would touch the index, too (three quarters full, two updates in three did).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors

from tinyfleet_service.database.engine import postgres_url
from tinyfleet_service.errors import DatabaseUnavailableError, FleetError, StorageError
from tinyfleet_service.telemetry.merge import Kept
from tinyfleet_service.telemetry.schema import steps_to_take
from tinyfleet_service.telemetry.tables import CURRENT, NO_BOOT, PAST, Advance, WriteConflictError, kept_of

_WRITERS, _TOTALS, _MAKE = 0x7F1EE701, 0x7F1EE702, 0x7F1EE703
"""Advisory locks: writers of batches (shared, or exclusive when alone), totals and rollups, making the schema."""
_TABLES = ("device_report", "past_report", "image_total", "rollup", "ingester")
_NAMES = {name: f"telemetry.{name}" for name in _TABLES}
_FIRST = f"""
CREATE SCHEMA IF NOT EXISTS telemetry;
CREATE TABLE telemetry.device_report (
    device_id text COLLATE "C" PRIMARY KEY, cohort text NOT NULL DEFAULT '', boot integer NOT NULL DEFAULT {NO_BOOT},
    number bigint NOT NULL DEFAULT -1, at double precision NOT NULL DEFAULT 0,
    images bytea NOT NULL DEFAULT '', entries bytea NOT NULL DEFAULT ''
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.2, toast_tuple_target = 8160);
ALTER TABLE telemetry.device_report ALTER COLUMN entries SET STORAGE MAIN, ALTER COLUMN images SET STORAGE PLAIN;
CREATE TABLE telemetry.past_report (
    device_id text COLLATE "C" NOT NULL, boot integer NOT NULL, number bigint NOT NULL,
    images bytea NOT NULL, entries bytea NOT NULL, PRIMARY KEY (device_id, boot, number)
);
CREATE TABLE telemetry.image_total (
    image text COLLATE "C" PRIMARY KEY, devices bigint NOT NULL, reports bigint NOT NULL, counters text NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE telemetry.rollup (
    width_s integer NOT NULL, since bigint NOT NULL, image text COLLATE "C" NOT NULL, cohort text COLLATE "C" NOT NULL,
    devices bigint NOT NULL, reports bigint NOT NULL, counters text NOT NULL,
    PRIMARY KEY (width_s, since, image, cohort)
) WITH (fillfactor = 50);
CREATE TABLE telemetry.ingester (
    member integer PRIMARY KEY, at double precision NOT NULL, document text NOT NULL
);
"""
STEPS = (_FIRST,)
_STORE_NUMBER = """
CREATE TABLE IF NOT EXISTS telemetry.schema_number (number integer NOT NULL);
DELETE FROM telemetry.schema_number;
INSERT INTO telemetry.schema_number VALUES ({number});
"""
_SESSION = """
SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off; SET jit = off;
CREATE TEMPORARY TABLE IF NOT EXISTS advance (
    device_id text COLLATE "C", boot integer, before bigint, number bigint, entries bytea
) ON COMMIT DELETE ROWS;
"""  # a temporary table has no statistics: the planner must not scan a million rows for a batch
_ADVANCE = """
UPDATE telemetry.device_report AS kept SET number = advance.number, at = %s, entries = advance.entries FROM advance
WHERE kept.device_id = advance.device_id AND kept.boot = advance.boot AND kept.number = advance.before
"""
_COPY = "COPY advance (device_id, boot, before, number, entries) FROM STDIN (FORMAT BINARY)"
_COPY_HEAD, _COPY_END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
_ROW_START = struct.Struct("!hi")
_ROW_NUMBERS = struct.Struct("!iiiqiqi")


class PostgresTables:
    """One connection, usable from several threads."""

    def __init__(self, url: str) -> None:
        parts = postgres_url(url)
        self._parameters: dict[str, Any] = parts.translate_connect_args(username="user", database="dbname")
        self._parameters |= parts.query
        self._lock = threading.RLock()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    @contextmanager
    def transaction(self, *, alone: bool = False) -> Iterator[None]:
        """Raises WriteConflictError, DatabaseUnavailableError, StorageError."""
        with self._lock, self._errors(), self._open().transaction():
            kind = "" if alone else "_shared"
            self.query(f"SELECT pg_advisory_xact_lock{kind}({_WRITERS})")
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One snapshot for several queries."""
        with self._lock, self._errors(), self._open().transaction():
            self._open().execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield

    def read_current(self, device_ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """The hot rows, not locked."""
        where, values = self.any_of("device_id", device_ids)
        return self.query(f"SELECT {CURRENT} FROM {{device_report}} WHERE {where}", values)

    def hold(self, device_ids: Sequence[str], at: float) -> dict[str, Kept]:
        """Everything of these devices, their rows locked in order of name."""
        self.make(device_ids, at)
        where, values = self.any_of("device_id", device_ids)
        locked = f"SELECT {CURRENT} FROM {{device_report}} WHERE {where} ORDER BY device_id FOR UPDATE"
        current = self.query(locked, values)
        return kept_of(current, self.query(f"SELECT {PAST} FROM {{past_report}} WHERE {where}", values))

    def make(self, device_ids: Sequence[str], at: float) -> None:
        """Rows for devices that have none."""
        self.query(
            "INSERT INTO {device_report} (device_id, at) SELECT unnest(?::text[]), ? "
            "ON CONFLICT DO NOTHING RETURNING 1",
            [list(device_ids), at],
        )

    def advance(self, rows: Sequence[Advance], at: float) -> None:
        """Replace reports. Raises WriteConflictError when one is no longer what it was."""
        with self._open().cursor() as cursor:
            with cursor.copy(_COPY) as copy:
                copy.write(_packed(rows))
            cursor.execute(_ADVANCE, [at])
            if cursor.rowcount != len(rows):
                raise WriteConflictError

    def write(self, kept: dict[str, Kept], at: float) -> None:
        """Replace everything of these devices."""
        self.execute(
            "UPDATE {device_report} SET boot = ?, number = ?, images = ?, entries = ?, at = ? WHERE device_id = ?",
            [(*device.current, at, name) for name, device in kept.items()],
        )
        self.execute("DELETE FROM {past_report} WHERE device_id = ANY(?)", [(list(kept),)])
        self.execute(
            f"INSERT INTO {{past_report}} ({PAST}) VALUES (?, ?, ?, ?, ?)",
            [(name, *row) for name, device in kept.items() for row in device.past],
        )

    def touch(self, device_ids: Sequence[str], at: float) -> None:
        """Note that they were heard."""
        self.execute("UPDATE {device_report} SET at = ? WHERE device_id = ANY(?)", [(at, list(device_ids))])

    def lock_totals(self) -> None:
        """Totals and rollups have one writer at a time."""
        self.query(f"SELECT pg_advisory_xact_lock({_TOTALS})")

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a statement with `?` marks and table names in braces."""
        text = statement.replace("?", "%s").format_map(_NAMES)
        return self._open().execute(text, values, binary=True).fetchall()

    def execute(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row."""
        text = statement.replace("?", "%s").format_map(_NAMES)
        with self._open().cursor() as cursor:
            cursor.executemany(text, rows)

    def any_of(self, column: str, values: Sequence[str]) -> tuple[str, Sequence[Any]]:
        """A condition and its parameters."""
        return f"{column} = ANY(string_to_array(?, E'\\n'))", ["\n".join(values)]  # an array costs us 1 us an item

    def read_schema(self) -> tuple[int, int]:
        """The number of the database and of this code, over a connection of its own."""
        with self._errors(), psycopg.connect(**self._parameters, autocommit=True) as connection:
            return _schema_of(connection), len(STEPS)

    def upgrade(self) -> None:
        """Take the steps that are missing."""
        with self._lock, self._errors():
            self._drop()
            self._open(upgrade=True)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._drop()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (errors.DeadlockDetected, errors.SerializationFailure) as error:
            raise WriteConflictError from error
        except psycopg.Error as error:
            self._drop()
            raise _translated(error) from error

    def _open(self, *, upgrade: bool = False) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None:
            connection = psycopg.connect(**self._parameters, autocommit=True)
            try:
                _bring_to_schema(connection, upgrade)
                connection.execute(_SESSION)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _schema_of(connection: psycopg.Connection[tuple[Any, ...]]) -> int:
    found = connection.execute("SELECT to_regclass('telemetry.schema_number'), to_regclass('telemetry.device_report')")
    numbered, made = found.fetchone() or (None, None)
    if numbered is None:
        return int(made is not None)
    number: int = connection.execute("SELECT number FROM telemetry.schema_number").fetchall()[0][0]
    return number


def _bring_to_schema(connection: psycopg.Connection[tuple[Any, ...]], upgrade: bool) -> None:
    with connection.transaction():
        connection.execute(f"SELECT pg_advisory_xact_lock({_MAKE})")
        steps = steps_to_take(_schema_of(connection), STEPS, upgrade=upgrade)
        for step in steps:
            connection.execute(step)
        if steps:
            connection.execute(_STORE_NUMBER.format(number=len(STEPS)))


def _packed(rows: Sequence[Advance]) -> bytes:
    """Rows in the format of binary COPY."""
    parts = [_COPY_HEAD]
    for device_id, before, after in rows:
        name, entries = device_id.encode(), after.entries
        numbers = _ROW_NUMBERS.pack(4, after.boot, 8, before[3], 8, after.number, len(entries))
        parts += (_ROW_START.pack(5, len(name)), name, numbers, entries)
    parts.append(_COPY_END)
    return b"".join(parts)


def _translated(error: psycopg.Error) -> FleetError:
    if isinstance(error, errors.DiskFull):
        return StorageError(f"the database cannot grow: {error}", next="free disk space; nothing was changed")
    return DatabaseUnavailableError(
        f"the database does not answer for telemetry: {error}", next="check PostgreSQL and TINYFLEET_DATABASE_URL"
    )
