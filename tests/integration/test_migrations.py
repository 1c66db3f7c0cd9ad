"""Migrations forward and back, with data, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Event as Signal
from typing import Any

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlmodel import Session, SQLModel, select

from postgres import postgres_binaries, postgres_server
from tinyfleet_ota.protocol import SlotState
from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.pki import Pki
from tinyfleet_service.database.device_index import read_counts
from tinyfleet_service.database.engine import Lease, check_fence, make_engine, session_scope
from tinyfleet_service.database.migrate import check_schema, downgrade, upgrade
from tinyfleet_service.database.models import (
    Build,
    Desired,
    DesiredEntry,
    Device,
    DeviceChange,
    DeviceGroup,
    DeviceTag,
    Event,
    GroupMember,
    Model,
    ModelVersion,
    Project,
    Rollout,
    SnapshotPage,
    StableBuild,
    TransferBlob,
    utc_now,
)
from tinyfleet_service.devices import apply_state, requests, select_devices
from tinyfleet_service.errors import DatabaseUnavailableError, LeaseLostError, SettingsError
from tinyfleet_service.rollouts.frozen import Frozen, decode
from tinyfleet_service.settings import load_settings
from unit.service.fleet_state_builders import slot, state
from unit.service.frozen_builders import columns_of, nothing


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    if postgres_binaries() is None:
        pytest.skip("PostgreSQL server binaries are not installed (Debian package postgresql)")
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    settings = load_settings(tmp_path, database_url=url)
    settings.dirs.create()
    engine = make_engine(settings)
    yield engine
    with engine.begin() as connection:
        SQLModel.metadata.drop_all(connection)
        connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
    engine.dispose()


def fill(engine: Engine) -> None:
    with session_scope(engine) as session:
        project = Project(name="p")
        session.add(project)
        session.flush()
        model = Model(project_id=project.id, name="digits")
        session.add(model)
        session.flush()
        version = ModelVersion(
            model_id=model.id, version="v1", model_sha256="0" * 64, model_bytes=1, lineage={"a": [1]}
        )
        session.add(version)
        session.flush()
        build = Build(version_id=version.id, device_class="host", manifest=b"\x00\xff", report={"x": 1.5})
        session.add(build)
        session.add(Device(id="d-1", project_id=project.id, device_class="host", tags={"site": "lyon"}))
        session.flush()
        session.add(StableBuild(project_id=project.id, device_class="host", build_id=build.id))
        group = DeviceGroup(project_id=project.id, name="line-2", devices=1)
        session.add(group)
        session.flush()
        session.add(GroupMember(group_id=group.id, device_id="d-1"))


def test_upgrade_creates_what_the_models_say(engine: Engine) -> None:
    upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_upgrade_twice_keeps_the_data(engine: Engine) -> None:
    upgrade(engine)
    fill(engine)
    upgrade(engine)
    with session_scope(engine) as session:
        build = session.exec(select(Build)).one()
        assert (build.manifest, build.report, build.state) == (b"\x00\xff", {"x": 1.5}, "queued")
        assert build.created_at.utcoffset() == timedelta(0)
        assert abs(utc_now() - build.created_at) < timedelta(minutes=5)


def test_a_migration_waits_for_who_is_writing(engine: Engine) -> None:
    """On SQLite one that had read before it wrote was refused: two that started at once, for example."""
    upgrade(engine, "0001")
    begun = Signal()

    def write() -> None:
        with session_scope(engine) as session:
            session.connection().execute(text("INSERT INTO lease VALUES ('a', 'b', CURRENT_TIMESTAMP, 1)"))
            begun.set()
            time.sleep(0.2)  # meanwhile the migration reads which revision there is

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        assert begun.wait(30)
        upgrade(engine)
        writer.result()
    fill(engine)


def test_a_database_that_is_away_is_said_so(tmp_path: Path) -> None:
    with socket.socket() as taken:  # nobody listens there
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql+psycopg://somebody@127.0.0.1:{taken.getsockname()[1]}/fleet"
        with pytest.raises(DatabaseUnavailableError, match="does not answer"):
            upgrade(make_engine(load_settings(tmp_path, database_url=url)))


def test_downgrade_and_upgrade_with_data(engine: Engine) -> None:
    upgrade(engine)
    fill(engine)
    downgrade(engine, "base")
    assert set(inspect(engine).get_table_names()) <= {"alembic_version"}
    upgrade(engine)
    fill(engine)
    with session_scope(engine) as session:
        assert session.exec(select(Device)).one().tags == {"site": "lyon"}
        assert [device.id for device in select_devices(session, "group=line-2", project_id=1)] == ["d-1"]


def test_classes_of_a_group_are_counted(engine: Engine) -> None:
    """Revision 0018."""
    upgrade(engine)
    fill(engine)
    downgrade(engine, "0017")
    upgrade(engine)
    with session_scope(engine) as session:
        assert [group.by_class for group in session.exec(select(DeviceGroup))] == [{"host": 1}]


def test_changes_of_devices_never_run_out_of_numbers(engine: Engine) -> None:
    """Revision 0019. Each state of a device takes one: 2^31 of them last a million devices for weeks."""
    upgrade(engine)
    last = (1 << 31) - 1
    with session_scope(engine) as session:
        session.connection().execute(text(f"INSERT INTO device_change (id, device_id) VALUES ({last}, 'd-0')"))
        if engine.dialect.name == "postgresql":
            session.connection().execute(text(f"SELECT setval('device_change_id_seq', {last})"))
    fill(engine)
    with session_scope(engine) as session:
        assert session.exec(select(DeviceChange.id).order_by(DeviceChange.id)).all() == [last, last + 1]
    downgrade(engine, "0018")
    upgrade(engine)
    with session_scope(engine) as session:
        assert sorted(session.exec(select(DeviceChange.device_id))) == ["d-0", "d-1"]


def test_groups_go_on_the_way_back_and_the_devices_stay(engine: Engine) -> None:
    upgrade(engine)
    fill(engine)
    downgrade(engine, "0010")
    assert not {"device_group", "group_member"} & set(inspect(engine).get_table_names())
    upgrade(engine)
    with session_scope(engine) as session:
        assert session.exec(select(Device.id)).all() == ["d-1"]
        assert session.exec(select(DeviceGroup)).all() == []


def snapshot_pages(engine: Engine) -> list[tuple[Any, ...]]:
    with session_scope(engine, read_only=True) as session:
        pages = session.exec(select(SnapshotPage).order_by(SnapshotPage.kind, SnapshotPage.arm)).all()
    found = [(page, decode(page.columns)) for page in pages]
    return [
        (page.kind, page.arm, page.look, page.image_id, page.taken_at, frozen.devices,
         {name: column.tolist() for name, column in sorted(frozen.columns.items())})
        for page, frozen in found
    ]  # fmt: skip


def test_pages_of_counters_become_rows_and_pages_again(engine: Engine) -> None:
    """Revision 0015."""
    upgrade(engine)
    fill(engine)
    many = {**nothing(), "labelled": 2**40, "shadow_pairs": [1, 2, 300, 4], "latency": {"40": 7}}
    counted = columns_of([many, {**nothing(), "latency": {"9": 1}}])
    flags = {name: np.array([True, False]) for name in ("silent", "failed")}
    pages = (("activation", "canary", 0, {**counted, **flags, "started_us": np.array([1_800_000_000_000_001, 7])}),
             ("look", "control", 1, {**counted, **flags, "heard": flags["silent"], "at_risk_s": np.array([0.1, 1e9])}),
             ("late", "canary", 1, counted), ("taken", "canary", 1, {"silent": flags["silent"]}))  # fmt: skip
    with session_scope(engine) as session:
        session.add(Rollout(id=1, project_id=1, version_id=1, salt="s", created_by="me", spec={}, plan={}))
        session.flush()
        for kind, arm, look, columns in pages:
            data = Frozen(("d-1", "d-2"), columns).encode()
            session.add(SnapshotPage(rollout_id=1, stage="canary", look=look, arm=arm, kind=kind, image_id="a" * 32,
                                     devices=2, columns=data))  # fmt: skip
    stored = snapshot_pages(engine)
    downgrade(engine, "0014")
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT device_id, counters FROM counter_snapshot WHERE kind = 'activation'"))
        counters = {
            row.device_id: json.loads(row.counters) if isinstance(row.counters, str) else row.counters for row in rows
        }
    before = {name: many[name] for name in many if name not in ("predicted", "confidence")}  # which 0014 did not keep
    flagged = {"silent": True, "failed": True, "started_at": "2027-01-15T08:00:00.000001+00:00"}
    assert counters["d-1"] == before | flagged
    upgrade(engine)
    assert snapshot_pages(engine) == stored


def test_counts_and_tags_are_made_from_the_devices_that_were_there(engine: Engine) -> None:
    """Revision 0010 fills its tables as the writes since would have."""
    upgrade(engine)
    fill(engine)
    images = (b"\xa0" * 16, b"\xa1" * 16)
    with session_scope(engine) as session:
        session.add(Project(id=2, name="q"))
        session.flush()
        for n in range(7):
            tags = {"site": "lyon", "line": str(n)} if n % 2 else {}
            session.add(Device(id=f"m4-{n}", project_id=1 + n % 2, device_class="cortex-m4", tags=tags))
        session.flush()
        for n, second in enumerate((SlotState.WRITING, SlotState.CONFIRMED, SlotState.EMPTY, SlotState.SHADOW)):
            slots = [slot(SlotState.CONFIRMED, images[0]), slot(second, images[1])]
            apply_state(session, f"m4-{n}", state(slots=slots, active=n % 2))
        apply_state(session, "m4-6", state(device_class="another"))  # quarantined
    before = counts_and_tags(engine)
    assert {"updating", "slot", "image", "state", "class"} == set(before[0][1])
    downgrade(engine, "0009")
    assert not {"fleet_count", "device_tag"} & set(inspect(engine).get_table_names())
    upgrade(engine)
    assert counts_and_tags(engine) == before
    with session_scope(engine) as session:
        assert {device.needs_help for device in session.exec(select(Device))} == {True}


def counts_and_tags(engine: Engine) -> tuple[list[dict[str, dict[str, int]]], list[tuple[str, str, int, str]]]:
    with session_scope(engine) as session:
        rows = session.exec(select(DeviceTag.device_id, DeviceTag.name, DeviceTag.project_id, DeviceTag.value))
        return [read_counts(session, project) for project in (1, 2)], sorted(map(tuple, rows))


def test_a_model_that_was_there_goes_by_the_defaults_and_a_policy_goes_on_the_way_back(engine: Engine) -> None:
    """Revision 0017."""
    upgrade(engine)
    fill(engine)
    with session_scope(engine) as session:
        session.exec(select(Model)).one().gates = {"accuracy": "proxy"}
    downgrade(engine, "0016")
    assert "gates" not in {column["name"] for column in inspect(engine).get_columns("model")}
    upgrade(engine)
    with session_scope(engine) as session:
        model = session.exec(select(Model)).one()
        assert (model.name, model.component, model.gates) == ("digits", "model/0", {})
        assert session.exec(select(ModelVersion)).one().model_id == model.id


def test_device_keys_come_from_the_certificates_and_encrypted_blobs_go_on_the_way_back(
    engine: Engine, tmp_path: Path
) -> None:
    upgrade(engine)
    fill(engine)
    key, pki = x.new_key().public_key(), Pki.create(load_settings(tmp_path / "pki"))
    pem = x.certificate_pem(pki.issue_device("d-1", key)).decode()
    with session_scope(engine) as session:
        session.add(Event(project_id=1, device_id="d-1", kind="enrolled", detail={"serial": "1", "certificate": pem}))
        blobs = [TransferBlob(sha256=str(n), blob_bytes=1, codec=1, image_sha256="i", encrypted=n > 0) for n in (0, 1)]
        session.add_all(blobs)
        session.add(Device(id="d-2", project_id=1, device_class="host"))
        session.flush()
        for device, blob in zip(("d-1", "d-2"), blobs, strict=True):
            give(session, device, blob.id, "model/0")
    downgrade(engine, "0001")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT device_id FROM desired")).scalars().all() == ["d-1"]
        assert connection.execute(text("SELECT sha256 FROM transfer_blob")).scalars().all() == ["0"]
    upgrade(engine)
    with session_scope(engine) as session:
        assert session.get_one(Device, "d-1").public_key == requests.point_of(key)
        assert session.get_one(Device, "d-2").public_key is None
        assert session.exec(select(TransferBlob)).one().encrypted is False


def give(session: Session, device: str, blob_id: int | None, *components: str) -> None:
    """Store an assignment with an entry for each component."""
    session.add(Desired(device_id=device, sequence=7, director_epoch=1, payload=b"x"))
    session.flush()
    entry = {"device_id": device, "build_id": 1, "until": 6, "blob_id": blob_id, "sequence": 7, "wrapped_for": b"key"}
    session.add_all(DesiredEntry(component=component, **entry) for component in components)


def test_what_a_device_shall_run_becomes_an_entry_and_comes_back_unless_there_are_several(engine: Engine) -> None:
    """Revision 0014."""
    upgrade(engine)
    fill(engine)
    with session_scope(engine) as session:
        session.add(TransferBlob(id=1, sha256="0", blob_bytes=1, codec=1, image_sha256="i"))
        session.add(Device(id="d-2", project_id=1, device_class="host"))
        session.flush()
        give(session, "d-1", 1, "model/1")
    downgrade(engine, "0013")
    columns = "component, build_id, until, blob_id, rollout_id, wrapped_for, sequence, payload"
    with engine.connect() as connection:
        row = connection.execute(text(f"SELECT {columns} FROM desired")).one()
    assert tuple(row) == ("model/1", 1, 6, 1, None, b"key", 7, b"x")
    upgrade(engine)
    with session_scope(engine) as session:
        entry = session.exec(select(DesiredEntry)).one()
        assert (entry.device_id, entry.component, entry.sequence, entry.wrapped_for) == ("d-1", "model/1", 7, b"key")
        assert entry.since == session.exec(select(Desired)).one().assigned_at
        give(session, "d-2", 1, "model/0", "model/1")
    with pytest.raises(SettingsError, match="1 devices are assigned several components") as caught:
        downgrade(engine, "0013")
    assert "backup" in caught.value.next
    with session_scope(engine) as session:
        assert len(session.exec(select(DesiredEntry)).all()) == 3, "nothing was changed"


def test_newer_database_is_refused_untouched(engine: Engine) -> None:
    upgrade(engine)
    fill(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SettingsError, match="newer tinyfleet"):
        upgrade(engine)
    with session_scope(engine) as session:
        assert len(session.exec(select(Build)).all()) == 1


def test_a_process_refuses_a_schema_that_is_not_its_own(engine: Engine) -> None:
    check_schema(engine)  # nobody migrated it: that is said by what is missing
    upgrade(engine, "0010")
    with pytest.raises(SettingsError, match="schema 0010"):
        check_schema(engine)
    upgrade(engine)
    check_schema(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SettingsError, match="schema 9999"):
        check_schema(engine)


def test_lease_moves_only_when_free_and_fences_the_old_owner(engine: Engine) -> None:
    upgrade(engine)
    first = Lease.acquire(engine, "controller", "a", 60)
    assert first == 1
    assert Lease.acquire(engine, "controller", "a", 60) == first
    assert Lease.acquire(engine, "controller", "b", 60) is None
    Lease.release(engine, "controller", "b")
    assert Lease.acquire(engine, "controller", "b", 60) is None
    Lease.release(engine, "controller", "a")
    second = Lease.acquire(engine, "controller", "b", 60)
    assert second == 2
    with session_scope(engine) as session:
        check_fence(session, "controller", second)
    with pytest.raises(LeaseLostError):
        write_under_fence(engine, first)
    with session_scope(engine) as session:
        assert session.exec(select(Project)).all() == []


def test_a_lease_from_before_the_clock_was_set_back_holds_nobody_off(engine: Engine) -> None:
    """Its owner died: without a look at its end the next one would wait until the clock is there again."""
    upgrade(engine)
    first = Lease.acquire(engine, "controller", "a", 86400 + 60)
    assert Lease.acquire(engine, "controller", "b", 60) == (first or 0) + 1
    assert Lease.acquire(engine, "controller", "c", 60) is None
    assert Lease.acquire(engine, "controller", "c", 40) is None, "a little longer is no clock that was set back"
    with pytest.raises(LeaseLostError):
        write_under_fence(engine, first or 0)


def write_under_fence(engine: Engine, fence: int) -> None:
    with session_scope(engine) as session:
        session.add(Project(name="written by the old owner"))
        check_fence(session, "controller", fence)
