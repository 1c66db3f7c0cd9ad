"""Connections, transactions and leases of the control plane.

SQLite runs in WAL mode with foreign keys on. A writing transaction takes the write lock at its first statement
(BEGIN IMMEDIATE): one that reads first and writes later would otherwise fail at once when another writer came between.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, delete, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Session, col, select

from tinyfleet_service.database import device_index, models
from tinyfleet_service.errors import DatabaseUnavailableError, FleetError, LeaseLostError, SettingsError, StorageError
from tinyfleet_service.settings import Settings

BUSY_TIMEOUT_S = 10.0
NO_FENCE = 0
GIVEN_UP = {
    "connect_timeout": "10",
    "tcp_user_timeout": "30000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "options": "-c tcp_user_timeout=30000 -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 "
    "-c tcp_keepalives_count=4 -c idle_in_transaction_session_timeout=300000",
}
"""How PostgreSQL's client and server find out within 30 s that the other one's machine or network is gone: left to TCP
it takes hours, in which a server keeps the locks of a dead controller. One that stands still in the middle of a
transaction loses it after five minutes. libpq's words: seconds, but `tcp_user_timeout` and what stands in `options`.
"""
URL_FORM = "write postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, or leave it empty for SQLite"
_OURS = (IntegrityError, ProgrammingError, DataError, NotSupportedError)
"""Errors of what was asked. The rest is the database's own: away, locked, full, damaged."""


