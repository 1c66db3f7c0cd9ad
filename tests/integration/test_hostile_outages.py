"""Broker, database and disk that go away under a working house: a clear error, nothing lost, and on it goes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration.fleet_database import CLASS, PROJECT
from integration.fleet_support import connected, eventually
from integration.hostile_world import WAIT_S, World, free_lease, model, running_world
from service_harness import Api, push_digits, running_api
from tinyfleet_ota import topics
from tinyfleet_service import ingest
from tinyfleet_service.controller import Controller
from tinyfleet_service.database.engine import make_engine, session_scope
from tinyfleet_service.database.models import Device, Rollout
from tinyfleet_service.errors import DatabaseUnavailableError, StorageError
from tinyfleet_service.maintenance import backup, examine
from tinyfleet_service.publish import read_retained
from tinyfleet_service.rollouts import make_plan, parse_spec, start_rollout
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore
from unit.service.fleet_telemetry_builders import IMAGE, image_counters, telemetry

pytestmark = pytest.mark.slow


@contextmanager
def in_background(work: Callable[[threading.Event], None]) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def working_house(world: World) -> Iterator[Controller]:
    """Controller and ingester at work, as `serve` runs them."""
    free_lease(world)
    control = Controller(world.settings, make_engine(world.settings))

    def ticks(stop: threading.Event) -> None:
        while not stop.wait(0.2):
            control.guarded_step()
        control.close()

    with in_background(ticks), in_background(lambda stop: ingest.run(world.settings, stop)):
        yield control


def start(world: World, version: str, name: str = "digits", **asked: object) -> int:
    spec = {"model": name, "version": model(version), "canary": "100%", "soak_s": 0, **asked}
    counts = {"min_inferences": 5, "confirm_min_inferences": 3, "confirm_timeout_s": 60}
    with session_scope(world.house.engine) as session:
        return start_rollout(session, make_plan(session, parse_spec(spec | counts))).id or 0


def state_of(world: World, rollout_id: int) -> str:
    with session_scope(world.house.engine, read_only=True) as session:
        row = session.get(Rollout, rollout_id)
        return row.state if row else ""


def test_a_broker_killed_with_all_it_retained_in_mid_rollout_is_restored_and_devices_finish(tmp_path: Path) -> None:
    with running_world(tmp_path) as world, working_house(world):
        fleet = world.start(count=3, rx_bytes_per_s=5000)
        devices = [event["device"] for event in fleet.wait("connected", 3)]
        rollout = start(world, "v1")
        fleet.wait("slot", to="WRITING")
        world.kill_broker()
        fleet.wait("disconnected", 3)
        fleet.wait("slot", 3, to="CONFIRMED")
        assert eventually(lambda: state_of(world, rollout) == "promoted", WAIT_S)
        with connected(world.settings, world.pki.service("svc-tool"), "svc-tool") as tool:
            assert eventually(lambda: all(read_retained(tool, topics.desired(device)) for device in devices))


# ---- the database


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Another process writes and does not end."""
    other = sqlite3.connect(settings.dirs.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextmanager
def damaged(settings: Settings) -> Iterator[None]:
    """The file holds nonsense until somebody puts the right one back."""
    path = settings.dirs.database
    away = path.with_suffix(".away")
    for suffix in ("", "-wal", "-shm"):
        part = Path(f"{path}{suffix}")
        if part.exists():
            part.rename(f"{away}{suffix}")
    path.write_bytes(b"this is no database " * 1000)
    try:
        yield
    finally:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
            if Path(f"{away}{suffix}").exists():
                Path(f"{away}{suffix}").rename(f"{path}{suffix}")


TROUBLES = {"locked": locked, "damaged": damaged}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr("tinyfleet_service.database.engine.BUSY_TIMEOUT_S", 0.1)
    with running_api(tmp_path / "data") as api:
        yield api


@pytest.mark.sqlite_only
@pytest.mark.parametrize("trouble", TROUBLES)
def test_the_api_says_that_the_database_is_away_and_goes_on_after_it(api: Api, trouble: str) -> None:
    pushed = push_digits(api.client())
    api.engine.dispose()
    with TROUBLES[trouble](api.settings):
        with pytest.raises(DatabaseUnavailableError) as caught:
            push_digits(api.client(), "v2")
        assert "try again" in caught.value.next
        assert api.client().health() == {"status": "ok"}
        api.engine.dispose()
    assert [version["version"] for version in api.client().model("digits")["versions"]] == ["v1"]
    assert push_digits(api.client())["id"] == pushed["id"]
    assert push_digits(api.client(), "v2")["version"] == "v2"


@pytest.mark.sqlite_only
@pytest.mark.parametrize("trouble", TROUBLES)
def test_the_controller_waits_for_its_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    monkeypatch.setattr("tinyfleet_service.database.engine.BUSY_TIMEOUT_S", 0.1)
    with running_world(tmp_path) as world:
        free_lease(world)
        control = Controller(world.settings, make_engine(world.settings))
        with session_scope(world.house.engine) as session:
            session.add(Device(id="m4-a", project_id=PROJECT, device_class=CLASS))
        try:
            assert control.step()
            control.engine.dispose()
            world.house.engine.dispose()
            with TROUBLES[trouble](world.settings):
                assert not control.guarded_step()
                assert not control.guarded_step()
                control.engine.dispose()
            assert "the database does not answer" in caplog.text
            assert control.guarded_step()
        finally:
            control.close()


# ---- the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a file system of its own needs root and the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
    try:
        yield
    finally:
        filler.unlink()


@pytest.mark.sqlite_only
def test_a_full_disk_refuses_what_is_new_keeps_what_is_there_and_heals(small_disk: Path, tmp_path: Path) -> None:
    with running_api(small_disk / "data") as api:
        push_digits(api.client())
        store = TelemetryStore(api.settings)
        report = [("m4-a", telemetry(image_counters(inferences=7), report=1))]
        store.ingest([("m4-a", telemetry(image_counters(inferences=1), report=0))])
        control = Controller(api.settings, make_engine(api.settings))
        control.connect_s = 0.1
        with full(small_disk):
            with pytest.raises(StorageError) as caught:
                push_digits(api.client(), "v2")
            assert "free disk space" in caught.value.next
            with pytest.raises(StorageError, match="free disk space"):
                store.ingest(report)
        with full(small_disk):  # to the brim again: giving up gave the telemetry's log back
            assert not control.guarded_step()
            assert [row["version"] for row in api.client().model("digits")["versions"]] == ["v1"]
            assert backup(api.settings, tmp_path / "fleet.tar") > 0, "to a disk with room"
            with pytest.raises(StorageError, match=r"full|No space left"):
                backup(api.settings, small_disk / "fleet.tar")
            assert [path.name for path in small_disk.iterdir() if "fleet" in path.name] == []
            (disk,) = [one for one in examine(api.settings) if one.check == "disk space"]
            assert disk.verdict == "fail"
        assert push_digits(api.client(), "v2")["version"] == "v2"
        assert store.ingest(report).stored == 1
        assert store.read_counters(["m4-a"], IMAGE.hex())["m4-a"].inferences == 7
        store.close()
        control.close()
        control.engine.dispose()
