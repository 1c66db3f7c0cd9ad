"""An operator's first day: the doctor, a backup that is restored under a fleet that moved on."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Engine

from integration.fleet_house import FleetHouse, make_house
from integration.fleet_support import free_port, running_broker
from integration.s3_support import s3, s3_url
from postgres import postgres_binaries, postgres_database, shared_server
from tinyfleet_ota import parse_assignment
from tinyfleet_ota.protocol import SlotState
from tinyfleet_service.cli.main import main
from tinyfleet_service.controller.process import Controller
from tinyfleet_service.database import migrate
from tinyfleet_service.database.engine import Lease, make_engine, session_scope
from tinyfleet_service.database.models import Build, Desired, DesiredEntry, Model, ModelVersion
from tinyfleet_service.database.object_blobs import open_blobs
from tinyfleet_service.devices import apply_state
from tinyfleet_service.errors import (
    ConflictError,
    CorruptError,
    InvalidInputError,
    SettingsError,
    StorageError,
)
from tinyfleet_service.maintenance import backup, examine, restore
from tinyfleet_service.maintenance.doctor import Finding, Verdict
from tinyfleet_service.publish import CONTROLLER_LEASE, assign
from tinyfleet_service.rollouts import thaw
from tinyfleet_service.serve.first_start import prepare
from tinyfleet_service.settings import Settings, load_settings
from unit.service.fleet_state_builders import slot, state

__all__ = ["s3", "s3_url"]  # fixtures
DEVICE = "m4-a"


def stamp(engine: Engine) -> None:
    """The house's tables are those of the newest migration; say so in the database."""
    with migrate._migrating(engine) as connection:
        command.stamp(migrate._config(connection), "head")


def give(house: FleetHouse, version: str) -> Desired:
    with session_scope(house.engine) as session:
        device, build = house.device(session, DEVICE), house.build(session, version)
        return assign(session, house.store, house.keys, device, build, SlotState.CONFIRMED, fence=house.fence)


def said_by_device(house: FleetHouse, version: str, sequence: int) -> bytes:
    slots = [slot(SlotState.CONFIRMED, house.image_id(version)), slot()]
    return state(slots=slots, active=0, sequence=sequence, nonce=b"\x07" * 8)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    yield from shared_server()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, int]:
    """A backup after v1, what the device says after v2 and more, and the sequence it has seen."""
    folder = tmp_path_factory.mktemp("saved")
    house = make_house(folder / "data")
    stamp(house.engine)
    give(house, "v1")
    house.report(DEVICE, "v1", sequence=1)
    backup(house.settings, folder / "backup.tar")
    said, seen = move_on(house)
    return folder / "backup.tar", said, seen


def move_on(house: FleetHouse) -> tuple[bytes, int]:
    """More assignments after the backup: what the device says then, and the sequence it has seen."""
    for version in ("v2", "v1", "v2"):
        last = give(house, version)
    house.engine.dispose()
    return said_by_device(house, "v2", last.sequence), last.sequence


@pytest.mark.sqlite_only
def test_after_a_restore_sequences_continue_above_the_fleets(saved: tuple[Path, bytes, int], tmp_path: Path) -> None:
    file, said, seen = saved
    found = restore(file, tmp_path / "data")
    assert found["frozen_projects"] == 1
    continues_above(load_settings(tmp_path / "data", broker_port=free_port()), said, seen)


def continues_above(settings: Settings, said: bytes, seen: int) -> None:
    """A frozen service, then a thawed one, and a device that followed more than its database knows."""
    engine = make_engine(settings)
    with session_scope(engine) as session:
        assert session.get_one(Desired, DEVICE).sequence < seen
        apply_state(session, DEVICE, said)
    controller = Controller(settings, engine)
    fence = Lease.acquire(engine, CONTROLLER_LEASE, "restored", 3600)
    assert fence
    controller._help_devices(fence)
    with session_scope(engine) as session:
        assert session.get_one(Desired, DEVICE).sequence < seen  # frozen: nobody is told anything
        thaw(session, 1, "operator")
    controller._help_devices(fence)
    controller._help_devices(fence)
    with session_scope(engine, read_only=True) as session:
        desired = session.get_one(Desired, DEVICE)
        assignment = parse_assignment(desired.payload, controller.keys.known)
        version = session.get_one(
            ModelVersion, session.get_one(Build, session.get_one(DesiredEntry, (DEVICE, "model/0")).build_id).version_id
        ).version
    assert (assignment.sequence, version) == (seen + 1, "v1")  # once, above the fleet's, what the database wants
    assert assignment.nonce == b"\x07" * 8  # and fresh for this device
    engine.dispose()


