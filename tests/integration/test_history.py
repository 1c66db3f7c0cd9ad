"""What leaves the database by age, portion by portion: events but none that a webhook still needs, commands but the
last of a device, logs of builds, and counters frozen at looks but none of a rollout that goes on."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Engine
from sqlmodel import select

from integration.fleet_database import CLASS, PROJECT, each_engine, make_database
from integration.fleet_support import make_settings
from postgres import postgres_database, shared_server
from tinyfleet_service import rollouts
from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.pki import Pki
from tinyfleet_service.builds import read_notes
from tinyfleet_service.controller.process import CLEAN_EVERY, Controller
from tinyfleet_service.database.engine import Lease, session_scope
from tinyfleet_service.database.history import forget_commands, forget_events, forget_notes
from tinyfleet_service.database.models import (
    Build,
    BuildNote,
    CommandState,
    Decision,
    Device,
    DeviceCommand,
    Event,
    Model,
    ModelVersion,
    Rollout,
    RolloutState,
    SnapshotPage,
    Webhook,
    WebhookDelivery,
    utc_now,
)
from tinyfleet_service.devices import ask_command, create_claim, enroll, renew
from tinyfleet_service.devices.revocation import mark_revoked, revoked_serials
from tinyfleet_service.http import routes_events
from tinyfleet_service.http.routes_events import read_events
from tinyfleet_service.keys import ensure_keys
from tinyfleet_service.publish import CONTROLLER_LEASE
from tinyfleet_service.publish import commands as commands_of_publish
from tinyfleet_service.rollouts import forget_counters
from tinyfleet_service.rollouts.frozen import Frozen, flag_columns
from tinyfleet_service.rollouts.gates import RULES
from unit.service.frozen_builders import columns_of, nothing

STAGE = {"key": "canary", "skipped": "", "devices": 2, "holdout": False, "gates": ["faults"]}
PLAN = {"stages": [STAGE], "alpha": {"faults": 0.05}}
SPEC = {"model": "digits", "version": "v1"}
LOOKS, DEVICES = 3, 2
NOW = utc_now()
server = pytest.fixture(shared_server, scope="module")
engine = pytest.fixture(each_engine, params=["sqlite", "postgresql"])


def test_who_reads_events_on_misses_none_that_commits_late(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two transactions at once: the one that wrote last commits first. Where nobody ends the other, it is given up."""
    with postgres_database(request.getfixturevalue("server")) as url:
        engine = make_database(make_settings(tmp_path / "fleet", database_url=url))

        def kinds(after: int) -> list[str]:
            return [event.kind for event in read_events(engine, PROJECT, after, 10)]

        with session_scope(engine) as session:
            session.add(Event(project_id=PROJECT, kind="first"))
        with session_scope(engine) as slow:
            slow.add(Event(project_id=PROJECT, kind="slow"))
            slow.flush()
            with session_scope(engine) as quick:
                quick.add(Event(project_id=PROJECT, kind="quick"))
            assert kinds(0) == ["first"]
            assert kinds(1) == []
        assert kinds(0) == ["first", "slow", "quick"]
        with session_scope(engine) as session:
            session.add(Event(id=7, project_id=PROJECT, kind="behind numbers that nobody has"))
        assert kinds(3) == []
        monkeypatch.setattr(routes_events, "SETTLE_S", 0.0)
        assert len(kinds(3)) == 1
        engine.dispose()


def page_of(rollout_id: int, look: int) -> SnapshotPage:
    """Of devices that counted nothing."""
    flags = {"silent": False, "failed": False, "heard": False}
    columns = columns_of([nothing()] * DEVICES) | flag_columns([flags] * DEVICES, list(flags))
    columns["at_risk_s"] = np.zeros(DEVICES)
    data = Frozen(tuple(f"m4-{n}" for n in range(DEVICES)), columns).encode()
    of_look = {"stage": "canary", "look": look, "kind": "look" if look else "activation"}
    return SnapshotPage(
        rollout_id=rollout_id, arm="canary", image_id="a" * 32, devices=DEVICES, columns=data, **of_look
    )


def add_rollout(engine: Engine, state: str, finished_at: datetime | None) -> int:
    """A rollout with a start, three looks of two devices each and a decision a look; its id."""
    with session_scope(engine) as session:
        model = session.exec(select(Model)).first() or Model(project_id=PROJECT, name="digits")
        version = ModelVersion(model_id=0, version=utc_now().isoformat(), model_sha256="0" * 64, model_bytes=1)
        session.add(model)
        session.flush()
        version.model_id = model.id or 0
        session.add(version)
        session.flush()
        rollout = Rollout(
            project_id=PROJECT, version_id=version.id or 0, salt="s", stage="canary", spec=SPEC, plan=PLAN,
            state=state, look=LOOKS, finished_at=finished_at,
        )  # fmt: skip
        session.add(rollout)
        session.flush()
        for look in range(LOOKS + 1):
            session.add(page_of(rollout.id or 0, look))
            decided = {"gate": "faults", "required": True, "outcome": "hold", "summary": ""}
            decided["numbers"] = {"look": look, "rules": RULES}
            if look:
                session.add(Decision(rollout_id=rollout.id or 0, stage="canary", look=look, **decided))
        return rollout.id or 0


