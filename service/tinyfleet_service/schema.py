"""The schema of everything an installation stores: the control plane's, by alembic, and telemetry's, by its steps."""

from __future__ import annotations

from contextlib import closing

from tinyfleet_service.database import migrate
from tinyfleet_service.database.engine import make_engine
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore


def upgrade(settings: Settings) -> None:
    """Bring both to this code, each in one transaction; what is there already is kept, so it may be done again.

    Raises SettingsError for a newer one, DatabaseUnavailableError, StorageError.
    """
    engine = make_engine(settings)
    try:
        migrate.upgrade(engine)
    finally:
        engine.dispose()
    with closing(TelemetryStore(settings)) as store:
        store.upgrade()


def check_schema(settings: Settings) -> None:
    """Raises SettingsError for a database that another tinyfleet migrated last, DatabaseUnavailableError."""
    engine = make_engine(settings)
    try:
        migrate.check_schema(engine)
    finally:
        engine.dispose()
    with closing(TelemetryStore(settings)) as store:
        store.check_schema()
