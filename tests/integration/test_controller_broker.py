"""The controller process against a real broker: state in, assignments out, one at a time."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlmodel import select

from integration.fleet_house import FleetHouse, make_house
from integration.fleet_support import connected, device_files, eventually
from tinyfleet_ota import FileSigner, KeyFileError, SignatureError, make_assignment, parse_assignment, topics
from tinyfleet_ota.command import NUMBERS
from tinyfleet_ota.protocol import Reason, SlotState
from tinyfleet_ota.wire_types import UINT_MAX
from tinyfleet_service import broker, controller
from tinyfleet_service.broker.pki import Pki
from tinyfleet_service.controller import Controller
from tinyfleet_service.database import models
from tinyfleet_service.database.engine import Lease, session_scope
from tinyfleet_service.database.keep_lease import Keep
from tinyfleet_service.database.models import Desired, DeviceCommand, Event, Outbox, Rollout, TransferBlob
from tinyfleet_service.devices import ask_command
from tinyfleet_service.devices.commands import take_answer
from tinyfleet_service.keys import key_folder
from tinyfleet_service.keys.ceremony import rotate
from tinyfleet_service.publish import CONTROLLER_LEASE, read_retained
from tinyfleet_service.rollouts import make_plan, parse_spec, start_rollout
from unit.service.fleet_state_builders import slot, state
from unit.service.fleet_telemetry_builders import image_counters, telemetry

DEVICES = ("m4-a", "m4-b")
SPEC = {"model": "digits", "version": "v1", "canary": "100%", "soak_s": 0, "min_inferences": 10}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[FleetHouse]:
    house = make_house(tmp_path / "fleet", DEVICES)
    Lease.release(house.engine, CONTROLLER_LEASE, "test")
    process = broker.start(house.settings, Pki.create(house.settings))
    yield house
    broker.stop(process)


@pytest.fixture
def control(house: FleetHouse) -> Iterator[Controller]:
    control = Controller(house.settings, house.engine)
    yield control
    control.close()


def start(house: FleetHouse) -> int:
    with session_scope(house.engine) as session:
        return start_rollout(session, make_plan(session, parse_spec(SPEC))).id or 0


def state_of(house: FleetHouse, rollout_id: int) -> str:
    with session_scope(house.engine, read_only=True) as session:
        row = session.get(Rollout, rollout_id)
        assert row is not None
        return row.state


def test_a_rollout_goes_from_desired_topic_to_promotion(house, control, tmp_path):
    rollout = start(house)
    control.step()
    image = house.image_id("v1")
    for device_id in DEVICES:
        files = device_files(Pki.load(house.settings), device_id, tmp_path)
        with connected(house.settings, files, device_id) as device:
            desired = read_retained(device, topics.desired(device_id))
            assignment = parse_assignment(desired, [house.keys.director.public_key])
            slots = [slot(SlotState.CONFIRMED, image), slot()]
            report = state(slots=slots, active=0, sequence=assignment.sequence, report_interval_s=1)
            device.publish(topics.state(device_id), report, retain=True)

    reports = itertools.count(1)

    def promoted() -> bool:
        number = next(reports)
        message = telemetry(image_counters(image, inferences=20 * number), report=number)
        control.telemetry.ingest([(device_id, message) for device_id in DEVICES])
        return control.step() and state_of(house, rollout) == "promoted"

    assert eventually(promoted)


def test_only_the_lease_holder_controls_and_another_takes_over(house, control):
    other = Controller(house.settings, house.engine)
    try:
        assert control.step()
        assert not other.step()
        assert other._client is None
        control.close()
        assert other.step()
        assert not control.guarded_step()
    finally:
        other.close()


def test_a_controller_overtaken_while_it_slept_drops_its_connection(house, control):
    assert control.step()
    with session_scope(house.engine) as session:
        row = session.get(models.Lease, CONTROLLER_LEASE)
        row.owner, row.fence = "somebody else", row.fence + 1
    assert not control.guarded_step()
    assert control._client is None


def test_a_step_hands_its_lease_to_the_parts_that_take_long(
    house: FleetHouse, control: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick that outlives the lease renews it, if nobody has taken it meanwhile."""

    def until() -> datetime:
        with session_scope(house.engine, read_only=True) as session:
            return session.get_one(models.Lease, CONTROLLER_LEASE).until

    def slow(*_: object, keep: Keep, **__: object) -> int:
        for at in (datetime(2020, 1, 1, tzinfo=UTC), None):
            with session_scope(house.engine) as session:
                if at is None:
                    keep(session)
                else:
                    session.get_one(models.Lease, CONTROLLER_LEASE).until = at
        return 0

    monkeypatch.setattr("tinyfleet_service.controller.process.tick", slow)
    assert control.step()
    assert until().year > 2020


def test_devices_that_never_cease_to_talk_stop_no_rollout(house, control, monkeypatch):
    rollout = start(house)
    monkeypatch.setattr("tinyfleet_service.devices.subscriber.StateReader.waiting", 1)  # something is always there
    monkeypatch.setattr("tinyfleet_service.controller.process.LISTEN_S", 0.0)
    assert eventually(lambda: control.step() and state_of(house, rollout) != "pending")
    with session_scope(house.engine, read_only=True) as session:
        assert session.exec(select(Desired)).all()