def explained(engine: Engine, rollout_id: int) -> dict[str, Any]:
    with session_scope(engine, read_only=True) as session:
        return rollouts.explain(session, rollout_id)


def pages(engine: Engine) -> list[int]:
    """The rollout of each page that is there, ascending."""
    with session_scope(engine, read_only=True) as session:
        return sorted(session.exec(select(SnapshotPage.rollout_id)))


def forget(engine: Engine, before: datetime, **portion: int) -> int:
    with session_scope(engine) as session:
        return forget_counters(session, before, NOW, **portion)


def test_counters_go_a_while_after_the_end_and_never_from_a_rollout_that_goes_on(engine: Engine) -> None:
    """Also not from one that a person may resume, or one that ended once and does not any more."""
    long_ago = NOW - timedelta(days=400)
    living = [RolloutState.PENDING, RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.HELD]
    kept = [add_rollout(engine, state, at) for state in living for at in (None, long_ago)]
    kept.append(add_rollout(engine, RolloutState.PROMOTED, NOW - timedelta(days=2)))
    ended = [RolloutState.PROMOTED, RolloutState.ROLLED_BACK, RolloutState.ABORTED]
    gone = [add_rollout(engine, state, NOW - timedelta(days=4)) for state in ended]
    assert forget(engine, NOW - timedelta(days=3)) == len(gone) * (LOOKS + 1)
    assert forget(engine, NOW - timedelta(days=3)) == 0
    assert pages(engine) == sorted(kept * (LOOKS + 1))
    assert [explained(engine, number)["counters_removed_at"] for number in kept] == [None] * len(kept)
    assert {explained(engine, number)["counters_removed_at"] for number in gone} == {NOW.isoformat()}


def test_half_of_the_pages_are_never_recomputed_from(engine: Engine) -> None:
    """The first page that goes takes the recomputation along; the decisions stay as they were stored."""
    number = add_rollout(engine, RolloutState.PROMOTED, NOW - timedelta(days=4))
    before = explained(engine, number)
    assert before["equal"] is False, "its numbers are made up"
    for left in reversed(range(LOOKS + 1)):
        assert forget(engine, NOW, pages=1) == 1
        assert pages(engine) == [number] * left
        document = explained(engine, number)
        assert (document["equal"], document["counters_removed_at"]) == (None, NOW.isoformat())
        assert [row["recomputed"] for row in document["decisions"]] == [None] * LOOKS
        assert [row["numbers"] for row in document["decisions"]] == [row["numbers"] for row in before["decisions"]]
    assert forget(engine, NOW, pages=1) == 0
    with session_scope(engine) as session:
        assert forget_counters(session, NOW, NOW + timedelta(days=1)) == 0
    assert explained(engine, number)["counters_removed_at"] == NOW.isoformat()


def test_a_portion_is_as_many_devices_as_it_says_and_one_page_at_least(engine: Engine) -> None:
    for _ in range(2):
        add_rollout(engine, RolloutState.ABORTED, NOW - timedelta(days=4))
    assert forget(engine, NOW, devices=DEVICES - 1) == 1
    assert forget(engine, NOW, devices=2 * DEVICES + 1) == 2
    assert forget(engine, NOW, pages=3) == 3, "the last page of one rollout, the first two of the next"
    assert forget(engine, NOW) == 2 * (LOOKS + 1) - 6