def test_a_restored_postgresql_continues_above_the_fleets_sequences(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the operator guide says: pg_dump beside `backup --without-database`, pg_restore before `restore`."""
    with postgres_database(postgres) as lost, postgres_database(postgres) as fresh:
        house = make_house(tmp_path / "old", database_url=lost)
        stamp(house.engine)
        give(house, "v1")
        house.report(DEVICE, "v1", sequence=1)
        postgres_tool("pg_dump", "-Fc", "-f", tmp_path / "fleet.dump", plain(lost))
        backup(house.settings, tmp_path / "backup.tar", database=False)
        said, seen = move_on(house)
        postgres_tool("pg_restore", "--exit-on-error", "-d", plain(fresh), tmp_path / "fleet.dump")
        with pytest.raises(SettingsError, match="which database"):
            restore(tmp_path / "backup.tar", tmp_path / "data", database=True)
        monkeypatch.setenv("TINYFLEET_DATABASE_URL", fresh)
        assert restore(tmp_path / "backup.tar", tmp_path / "data", database=True)["frozen_projects"] == 1
        continues_above(load_settings(tmp_path / "data", broker_port=free_port()), said, seen)


def plain(url: str) -> str:
    return url.replace("postgresql+psycopg:", "postgresql:")


def postgres_tool(name: str, *arguments: object) -> None:
    binaries = postgres_binaries()
    assert binaries is not None
    subprocess.run([binaries / name, *map(str, arguments)], check=True)


@pytest.mark.sqlite_only
def test_blobs_in_a_bucket_are_decided_about(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked, copied, and put into the bucket that the restored settings name; or left, which restore says."""
    s3 += "/backup"  # the server is shared
    here = load_settings(tmp_path / "data", blobs=s3)
    prepare(here)
    (here.data / "settings.toml").write_text(f'blobs = "{s3}"\n')
    digests = [open_blobs(here).put(f"blob {n}".encode()) for n in range(3)]
    with pytest.raises(SettingsError, match="no whole backup; --with-blobs copies them"):
        backup(here, tmp_path / "b.tar")
    backup(here, tmp_path / "left.tar", blobs=False)
    assert restore(tmp_path / "left.tar", tmp_path / "left")["blobs_left_in"] == s3
    count = backup(here, tmp_path / "whole.tar", blobs=True)
    assert count == backup(here, tmp_path / "again.tar", blobs=False) + 3
    for digest in digests[1:]:
        open_blobs(here).delete(digest)
    assert restore(tmp_path / "whole.tar", tmp_path / "new")["blobs_left_in"] == ""
    store = open_blobs(load_settings(tmp_path / "new"))
    assert [store.get(digest) for digest in digests] == [b"blob 0", b"blob 1", b"blob 2"]
    assert sorted(store.digests()) == sorted(digests)  # type: ignore[attr-defined]
    assert list((tmp_path / "new" / "blobs").glob("??/*")) == []
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("tinyfleet_service.database.object_blobs.PATIENCE", timedelta(seconds=1))
    for work in (
        lambda: backup(here, tmp_path / "away.tar", blobs=True),
        lambda: restore(tmp_path / "whole.tar", tmp_path / "away"),
    ):
        with pytest.raises(StorageError, match="does not answer"):
            work()
    assert not (tmp_path / "away.tar").exists()
    assert not (tmp_path / "away.tar.new").exists()
    assert not (tmp_path / "away").exists()
    with pytest.raises(SettingsError, match="in the data directory"):
        backup(load_settings(tmp_path / "left").model_copy(update={"blobs": ""}), tmp_path / "c.tar", blobs=False)


@pytest.mark.sqlite_only
def test_a_restored_installation_is_whole(saved: tuple[Path, bytes, int], tmp_path: Path) -> None:
    file, _, _ = saved
    restore(file, tmp_path / "data")
    settings = load_settings(tmp_path / "data", broker_port=free_port())
    verdicts = {finding.check: finding.verdict for finding in examine(settings)}
    for check in ("data directory", "database", "director key", "blobs"):
        assert verdicts[check] == Verdict.OK, check
    assert verdicts["freeze"] == Verdict.WARN
    assert (settings.dirs.keys / "passphrase").stat().st_mode & 0o77 == 0
    assert file.stat().st_mode & 0o77 == 0


@pytest.mark.sqlite_only
@pytest.mark.parametrize("lost", ["keys", "keys/root-1.cbor"])
def test_a_start_beside_devices_makes_no_keys(saved: tuple[Path, bytes, int], tmp_path: Path, lost: str) -> None:
    settings = load_settings(tmp_path / "data", public_host="localhost")
    restore(saved[0], settings.data)
    path = settings.data / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(SettingsError, match="restore the keys folder from a backup"):
        prepare(settings)
    assert not list(settings.dirs.keys.glob("root-*"))
    shutil.rmtree(settings.dirs.keys)
    restore(saved[0], tmp_path / "copy")
    shutil.copytree(tmp_path / "copy" / "keys", settings.dirs.keys)
    prepare(settings)


def changed(file: Path, target: Path, change: Any) -> Path:
    """A copy of a backup whose members went through `change(name, data) -> [(name, data)]`."""
    with tarfile.open(file) as old, tarfile.open(target, "w") as new:
        for entry in old.getmembers():
            source = old.extractfile(entry)
            assert source
            for name, data in change(entry.name, source.read()):
                copy = tarfile.TarInfo(name)
                copy.size = len(data)
                new.addfile(copy, io.BytesIO(data))
    return target


def flipped(name: str, data: bytes) -> list[tuple[str, bytes]]:
    return [(name, bytes([data[0] ^ 1]) + data[1:] if name.startswith("keys/director") else data)]


def without_database(name: str, data: bytes) -> list[tuple[str, bytes]]:
    return [] if name == "tinyfleet.db" else [(name, data)]


def climbing(name: str, data: bytes) -> list[tuple[str, bytes]]:
    if name != "backup.json":
        return [(name, data)]
    document = json.loads(data)
    document["files"]["keys/../../evil"] = "0" * 64
    return [(name, json.dumps(document).encode()), ("keys/../../evil", b"")]


def of_another_format(name: str, data: bytes) -> list[tuple[str, bytes]]:
    return [(name, data.replace(b'"format": 1', b'"format": 99') if name == "backup.json" else data)]


def without_manifest(name: str, data: bytes) -> list[tuple[str, bytes]]:
    return [] if name == "backup.json" else [(name, data)]


@pytest.mark.sqlite_only
@pytest.mark.parametrize("change", [flipped, without_database, climbing, of_another_format, without_manifest])
def test_a_backup_that_is_not_whole_restores_nothing(
    saved: tuple[Path, bytes, int], tmp_path: Path, change: Any
) -> None:
    file = changed(saved[0], tmp_path / "changed.tar", change)
    with pytest.raises((CorruptError, InvalidInputError)):
        restore(file, tmp_path / "data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed.tar"]


@pytest.mark.sqlite_only
@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_a_backup_of_nothing_is_none(tmp_path: Path, folder: str) -> None:
    with pytest.raises(SettingsError, match="holds no service"):
        backup(load_settings(tmp_path / folder), tmp_path / "fleet.tar")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.sqlite_only
def test_a_data_directory_may_have_any_name(tmp_path: Path) -> None:
    settings = load_settings(tmp_path / "Müller #1 100%25 (a?b)" / "fleet")
    prepare(settings)
    assert settings.dirs.database.is_file()
    backup(settings, tmp_path / "what?.tar")
    assert restore(tmp_path / "what?.tar", tmp_path / "again #2?")["frozen_projects"] == 1


@pytest.mark.sqlite_only
def test_a_database_that_cannot_be_read_is_no_backup(tmp_path: Path) -> None:
    settings = load_settings(tmp_path / "data")
    settings.dirs.create()
    settings.dirs.database.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 64)
    with pytest.raises(StorageError, match="cannot copy the databases") as caught:
        backup(settings, tmp_path / "fleet.tar")
    assert "fleetctl doctor" in caught.value.next
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.sqlite_only
def test_a_cut_file_and_a_full_directory_are_refused(saved: tuple[Path, bytes, int], tmp_path: Path) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes(saved[0].read_bytes()[:-20_000])
    with pytest.raises((CorruptError, InvalidInputError)):
        restore(cut, tmp_path / "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("precious")
    with pytest.raises(ConflictError, match="not empty"):
        restore(saved[0], tmp_path / "data")
    with pytest.raises(ConflictError):
        backup(load_settings(tmp_path), saved[0])
    with pytest.raises(SettingsError, match="pg_dump"):
        backup(Settings(data=tmp_path, database_url="postgresql+psycopg://x/y"), tmp_path / "b.tar")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = load_settings(tmp_path_factory.mktemp("installed"), broker_port=free_port(), public_host="localhost")
    prepare(settings)
    return settings


def findings(settings: Settings) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(settings)}


