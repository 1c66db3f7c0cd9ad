"""The schema of everything an installation stores: the control plane's, by alembic, and telemetry's, by its steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from sqlalchemy import Engine

from tinyfleet_service.database import migrate
from tinyfleet_service.database.engine import make_engine
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore


def upgrade(settings: Settings) -> None:
    """Bring both to this code, each in one transaction; what is there already is kept, so it may be done again.

    Raises SettingsError for a newer one, DatabaseUnavailableError, StorageError.
    """
    with _both(settings) as (engine, telemetry):
        migrate.upgrade(engine)
        telemetry.upgrade()


def check_schema(settings: Settings) -> None:
    """Raises SettingsError for a database that another tinyfleet migrated last, DatabaseUnavailableError."""
    with _both(settings) as (engine, telemetry):
        migrate.check_schema(engine)
        telemetry.check_schema()


@contextmanager
def _both(settings: Settings) -> Iterator[tuple[Engine, TelemetryStore]]:
    """The control plane's database and telemetry's; neither is opened before it is asked."""
    engine = make_engine(settings)
    try:
        with closing(TelemetryStore(settings)) as telemetry:
            yield engine, telemetry
    finally:
        engine.dispose()
