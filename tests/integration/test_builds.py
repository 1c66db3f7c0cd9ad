"""Builds: queued per class, leased, compiled in a pool, signed; nothing is lost when a builder dies."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import col, select

from service_harness import push_unserved as push
from tinyfleet_compiler import read_image
from tinyfleet_ota import parse_release
from tinyfleet_service.auth import ensure_project
from tinyfleet_service.builder.process import Builder
from tinyfleet_service.builder.workers import PoolWorkers
from tinyfleet_service.builds import (
    CompileOutcome,
    finish_build,
    lease_build,
    read_notes,
    renew_builds,
    sign_waiting,
)
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import make_engine, session_scope
from tinyfleet_service.database.models import Build, BuildState, Event, utc_now
from tinyfleet_service.errors import StateConflictError
from tinyfleet_service.keys import load_signer
from tinyfleet_service.registry import add_device_class, device_class_toml
from tinyfleet_service.serve.first_start import prepare
from tinyfleet_service.settings import Settings, load_settings

PATIENCE_S = 300.0


def make_settings(data: Path) -> Settings:
    settings = load_settings(data, poll_s=0.05, device_classes="cortex-m4,host", builder_workers=1)
    prepare(settings)
    return settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings)
    yield engine
    engine.dispose()


def builds(engine: Engine) -> list[Build]:
    with session_scope(engine, read_only=True) as session:
        return list(session.exec(select(Build).order_by(col(Build.id))).all())


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until, "nothing happened in time"
        time.sleep(0.05)


def build_all(engine: Engine, settings: Settings) -> list[Build]:
    builder = Builder(settings, engine)
    open_states = (BuildState.QUEUED, BuildState.RUNNING)
    try:
        wait_for(lambda: not builder.step() and all(b.state not in open_states for b in builds(engine)))
    finally:
        builder.close()
    return builds(engine)


def test_a_push_becomes_signed_images(engine: Engine, settings: Settings) -> None:
    push(engine, settings)
    store = BlobStore(settings.dirs.blobs)
    release = load_signer(settings, "release")
    for build in build_all(engine, settings):
        assert (build.state, build.error, build.attempt) == ("ready", None, 1)
        image = store.get(build.image_sha256)
        assert read_image(image).name == "digits"
        assert len(build.sections) == len(read_image(image).sections)
        assert build.report["accuracy"]["quantized"] > 0.9
        assert b"<html" in store.get(build.report_html_sha256).lower()
        signed = parse_release(build.manifest, [release.public_key])
        assert signed.image_digest.hex() == build.image_sha256
        assert (signed.release_counter, signed.version) == (build.release_counter, "v1")
        assert hashlib.sha256(build.manifest).hexdigest() == build.manifest_sha256
    with session_scope(engine) as session:
        kinds = [event.kind for event in session.exec(select(Event)).all()]
        said = [note.text for note in read_notes(session, 1)]
    assert kinds.count("build.ready") == 2
    assert said[0].startswith("attempt 1, by builder-")
    assert said[1].startswith("imported model.onnx: ")
    assert "bytes of image" in said[-2]
    assert said[-1] == "ready"


def test_release_counters_follow_the_pushes(engine: Engine, settings: Settings) -> None:
    for version in ("v1", "v2", "v3"):
        push(engine, settings, version)
    assert [build.release_counter for build in builds(engine)] == [1, 2, 3, 4, 5, 6]


def test_a_class_too_small_is_a_misfit_with_its_reason(engine: Engine, settings: Settings) -> None:
    small = device_class_toml("cortex-m4").replace('"cortex-m4"', '"tiny"', 1).replace("131072", "128")
    with session_scope(engine) as session:
        add_device_class(session, ensure_project(session, settings.project).id, small)
    push(engine, settings)
    found = {build.device_class: build for build in build_all(engine, settings)}
    assert found["tiny"].state == "misfit"
    assert "arena needs" in found["tiny"].error
    assert found["tiny"].manifest is None
    assert found["cortex-m4"].state == "ready"


def test_a_compiler_error_reaches_the_person_who_pushed(engine: Engine, settings: Settings) -> None:
    push(engine, settings, model=b"no model at all")
    for build in build_all(engine, settings):
        assert build.state == "failed"
        assert build.error.startswith("model.onnx is not an ONNX model")
        assert build.error.endswith("export it again")


def test_without_a_release_key_builds_wait_for_the_signature(engine: Engine, settings: Settings) -> None:
    key = settings.dirs.keys / "release.key"
    away = key.rename(key.with_suffix(".away"))
    push(engine, settings)
    assert {build.state for build in build_all(engine, settings)} == {"awaiting-signature"}
    away.rename(key)
    signer = load_signer(settings, "release")
    assert sign_waiting(engine, BlobStore(settings.dirs.blobs), signer) == 2
    assert sign_waiting(engine, BlobStore(settings.dirs.blobs), signer) == 0
    assert {build.state for build in builds(engine)} == {"ready"}


def test_a_build_that_cannot_be_signed_keeps_no_other_waiting(engine: Engine, settings: Settings) -> None:
    """Its image is lost."""
    key = settings.dirs.keys / "release.key"
    away = key.rename(key.with_suffix(".away"))
    push(engine, settings)
    lost, _ = build_all(engine, settings)
    BlobStore(settings.dirs.blobs).delete(lost.image_sha256 or "")
    away.rename(key)
    push(engine, settings, "v2")
    assert [build.state for build in build_all(engine, settings)] == ["awaiting-signature", "ready", "ready", "ready"]


def test_a_release_key_that_cannot_be_used_costs_no_compile(engine: Engine, settings: Settings) -> None:
    key = settings.dirs.keys / "release.key"
    kept = key.read_bytes()
    key.write_bytes(b"no key")
    push(engine, settings)
    builder = Builder(settings, engine)
    try:
        wait_for(lambda: not builder.guarded_step() and {b.state for b in builds(engine)} == {"awaiting-signature"})
        key.write_bytes(kept)
        wait_for(lambda: not builder.guarded_step() and {b.state for b in builds(engine)} == {"ready"})
    finally:
        builder.close()


def test_a_result_that_comes_after_the_lease_moved_is_dropped(engine: Engine, settings: Settings) -> None:
    push(engine, settings)
    store = BlobStore(settings.dirs.blobs)
    first = lease_build(engine, "slow", settings)
    with session_scope(engine) as session:
        session.get(Build, first.id).lease_until = utc_now() - timedelta(seconds=1)
    second = lease_build(engine, "quick", settings)
    assert (second.id, second.attempt) == (first.id, 2)
    assert renew_builds(engine, "slow", [first.id], settings) == set()
    stale = CompileOutcome(BuildState.FAILED, error="from the slow one")
    assert not finish_build(engine, store, "slow", first.id, stale)
    assert finish_build(engine, store, "quick", first.id, CompileOutcome(BuildState.MISFIT, error="too big"))
    assert builds(engine)[0].error == "too big"


def test_a_build_that_kills_its_builders_fails_at_last(engine: Engine, settings: Settings) -> None:
    push(engine, settings)
    seen = []
    for number in range(2 * settings.build_attempts + 1):
        build = lease_build(engine, f"dies-{number}", settings)
        seen.append(build and build.id)
        with session_scope(engine) as session:
            for row in session.exec(select(Build).where(Build.state == BuildState.RUNNING)).all():
                row.lease_until = utc_now() - timedelta(seconds=1)
    assert seen[-1] is None
    assert all(b.state == "failed" and "died 3 times" in b.error for b in builds(engine))


def test_a_worker_that_dies_is_replaced(engine: Engine, settings: Settings) -> None:
    push(engine, settings)
    builder = Builder(settings, engine)
    try:
        builder.step()
        assert isinstance(builder.workers, PoolWorkers)
        wait_for(lambda: bool(builder.workers.processes()))
        for process in builder.workers.processes():
            process.kill()
        wait_for(lambda: not builder.step() and all(b.state == "ready" for b in builds(engine)))
    finally:
        builder.close()


def test_a_worker_that_dies_with_nothing_to_do_is_replaced(engine: Engine, settings: Settings) -> None:
    push(engine, settings)
    builder = Builder(settings, engine)
    try:
        wait_for(lambda: not builder.step() and all(b.state == "ready" for b in builds(engine)))
        assert isinstance(builder.workers, PoolWorkers)
        pool = builder.workers._pool
        for process in builder.workers.processes():
            process.kill()
        wait_for(lambda: bool(pool and pool._broken))
        push(engine, settings, "v2")
        wait_for(lambda: not builder.step() and all(b.state == "ready" for b in builds(engine)))
    finally:
        builder.close()
    assert [build.attempt for build in builds(engine)] == [1, 1, 1, 1]


def test_a_project_without_classes_cannot_push(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, device_classes="")
    prepare(settings)
    engine = make_engine(settings)
    with pytest.raises(StateConflictError, match="device-classes"):
        push(engine, settings)
    assert builds(engine) == []
    engine.dispose()


def test_two_pushes_at_once_are_put_in_order(engine: Engine, settings: Settings) -> None:
    threads = [threading.Thread(target=push, args=(engine, settings, f"v{n}")) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(build.release_counter for build in builds(engine)) == list(range(1, 9))