@pytest.mark.parametrize("at", range(LOOKS + 1))
def test_counters_that_go_while_they_are_read(engine: Engine, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """A reader sees all of them, as SQLite's snapshot lets it, or says that they are gone."""
    number = add_rollout(engine, RolloutState.PROMOTED, NOW - timedelta(days=4))
    module = sys.modules[rollouts.explain.__module__]
    whole, stored_pages, reads = explained(engine, number), module.stored_pages, []

    def read_and_remove(*asked: Any) -> Any:
        if len(reads) == at:
            assert forget(engine, NOW, pages=LOOKS) == LOOKS
        reads.append(asked)
        return stored_pages(*asked)

    monkeypatch.setattr(module, "stored_pages", read_and_remove)
    document = explained(engine, number)
    if engine.dialect.name == "sqlite":
        assert document == whole
    else:
        assert (document["equal"], document["counters_removed_at"]) == (None, NOW.isoformat())
        assert all(row["recomputed"] is None for row in document["decisions"])


def test_the_controller_forgets_by_its_setting(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, snapshot_days=3.0, event_days=3.0)
    engine = make_database(settings)
    ensure_keys(settings)
    with session_scope(engine) as session:
        session.add(Device(id="m4-0", project_id=PROJECT, device_class=CLASS))
    asked = [age(engine, days, number=number) for number, days in enumerate((4, 4, 2), 1)]
    old, young = (add_rollout(engine, RolloutState.PROMOTED, utc_now() - timedelta(days=days)) for days in (3.5, 2.5))
    with session_scope(engine) as session:
        session.add(build := Build(version_id=1, device_class=CLASS))
        session.flush()
        session.add(BuildNote(build_id=build.id, attempt=1, text="old", at=utc_now() - timedelta(days=4)))
    controller = Controller(settings, engine)
    controller._cleaned_at -= CLEAN_EVERY
    fence = Lease.acquire(engine, CONTROLLER_LEASE, "test", 60) or 0
    with session_scope(engine) as session:
        controller._clean(session, fence)
        assert read_notes(session, build.id or 0) == []
    assert commands(engine) == asked[2:]
    assert pages(engine) == [young] * (LOOKS + 1)
    assert explained(engine, old)["counters_removed_at"] is not None
    controller.telemetry.close()
    engine.dispose()


def test_old_events_are_forgotten_oldest_first_and_none_with_a_delivery(tmp_path: Path) -> None:
    engine = make_database(make_settings(tmp_path))
    now = utc_now()
    with session_scope(engine) as session:
        for age in range(20, 0, -1):
            session.add(Event(project_id=PROJECT, kind=f"{age} days old", at=now - timedelta(days=age)))
            session.flush()
        hook = Webhook(project_id=PROJECT, url="https://example.org", secret=b"", events=[])
        session.add(hook)
        session.flush()
        waiting = WebhookDelivery(webhook_id=hook.id, event_id=2, event="x", next_at=now)
        session.add(waiting)
    before = now - timedelta(days=9.5)
    with session_scope(engine) as session:
        assert forget_events(session, before, before, portion=4) == (3, 4)
        assert [row.id for row in session.exec(select(Event).order_by(Event.id))][:2] == [2, 5]
        assert forget_events(session, before, before) == (7, 0)
        assert forget_events(session, before, before) == (0, 0)
        session.delete(session.get_one(WebhookDelivery, waiting.id))
        session.flush()
        assert forget_events(session, before, before) == (1, 0)
        left = [row.kind for row in session.exec(select(Event).order_by(Event.id))]
    assert left == [f"{age} days old" for age in range(9, 0, -1)]
    engine.dispose()


def test_events_that_stay_hold_up_no_others(engine: Engine) -> None:
    """Portions go on behind them, and begin anew once they have reached the young ones."""
    now, after = utc_now(), 0
    with session_scope(engine) as session:
        for kind in ["enrolled"] * 6 + ["slot"] * 3:
            session.add(Event(project_id=PROJECT, kind=kind, at=now - timedelta(days=9)))
        session.add(Event(project_id=PROJECT, kind="slot", at=now))
    removed = []
    for _ in range(4):
        with session_scope(engine) as session:
            found, after = forget_events(session, now - timedelta(days=5), now - timedelta(days=20), after, portion=3)
        removed.append((found, after > 0))
    assert removed == [(0, True), (0, True), (3, True), (0, False)]


def age(engine: Engine, days: int, **command: Any) -> int:
    """A command of so many days ago, done unless said otherwise; its id."""
    at = utc_now() - timedelta(days=days)
    values = {"device_id": "m4-0", "director_epoch": 1, "state": CommandState.DONE, "finished_at": at, **command}
    with session_scope(engine) as session:
        row = DeviceCommand(action="reboot", created_at=at, expires_at=at, **values)
        session.add(row)
        session.flush()
        return row.id or 0


def commands(engine: Engine) -> list[int]:
    with session_scope(engine, read_only=True) as session:
        return sorted(session.exec(select(DeviceCommand.id)))


def forget_old_commands(engine: Engine, after: int = 0, portion: int = 100) -> tuple[int, int]:
    with session_scope(engine) as session:
        return forget_commands(session, utc_now() - timedelta(days=10), after, portion)


@pytest.fixture
def devices(engine: Engine) -> None:
    with session_scope(engine) as session:
        session.add_all(Device(id=f"m4-{n}", project_id=PROJECT, device_class=CLASS) for n in range(3))


@pytest.mark.usefixtures("devices")
def test_ended_commands_go_and_those_that_know_the_numbers_of_a_device_stay(engine: Engine) -> None:
    unanswered = age(engine, 20, number=1, state=CommandState.SENT, finished_at=None)
    age(engine, 20, number=2)
    told_more = age(engine, 20, number=3, newest=8, device_id="m4-1")
    age(engine, 20, number=0, device_id="m4-2", director_epoch=0, state=CommandState.EXPIRED)
    last = [
        age(engine, 20, number=4),
        age(engine, 20, number=5, device_id="m4-1"),
        age(engine, 20, number=1, device_id="m4-2"),
    ]
    assert forget_old_commands(engine)[0] == 2
    assert commands(engine) == [unanswered, told_more, *last]
    newer = [age(engine, 2, number=1, director_epoch=2), age(engine, 2, number=9, device_id="m4-1")]
    assert forget_old_commands(engine)[0] == 3
    assert commands(engine) == [unanswered, last[2], *newer]


@pytest.mark.usefixtures("devices")
def test_numbers_go_on_where_they_were_before_commands_were_forgotten(engine: Engine) -> None:
    for number in (1, 2, 3):
        age(engine, 20, number=number)
    assert forget_old_commands(engine)[0] == 2
    with session_scope(engine) as session:
        asked = ask_command(session, session.get_one(Device, "m4-0"), "reboot", 60, "me")
        assert commands_of_publish._number(session, asked, 1)
        assert asked.number == 4


@pytest.mark.usefixtures("devices")
def test_commands_that_stay_hold_up_no_others(engine: Engine) -> None:
    for n in range(3):
        age(engine, 20, number=9, device_id=f"m4-{n}")
    for number in (1, 2, 3):
        age(engine, 20, number=number)
    found, after = forget_old_commands(engine, portion=3)
    assert (found, forget_old_commands(engine, after, portion=3)[0]) == (0, 3)


def test_logs_of_builds_go_by_age_portion_by_portion(engine: Engine) -> None:
    add_rollout(engine, RolloutState.PROMOTED, NOW)
    with session_scope(engine) as session:
        session.add(build := Build(version_id=1, device_class=CLASS))
        session.flush()
        for days in (30, 20, 12, 9, 1):
            at = utc_now() - timedelta(days=days)
            session.add(BuildNote(build_id=build.id, attempt=1, text=f"{days} days old", at=at))
            session.flush()
    left = []
    for _ in range(3):
        with session_scope(engine) as session:
            forget_notes(session, utc_now() - timedelta(days=10), portion=2)
            left.append([note.text for note in read_notes(session, build.id or 0)])
    assert [len(texts) for texts in left] == [3, 2, 2]
    assert left[-1] == ["9 days old", "1 days old"]


def test_what_renewal_and_revocation_are_made_of_outlives_other_events(engine: Engine, tmp_path: Path) -> None:
    """Also the certificate of an authority outside that gives longer ones."""
    settings = make_settings(tmp_path / "pki", event_days=30.0)
    pki, key, now = Pki.create(settings), x.new_key(), utc_now()
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    request = csr.public_bytes(Encoding.DER)
    with session_scope(engine) as session:
        claim, _, _ = create_claim(session, pki, project_id=PROJECT, name="factory", device_class=CLASS)
        device, certificate = enroll(session, pki, claim, request)
        others = [
            Event(project_id=PROJECT, kind="slot", device_id=device.id, detail={"text": "\0"}),
            Event(project_id=PROJECT, kind="enrolled", device_id="ended", detail={"serial": "1"}),
            Event(project_id=PROJECT, kind="enrolled", device_id="outside", detail={"outside_until": "9999-01-01"}),
        ]
        session.add_all(others)
        session.flush()
        ages = {"slot": 40, "ended": 400, "outside": 400}
        for event in session.exec(select(Event)):
            event.at = now - timedelta(days=ages.get(event.device_id or "", 40))
    ensure_keys(settings)
    controller = Controller(settings, engine)
    controller._cleaned_at -= CLEAN_EVERY
    fence = Lease.acquire(engine, CONTROLLER_LEASE, "test", 60) or 0
    with session_scope(engine) as session:
        controller._clean(session, fence)
    controller.telemetry.close()
    with session_scope(engine) as session:
        assert [(row.kind, row.device_id) for row in session.exec(select(Event).order_by(Event.id))] == [
            ("enrolled", device.id),
            ("enrolled", "outside"),
        ]
        renewed = renew(session, pki, certificate, request)[1]
        mark_revoked(session, device.id)
        assert revoked_serials(session) == {x.serial_text(certificate), x.serial_text(renewed)}
