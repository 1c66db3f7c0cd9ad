"""The schema of the telemetry tables, step by step, with counters in them, on SQLite and on PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from postgres import postgres_database, shared_server
from tinyfleet_service import schema
from tinyfleet_service.cli.main import main
from tinyfleet_service.errors import DatabaseUnavailableError, SettingsError
from tinyfleet_service.maintenance import examine
from tinyfleet_service.serve.first_start import prepare
from tinyfleet_service.settings import Settings, load_settings
from tinyfleet_service.telemetry import TelemetryStore, postgres, sqlite
from unit.service.fleet_telemetry_builders import IMAGE, image_counters, telemetry

server = pytest.fixture(shared_server, scope="module")


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    if request.param == "sqlite":
        yield load_settings(tmp_path, database_url="")
        return
    with postgres_database(request.getfixturevalue("server")) as url:
        yield load_settings(tmp_path, database_url=url)


def fill(settings: Settings) -> None:
    with closing(TelemetryStore(settings)) as store:
        store.ingest([("m4-a", telemetry(image_counters(inferences=7)))])


def counted(settings: Settings) -> int:
    with closing(TelemetryStore(settings)) as store:
        return store.read_counters(["m4-a"], IMAGE.hex())["m4-a"].inferences


def schemas(settings: Settings) -> tuple[int, int]:
    with closing(TelemetryStore(settings)) as store:
        return store.schemas()


def run(settings: Settings, script: str) -> None:
    """As a database's owner does, past our code."""
    if settings.url.startswith("sqlite"):
        with closing(sqlite3.connect(settings.dirs.telemetry)) as db:
            db.executescript(script)
    else:
        with psycopg.connect(settings.url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(script)


def number(settings: Settings, value: int | None) -> None:
    """Give the tables another number, or take it away as if they were older than numbers."""
    if settings.url.startswith("sqlite"):
        run(settings, f"PRAGMA user_version = {value or 0}")
    elif value is None:
        run(settings, "DROP TABLE telemetry.schema_number")
    else:
        run(settings, f"UPDATE telemetry.schema_number SET number = {value}")


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tinyfleet with another step."""
    monkeypatch.setattr(sqlite, "STEPS", (*sqlite.STEPS, "ALTER TABLE rollup ADD extra INTEGER; DROP TABLE ingester"))
    changes = "ALTER TABLE telemetry.rollup ADD extra integer; DROP TABLE telemetry.ingester"
    monkeypatch.setattr(postgres, "STEPS", (*postgres.STEPS, changes))


def test_whoever_comes_first_makes_the_newest_and_looking_makes_nothing(settings: Settings) -> None:
    assert schemas(settings) == (0, 1)
    assert not settings.dirs.telemetry.exists()
    settings.dirs.create()
    fill(settings)
    assert schemas(settings) == (1, 1)


@pytest.mark.usefixtures("second")
def test_two_that_come_first_at_once_make_it_once(settings: Settings) -> None:
    settings.dirs.create()
    with ThreadPoolExecutor(4) as pool:
        for made in [pool.submit(fill, settings) for _ in range(4)]:
            made.result()
    assert (schemas(settings), counted(settings)) == ((2, 2), 7)


@pytest.mark.parametrize("has", [None, 1])
def test_tables_that_are_there_are_stepped_by_an_upgrade_alone(
    settings: Settings, has: int | None, request: pytest.FixtureRequest
) -> None:
    """`None`: from before there were numbers."""
    settings.dirs.create()
    fill(settings)
    number(settings, has)
    assert (schemas(settings), counted(settings)) == ((1, 1), 7)
    request.getfixturevalue("second")
    for refused in (lambda: counted(settings), lambda: schema.check_schema(settings)):
        with pytest.raises(SettingsError, match="schema 1, this tinyfleet needs 2") as caught:
            refused()
        assert "fleetctl migrate" in caught.value.next
    for _ in range(2):
        schema.upgrade(settings)
        schema.check_schema(settings)
        assert (schemas(settings), counted(settings)) == ((2, 2), 7)


def test_a_step_that_fails_changes_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.dirs.create()
    fill(settings)
    for module, name in ((sqlite, "past_report"), (postgres, "telemetry.past_report")):
        steps = (*module.STEPS, f"DROP TABLE {name}", "ALTER TABLE nowhere ADD extra INTEGER")
        monkeypatch.setattr(module, "STEPS", steps)
    with pytest.raises(DatabaseUnavailableError, match="nowhere"):
        schema.upgrade(settings)
    monkeypatch.undo()
    assert (schemas(settings), counted(settings)) == ((1, 1), 7)


def test_a_newer_one_is_refused_untouched(settings: Settings) -> None:
    settings.dirs.create()
    fill(settings)
    number(settings, 9)
    for refused in (lambda: counted(settings), lambda: schema.upgrade(settings), lambda: schema.check_schema(settings)):
        with pytest.raises(SettingsError, match="schema 9, this tinyfleet needs 1") as caught:
            refused()
        assert "newer tinyfleet" in caught.value.next
    number(settings, 1)
    assert counted(settings) == 7


def migrate(settings: Settings) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["migrate", "--data", str(settings.data)])
    assert ended.value.code == 0


@pytest.mark.sqlite_only
@pytest.mark.parametrize("update", [prepare, migrate])
def test_start_and_migrate_take_it_further_and_doctor_names_it(
    tmp_path: Path, update: Callable[[Settings], None], request: pytest.FixtureRequest
) -> None:
    settings = load_settings(tmp_path / "data", database_url="")
    prepare(settings)
    fill(settings)
    request.getfixturevalue("second")
    assert ("fail", "schema 1, this tinyfleet needs 2") in told(settings)
    update(settings)
    assert ("ok", "answers, schema 2") in told(settings)
    assert counted(settings) == 7


def told(settings: Settings) -> list[tuple[str, str]]:
    return [(finding.verdict, finding.found) for finding in examine(settings) if finding.check == "telemetry"]