def make_engine(settings: Settings) -> Engine:
    """An engine for `settings.url`; share one per process, never across a fork. Raises SettingsError for a bad URL."""
    device_index.listen()
    if not settings.url.startswith("sqlite"):
        try:
            return create_engine(postgres_url(settings.url), pool_pre_ping=True)
        except (ArgumentError, ModuleNotFoundError) as error:  # its text may hold a password: not shown
            raise SettingsError("TINYFLEET_DATABASE_URL names no database of ours", next=URL_FORM) from error
    # A path may hold what means something else in a URL: `?`, `%`.
    url = settings.database_url or URL.create("sqlite", database=str(settings.dirs.database))
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})
    event.listen(engine, "connect", prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def postgres_url(url: str) -> URL:
    """`url` with `GIVEN_UP`; what it says itself goes before. Raises ArgumentError."""
    parts = make_url(url)
    return parts.set(query={**GIVEN_UP, **parts.query})


def prepare_sqlite(connection: Any, _record: Any) -> None:
    """Set up a new connection; `LIKE` tells cases apart, as PostgreSQL's does."""
    connection.isolation_level = None  # the driver must not begin transactions: `_begin_sqlite` does
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=FULL", "case_sensitive_like=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")


@contextmanager
def session_scope(engine: Engine, *, read_only: bool = False) -> Iterator[Session]:
    """One transaction: committed at the end, rolled back on any error. Objects stay readable afterwards.

    Raises DatabaseUnavailableError or StorageError when the database does not answer, stays locked, is damaged or full.
    """
    bind = engine if read_only else writing(engine)
    with database_errors(), Session(bind, expire_on_commit=False, autoflush=True) as session:
        try:
            yield session
            if read_only:
                session.expunge_all()  # a rollback would empty the objects that the caller keeps
                session.rollback()
            else:
                session.commit()
        except BaseException:
            _give_up(session)
            raise


def writing(engine: Engine) -> Engine:
    """The engine for transactions that write: on SQLite they wait for each other at their beginning."""
    return engine.execution_options(sqlite_begin="IMMEDIATE")


@contextmanager
def database_errors() -> Iterator[None]:
    """Errors of the database itself as ours. Raises DatabaseUnavailableError, StorageError."""
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        if isinstance(error, _OURS):
            raise
        raise _unavailable(error) from error
    except PoolTimeoutError as error:
        raise DatabaseUnavailableError(
            "the database keeps every connection busy", next="see what it waits for, then try again"
        ) from error


def _give_up(session: Session) -> None:
    """Roll back. Where the connection is gone, so is what it held: what is to be told is the error that led here."""
    with suppress(DatabaseError, InterfaceError):
        session.rollback()


def _unavailable(error: DatabaseError | InterfaceError) -> FleetError:
    reason = str(error.orig)
    if "disk is full" in reason or "No space left" in reason:
        return StorageError(f"the database cannot grow: {reason}", next="free disk space; nothing was changed")
    return DatabaseUnavailableError(
        f"the database does not answer: {reason}", next="check the database, then try again"
    )


def database_now(session: Session) -> datetime:
    """The database's clock, aware UTC: the only clock that several processes share."""
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        stamp = connection.execute(text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')")).scalar_one()
        return datetime.fromisoformat(stamp).replace(tzinfo=UTC)
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now.astimezone(UTC)


class Lease:
    """Named leases: one owner at a time, on database time, with a fencing number that grows with each new owner."""

    @staticmethod
    def acquire(engine: Engine, name: str, owner: str, ttl_s: float) -> int | None:
        """Take or renew: the fence (> 0), or None while another owner holds it. `owner` is unique per process.

        A lease that lasts longer than two taken now holds nobody off: the clock was set back since, or its `ttl_s` is
        longer; the fence keeps its owner from writing.
        """
        try:
            with session_scope(engine) as session:
                return _acquire(session, name, owner, ttl_s)
        except IntegrityError:
            return None  # another process inserted the very first row at the same moment

    @staticmethod
    def release(engine: Engine, name: str, owner: str) -> None:
        """Give the lease up so that another need not wait for its end; no effect when it is not ours."""
        with session_scope(engine) as session:
            row = session.exec(select(models.Lease).where(models.Lease.name == name).with_for_update()).first()
            if row and row.owner == owner:
                row.until = database_now(session) - timedelta(seconds=1)
                row.owner = ""

    @staticmethod
    def drop(engine: Engine, name: str, owner: str) -> None:
        """Give a lease up whose name is not used again."""
        with session_scope(engine) as session:
            session.connection().execute(
                delete(models.Lease).where(col(models.Lease.name) == name, col(models.Lease.owner) == owner)
            )


def _acquire(session: Session, name: str, owner: str, ttl_s: float) -> int | None:
    now = database_now(session)
    until = now + timedelta(seconds=ttl_s)
    row = session.exec(select(models.Lease).where(models.Lease.name == name).with_for_update()).first()
    if row is None:
        session.add(models.Lease(name=name, owner=owner, until=until, fence=1))
        return 1
    if row.owner != owner:
        # One lease more than `until`, since another's may have begun while we waited for the row.
        if now < row.until < until + timedelta(seconds=ttl_s):
            return None
        row.owner, row.fence = owner, row.fence + 1
    row.until = until
    return row.fence


def check_fence(session: Session, name: str, fence: int) -> None:
    """Hold the lease row until this transaction ends. Raises LeaseLostError when a newer owner has it.

    Every write of a leased process calls this in the same transaction; NO_FENCE (0) is for writers without a lease.
    """
    if fence != NO_FENCE:
        _held(session, name, fence)


def extend_lease(session: Session, name: str, fence: int, ttl_s: float) -> None:
    """Let the lease end `ttl_s` from now. One that ran out and that nobody else has taken is still ours.

    Raises LeaseLostError when a newer owner has it.
    """
    row = _held(session, name, fence)
    row.until = database_now(session) + timedelta(seconds=ttl_s)


def _held(session: Session, name: str, fence: int) -> models.Lease:
    """The locked row of a lease that is still under this fence."""
    row = session.exec(select(models.Lease).where(models.Lease.name == name).with_for_update()).first()
    if row is None or row.fence != fence:
        raise LeaseLostError(
            f"lease {name!r} with fence {fence} was taken over",
            next="nothing to do: the new owner carries on",
            name=name,
            fence=fence,
            current=row.fence if row else None,
        )
    return row