def test_a_dead_broker_keeps_assignments_in_the_outbox(tmp_path):
    house = make_house(tmp_path / "fleet", DEVICES)
    Lease.release(house.engine, CONTROLLER_LEASE, "test")
    pki = Pki.create(house.settings)
    control = Controller(house.settings, house.engine)
    control.connect_s = 0.2
    start(house)
    try:
        control.guarded_step()
        with session_scope(house.engine, read_only=True) as session:
            waiting = {row.topic for row in session.exec(select(Outbox)) if row.published_at is None}
        assert {topics.desired(device_id) for device_id in DEVICES} <= waiting
        process = broker.start(house.settings, pki)
        try:
            assert eventually(lambda: control.guarded_step() and not _unsent(house))
        finally:
            control.close()
            broker.stop(process)
    finally:
        control.close()


def test_a_device_that_cannot_be_helped_stops_nobody(house, control, caplog):
    """Its blob is damaged on the server's disk: said in the log, the rollout of the others goes on."""
    start(house)
    assert control.step()
    with session_scope(house.engine) as session:
        blob = session.exec(select(TransferBlob)).one()
        house.store.path_of(blob.sha256).write_bytes(b"damaged")
        blob.published_at = None
    waiting = [bytes.fromhex(blob.sha256)[:16], 0]
    house.report("m4-a", None, sequence=1, waiting=waiting)
    assert control.guarded_step()
    (record,) = [record for record in caplog.records if record.getMessage().startswith("cannot help a device: blob")]
    assert vars(record)["device"] == "m4-a"


def test_an_assignment_that_no_director_of_ours_signed_stops_nobody(house, control, caplog):
    """Its database came back beside other keys: m4-a asks for help, and a new director signs anew."""
    start(house)
    assert control.step()
    assignment = parse_assignment(_desired(house, "m4-a").payload, house.keys.known)
    with session_scope(house.engine) as session:
        session.get_one(Desired, "m4-a").payload = make_assignment(assignment, FileSigner.generate())
    house.report(
        "m4-a", None, sequence=2, refused_sequence=2, last_reason=Reason.ASSIGNMENT_STALE_NONCE, nonce=b"n" * 8
    )
    assert control.guarded_step()
    _replaced_director(house)
    assert control.guarded_step()
    assert _desired(house, "m4-b").director_epoch == 2
    assert _desired(house, "m4-a").director_epoch == 1
    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert {text[:11] for text in told} == {"cannot help", "cannot sign"}
    assert all("the stored assignment of m4-a does not hold" in text and "backup" in text for text in told)


def test_a_device_without_a_sequence_left_keeps_no_other_from_a_new_director(house, control):
    start(house)
    assert control.step()
    house.report("m4-a", None, sequence=UINT_MAX)
    _replaced_director(house)
    assert control.guarded_step()
    assert _desired(house, "m4-b").director_epoch == 2


def test_a_device_without_a_command_number_left_keeps_no_other_from_its_own(house, control):
    for device in DEVICES:
        house.report(device, None, nonce=b"n" * 8)
        with session_scope(house.engine) as session:
            ask_command(session, house.device(session, device), "diagnostics", 60, "operator")
    assert control.step()
    with session_scope(house.engine) as session:
        sent = session.exec(select(DeviceCommand).where(DeviceCommand.device_id == "m4-a")).one()
        refusal = {"sequence": sent.number, "reason": Reason.ASSIGNMENT_OLD_SEQUENCE.name, "detail": NUMBERS[-1]}
        take_answer(session, Event(project_id=1, kind="command", device_id="m4-a", detail=refusal))
        for row in session.exec(select(DeviceCommand)):
            row.sent_at = None
    assert control.guarded_step()
    with session_scope(house.engine) as session:
        rows = session.exec(select(DeviceCommand).order_by(DeviceCommand.device_id)).all()
        assert [(row.state, row.sends) for row in rows] == [("refused", 1), ("sent", 2)]


def test_an_error_of_a_signature_ends_no_controller(house, control, caplog, monkeypatch):
    def broken(*_: object) -> None:
        raise SignatureError("no such key")

    monkeypatch.setattr("tinyfleet_service.controller.process.publish_roots", broken)
    assert not control.guarded_step()
    assert "no such key" in caplog.text


def test_a_director_whose_token_is_away_is_asked_once_a_tick(house, control, caplog, monkeypatch):
    asked = []

    def away(message: bytes) -> bytes:
        asked.append(message)
        raise KeyFileError("no token in the slot")

    rollout_id = start(house)
    with monkeypatch.context() as patch:
        patch.setattr(control.keys.director, "sign", away)
        assert not control.guarded_step()
    assert len(asked) == 1
    assert "the director key does not sign: no token in the slot; check its token or program" in caplog.text
    assert control.guarded_step()
    assert {_desired(house, device).sequence for device in DEVICES} == {1}
    assert state_of(house, rollout_id) != "paused"


def _replaced_director(house: FleetHouse) -> None:
    assert rotate(key_folder(house.settings), "director") == 2


def _desired(house: FleetHouse, device: str) -> Desired:
    with session_scope(house.engine, read_only=True) as session:
        return session.get_one(Desired, device)


def _unsent(house: FleetHouse) -> int:
    with session_scope(house.engine, read_only=True) as session:
        return sum(row.published_at is None for row in session.exec(select(Outbox)))


def _owner(house: FleetHouse) -> str:
    with session_scope(house.engine, read_only=True) as session:
        row = session.get(models.Lease, CONTROLLER_LEASE)
        return row.owner if row else ""


def test_run_ends_when_told_and_gives_the_lease_up(house):
    stop = threading.Event()
    thread = threading.Thread(target=controller.run, args=(house.settings, stop), daemon=True)
    thread.start()
    assert eventually(lambda: _owner(house).startswith("controller-"))  # asking by acquiring could win the lease
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert Lease.acquire(house.engine, CONTROLLER_LEASE, "test", 5) is not None
