"""Twins: what `state` and `event` messages change, and what nonsense does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlmodel import Session, SQLModel, create_engine, select

from tinyfleet_ota.protocol import EventKind, Reason, SlotState
from tinyfleet_service.database.models import Device, DeviceState, Event, Project
from tinyfleet_service.devices import apply_event, apply_state
from tinyfleet_service.errors import InvalidInputError, NotFoundError
from unit.service.fleet_state_builders import NONCE, event, slot, state

IMAGE = bytes(range(16))


@pytest.fixture
def session() -> Iterator[Session]:
    engine = create_engine("sqlite://")
    SQLModel.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Project(id=1, name="p"))
        session.flush()
        session.add(Device(id="m4-a", project_id=1, device_class="cortex-m4"))
        session.flush()
        yield session


def test_state_brings_the_twin_up_to_date(session: Session) -> None:
    slots = [slot(SlotState.CONFIRMED, IMAGE), slot(SlotState.SHADOW, bytes(16))]
    device = apply_state(session, "m4-a", state(slots=slots, active=0, sequence=7, waiting=[IMAGE, 3]))
    assert device.active_image == IMAGE.hex()
    assert (device.nonce, device.reported_sequence, device.report_interval_s) == (NONCE.hex(), 7, 5)
    assert device.reported["components"][0]["slots"][1]["state"] == "SHADOW"
    assert device.reported["waiting"] == [IMAGE.hex(), 3]
    assert json.loads(json.dumps(device.reported)) == device.reported
    assert device.last_seen_at is not None
    assert device.reported_at == device.last_seen_at


def test_what_the_broker_retained_is_heard_of_only_where_it_is_new(session: Session) -> None:
    """Every connect brings the states of dead devices too: a controller's restart must not bring those back to life."""
    said = state(slots=[slot(SlotState.CONFIRMED, IMAGE), slot()], active=0, sequence=7, waiting=[IMAGE, 3])
    device = apply_state(session, "m4-a", said, retained=True)
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    device.last_seen_at = device.reported_at = long_ago
    session.flush()
    session.expire_all()
    again = apply_state(session, "m4-a", said, retained=True)
    assert (again.last_seen_at, again.reported_at) == (long_ago, long_ago)
    changed = apply_state(session, "m4-a", state(sequence=8), retained=True)
    assert changed.last_seen_at is not None
    assert changed.last_seen_at > long_ago, "it spoke while nobody listened"
    changed.last_seen_at = long_ago
    live = apply_state(session, "m4-a", state(sequence=8))
    assert live.last_seen_at is not None
    assert live.last_seen_at > long_ago


def test_only_a_refusal_makes_an_old_nonce_a_call_for_help(session: Session) -> None:
    """A fleet that heard nothing fresh for a week says so; no tick is to look after all of it."""
    stale = {"fresh": False, "last_reason": Reason.ASSIGNMENT_STALE_NONCE}
    assert not apply_state(session, "m4-a", state(**stale)).needs_help
    assert apply_state(session, "m4-a", state(**stale, refused_sequence=3)).needs_help


def test_state_follows_even_when_the_device_lost_its_model(session: Session) -> None:
    apply_state(session, "m4-a", state(slots=[slot(SlotState.CONFIRMED, IMAGE), slot()], active=0))
    assert apply_state(session, "m4-a", state()).active_image is None
    assert apply_state(session, "m4-a", state(active=9)).active_image is None


def test_highest_sequence_seen_is_kept(session: Session) -> None:
    apply_state(session, "m4-a", state(sequence=9, director_epoch=2))
    device = apply_state(session, "m4-a", state(sequence=50, director_epoch=1))
    assert (device.director_epoch, device.reported_sequence) == (2, 9)
    assert device.reported["sequence"] == 50


def test_another_class_than_at_enrolment_means_quarantine(session: Session) -> None:
    device = apply_state(session, "m4-a", state(device_class="cortex-m7"))
    assert device.state == DeviceState.QUARANTINED
    apply_state(session, "m4-a", state(device_class="cortex-m7"))
    events = session.exec(select(Event)).all()
    assert [(e.kind, e.detail["reported_class"]) for e in events] == [("quarantined", "cortex-m7")]
    assert apply_state(session, "m4-a", state()).state == DeviceState.QUARANTINED  # only a person lets it out


def test_revoked_device_stays_revoked(session: Session) -> None:
    device = session.get(Device, "m4-a")
    assert device is not None
    device.state = DeviceState.REVOKED
    assert apply_state(session, "m4-a", state(device_class="cortex-m7")).state == DeviceState.REVOKED


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\xa0", state()[:-1], state() + b"\x00", b"\xbf" + b"\xff" * 9])
def test_nonsense_leaves_the_twin_alone(session: Session, payload: bytes) -> None:
    apply_state(session, "m4-a", state(sequence=3))
    with pytest.raises(InvalidInputError, match="m4-a"):
        apply_state(session, "m4-a", payload)
    with pytest.raises(InvalidInputError, match="m4-a"):
        apply_event(session, "m4-a", payload)
    device = session.get(Device, "m4-a")
    assert device is not None
    assert device.reported_sequence == 3


def test_unknown_device_is_said(session: Session) -> None:
    with pytest.raises(NotFoundError):
        apply_state(session, "m4-nobody", state())
    with pytest.raises(NotFoundError):
        apply_event(session, "m4-nobody", event())


def test_event_is_stored_once(session: Session) -> None:
    payload = event(2, 5, to=SlotState.REJECTED, reason=Reason.GOLDEN_FAILED, image=IMAGE)
    stored = apply_event(session, "m4-a", payload)
    assert stored is not None
    assert stored.kind == "slot"
    assert stored.detail == {"to": "REJECTED", "reason": "GOLDEN_FAILED", "image": IMAGE.hex()}
    assert apply_event(session, "m4-a", payload) is None
    assert apply_event(session, "m4-a", event(3, 5, EventKind.BOOT)) is not None
    assert len(session.exec(select(Event)).all()) == 2


def test_counts_beyond_reason_are_refused(session: Session) -> None:
    with pytest.raises(InvalidInputError):
        apply_event(session, "m4-a", event(boot=2**40))
