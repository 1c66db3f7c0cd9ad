"""The telemetry tables, and what the store asks of a database. `sqlite.py` and `postgres.py` do it.

Hot is `device_report`, one narrow row per device, updated in place; no index but the key, so that PostgreSQL updates it
heap-only. `past_report` changes when a device restarts or swaps images. Totals and rollups are a few rows a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from tinyfleet_service.telemetry.decode import Report
from tinyfleet_service.telemetry.merge import Kept

NO_BOOT = -1 << 31
"""Boot of a row without a report: a device that was only given a cohort, or sent nothing that counts."""


class Current(NamedTuple):
    """A hot row as it is read for a batch; plain tuples of this order will do."""

    device_id: str
    cohort: str
    boot: int
    number: int
    images: bytes
    entries: bytes


Advance = tuple[str, tuple[Any, ...], Report]
"""Device id, row (as `Current`) and newer report of the same boot and images: the common case."""


class WriteConflictError(Exception):
    """Another writer changed a row in between: nothing was written, do it again."""


class Tables(Protocol):
    """One database; every call but `transaction` runs inside one."""

    def transaction(self, *, alone: bool = False) -> AbstractContextManager[None]:
        """Commit durably at the end, roll back on any error. `alone`: no other writer at the same time.

        Raises DatabaseUnavailableError, StorageError.
        """

    def reading(self) -> AbstractContextManager[None]:
        """One snapshot for several queries. Raises DatabaseUnavailableError."""

    def read_current(self, device_ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """The hot rows of these devices, as `Current`."""

    def hold(self, device_ids: Sequence[str], at: float) -> dict[str, Kept]:
        """Everything of these devices, new ones made, locked until the end of the transaction."""

    def make(self, device_ids: Sequence[str], at: float) -> None:
        """Rows for devices that have none, heard at `at` (0: never)."""

    def advance(self, rows: Sequence[Advance], at: float) -> None:
        """Replace reports. Raises WriteConflictError when one is no longer what it was."""

    def write(self, kept: dict[str, Kept], at: float) -> None:
        """Replace everything of these devices."""

    def touch(self, device_ids: Sequence[str], at: float) -> None:
        """Note that they were heard."""

    def lock_totals(self) -> None:
        """Keep other writers from totals and rollups until the end of the transaction."""

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a statement with `?` marks and table names in braces."""

    def execute(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement with `?` marks and table names in braces for each row."""

    def any_of(self, column: str, values: Sequence[str]) -> tuple[str, Sequence[Any]]:
        """A condition `column in values` and its parameters."""

    def read_schema(self) -> tuple[int, int]:
        """Schema that the database has, 0 for none, and that this code needs. Nothing is made, nothing refused."""

    def upgrade(self) -> None:
        """Bring the schema up to this code. Raises SettingsError for a newer one."""

    def close(self) -> None:
        """Close the connection."""


CURRENT = "device_id, cohort, boot, number, images, entries"
PAST = "device_id, boot, number, images, entries"


def kept_of(current: Iterable[tuple[Any, ...]], past: Iterable[tuple[Any, ...]] = ()) -> dict[str, Kept]:
    """Rows of `CURRENT` and `PAST` by device."""
    kept = {row[0]: Kept(row[1], Report(*row[2:])) for row in current}
    for device_id, *row in past:
        kept[device_id].past.append(Report(*row))
    return kept


def in_parts(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Slices of at most `size`."""
    for at in range(0, len(items), size):
        yield items[at : at + size]