def test_the_doctor_finds_a_running_installation_well(installed: Settings) -> None:
    engine = make_engine(installed)
    for name in (CONTROLLER_LEASE, "webhooks"):
        assert Lease.acquire(engine, name, "test", 3600)
    with running_broker(installed):
        found = examine(installed)
    for name in (CONTROLLER_LEASE, "webhooks"):
        Lease.release(engine, name, "test")
    engine.dispose()
    assert [f for f in found if f.verdict == Verdict.FAIL] == []
    assert {"broker", "retained messages", "leases", "clock", "disk space"} <= {f.check for f in found}


def test_the_doctor_says_what_is_wrong_and_what_to_do(installed: Settings) -> None:
    found = findings(installed)
    assert (found["broker"].verdict, "fleetctl serve" in found["broker"].next) == (Verdict.FAIL, True)
    assert (found["leases"].verdict, "log/" in found["leases"].next) == (Verdict.FAIL, True)
    for finding in found.values():
        assert finding.next or finding.verdict == Verdict.OK, finding


@pytest.mark.parametrize(
    ("path", "check"),
    [("keys/director.key", "director key"), ("pki/ca.key", "certificates"), ("keys/root-1.cbor", "director key")],
)
def test_the_doctor_names_a_damaged_file(installed: Settings, path: str, check: str) -> None:
    file = installed.dirs.path / path
    kept = file.read_bytes()
    file.write_bytes(b"damaged")
    try:
        assert findings(installed)[check].verdict == Verdict.FAIL
    finally:
        file.write_bytes(kept)
    assert findings(installed)[check].verdict == Verdict.OK


def test_the_doctor_sees_open_secrets_lost_blobs_and_an_old_schema(installed: Settings) -> None:
    engine = make_engine(installed)
    installed.dirs.keys.chmod(0o755)
    with session_scope(engine) as session:
        session.add(Model(id=5, project_id=1, name="lost"))
        session.flush()
        session.add(ModelVersion(id=5, model_id=5, version="v1", model_sha256="", model_bytes=0))
        session.flush()
        session.add(Build(version_id=5, device_class="cortex-m4", image_sha256="0" * 64))
    found = findings(installed)
    assert "chmod 700" in found["data directory"].next
    assert "1 of 1" in found["blobs"].found
    installed.dirs.keys.chmod(0o700)
    migrate.downgrade(engine, "0004")
    assert findings(installed)["database"].verdict == Verdict.FAIL
    migrate.upgrade(engine)
    engine.dispose()


def test_the_doctor_on_the_command_line(installed: Settings) -> None:
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit) as ended:
        main(["--data", str(installed.data), "doctor", "-o", "json"])
    assert ended.value.code == 1
    assert {"check", "verdict", "found", "next"} == set(json.loads(printed.getvalue())[0])
