"""An ingester killed with -9 and a database that crashes under it lose no report and count none twice."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from integration.fleet_support import connected, device_files, eventually, make_settings, running_broker
from postgres import crash_and_restart, postgres_database, shared_server
from tinyfleet_service import ingest
from tinyfleet_service.database.engine import make_engine, session_scope
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore
from unit.service.fleet_telemetry_builders import IMAGE, image_counters, telemetry

NAME = IMAGE.hex()
TOPIC = "fleet/v1/d/m4-a/telemetry"
BOOTS = 120
server = pytest.fixture(shared_server, scope="module")


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    if request.param == "sqlite":
        yield make_settings(tmp_path / "fleet", ingest_batch=20)
        return
    with postgres_database(request.getfixturevalue("server")) as url:
        yield make_settings(tmp_path / "fleet", ingest_batch=20, database_url=url)


def message(boot: int) -> bytes:
    """Each boot is a report of its own: a lost one would be missed, one counted twice would be noticed."""
    return telemetry(image_counters(inferences=1), boot=boot, report=1)


@contextmanager
def ingester_process(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    own = {"BROKER_PORT": settings.broker_port, "INGEST_BATCH": settings.ingest_batch}
    own |= {"DATABASE_URL": settings.database_url}
    process = subprocess.Popen(
        [sys.executable, "-m", "tinyfleet_service.serve", "ingest", "--data", str(settings.dirs.path)],
        env=os.environ | {f"TINYFLEET_{name}": str(value) for name, value in own.items()},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def counted(store: TelemetryStore) -> int:
    counters = store.read_counters(["m4-a"], NAME)
    return counters["m4-a"].inferences if counters else 0


def test_an_ingester_killed_with_9_loses_nothing_and_counts_nothing_twice(settings: Settings, tmp_path: Path) -> None:
    store = TelemetryStore(settings)
    with running_broker(settings) as pki, connected(settings, device_files(pki, "m4-a", tmp_path), "m4-a") as device:

        def subscribed() -> bool:
            device.publish(TOPIC, message(1))
            return counted(store) == 1

        with ingester_process(settings) as first:
            assert eventually(subscribed, 60)
            device.publish_all((TOPIC, message(boot), False, 1) for boot in range(2, BOOTS // 2))
            assert eventually(lambda: counted(store) > 1)
            first.kill()
        device.publish_all((TOPIC, message(boot), False, 1) for boot in range(BOOTS // 2, BOOTS + 1))
        with ingester_process(settings):
            assert eventually(lambda: counted(store) == BOOTS, 60)
    assert store.totals()[NAME].inferences == BOOTS
    store.close()


def test_postgresql_gives_up_whose_machine_is_gone_with_its_locks(server: str, tmp_path: Path) -> None:
    """Left to TCP a server keeps them for hours: the lease of a dead controller would be locked for its successor."""
    wanted = {"tcp_keepalives_idle": "10", "tcp_user_timeout": "30000", "idle_in_transaction_session_timeout": "5min"}
    settings = make_settings(tmp_path / "fleet", database_url=server)
    engine, store = make_engine(settings), TelemetryStore(settings)
    with session_scope(engine, read_only=True) as session, store.tables.reading():
        for name, value in wanted.items():
            assert session.connection().execute(text(f"SHOW {name}")).scalar_one() == value
            assert store.tables.query(f"SHOW {name}") == [(value,)]
    store.close()
    engine.dispose()


def test_a_crash_of_postgresql_is_waited_out(server: str, tmp_path: Path) -> None:
    with postgres_database(server) as url:
        settings = make_settings(tmp_path / "fleet", ingest_batch=20, database_url=url)
        store, stop = TelemetryStore(settings), threading.Event()
        with running_broker(settings) as pki:
            thread = threading.Thread(target=ingest.run, args=(settings, stop))
            thread.start()
            with connected(settings, device_files(pki, "m4-a", tmp_path), "m4-a") as device:

                def subscribed() -> bool:
                    device.publish(TOPIC, message(1))
                    return counted(store) == 1

                assert eventually(subscribed)
                store.close()
                device.publish_all((TOPIC, message(boot), False, 1) for boot in range(2, BOOTS // 2))
                crash_and_restart(server)
                device.publish_all((TOPIC, message(boot), False, 1) for boot in range(BOOTS // 2, BOOTS + 1))
                assert eventually(lambda: counted(store) == BOOTS, 60)
            stop.set()
            thread.join()
        assert store.totals()[NAME].inferences == BOOTS
        store.close()
