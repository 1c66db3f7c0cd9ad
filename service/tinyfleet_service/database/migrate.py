"""Schema migrations with alembic, from the repository's `migrations/` or the copy inside an installed wheel.

python -m tinyfleet_service.database.migrate upgrade   [--data DIR] [REVISION]
python -m tinyfleet_service.database.migrate downgrade [--data DIR] REVISION
python -m tinyfleet_service.database.migrate revision  [--data DIR] MESSAGE     autogenerate from the models
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine

from tinyfleet_service.database.engine import database_errors, make_engine, session_scope, writing
from tinyfleet_service.errors import CorruptError, FleetError, SettingsError
from tinyfleet_service.settings import load_settings


def migrations_folder() -> Path:
    """Where the migrations lie. Raises SettingsError when the installation lacks them."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "migrations", package.parents[1] / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise SettingsError("this installation has no migrations folder", next="reinstall the tinyfleet package")


def revisions(engine: Engine) -> tuple[str | None, str | None]:
    """What the database has, None when it was never migrated, and what this tinyfleet needs.

    Raises DatabaseUnavailableError.
    """
    with session_scope(engine, read_only=True) as session:
        has = MigrationContext.configure(session.connection()).get_current_revision()
    return has, ScriptDirectory(str(migrations_folder())).get_current_head()


def check_schema(engine: Engine) -> None:
    """Raises SettingsError for a database that another tinyfleet migrated last, DatabaseUnavailableError."""
    has, needed = revisions(engine)
    if has not in (None, needed):
        raise SettingsError(
            f"the database has schema {has}, this tinyfleet needs {needed}",
            next="an older one: `fleetctl migrate`, or start `fleetctl serve`; a newer one: update this installation",
        )


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the schema to `revision` in one transaction. Raises SettingsError when the database is newer."""
    with _migrating(engine) as connection:
        try:
            command.upgrade(_config(connection), revision)
        except CommandError as error:
            raise SettingsError(
                f"the database cannot be migrated: {error}",
                next="it was made by a newer tinyfleet: upgrade this installation, or restore a backup",
            ) from error


def downgrade(engine: Engine, revision: str) -> None:
    """Take the schema back to `revision`; `base` empties it."""
    with _migrating(engine) as connection:
        command.downgrade(_config(connection), revision)


@contextmanager
def _migrating(engine: Engine) -> Iterator[Connection]:
    """One transaction; SQLite rebuilds tables to alter them, which needs foreign keys off until the end.

    Two at once come one after the other. Raises DatabaseUnavailableError, StorageError.
    """
    with database_errors(), writing(engine).connect() as connection:
        sqlite = connection.dialect.name == "sqlite"
        driver: Any = connection.connection.driver_connection
        if sqlite:
            driver.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                yield connection
                if sqlite and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
                    raise CorruptError(
                        f"migration would leave {len(broken)} dangling references",
                        next="nothing was changed; restore a backup and report this",
                        rows=[tuple(row) for row in broken[:10]],
                    )
        finally:
            if sqlite:
                driver.execute("PRAGMA foreign_keys=ON")


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def main() -> None:
    """Command line, for several machines that share a database, and for developers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["upgrade", "downgrade", "revision"])
    parser.add_argument("argument", nargs="?", default="head")
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_intermixed_args()
    settings = load_settings(arguments.data)
    settings.dirs.create()
    engine = make_engine(settings)
    if arguments.verb == "revision":
        with engine.begin() as connection:
            command.revision(_config(connection), message=arguments.argument, autogenerate=True)
    else:
        {"upgrade": upgrade, "downgrade": downgrade}[arguments.verb](engine, arguments.argument)


if __name__ == "__main__":
    try:
        main()
    except FleetError as error:
        sys.exit(f"error: {error}")
