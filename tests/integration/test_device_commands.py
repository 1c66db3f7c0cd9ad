"""Signed commands through the real chain: asked for, signed, sent, carried out by the C agent, answered by an event."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlmodel import col, select

from integration.fleet_database import PROJECT
from integration.hostile_world import Desk, running_desk, running_world
from tinyfleet_ota import Command, parse_command
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import CommandState, Device, DeviceCommand, Outbox, utc_now
from tinyfleet_service.devices import ask_command
from tinyfleet_service.errors import InvalidInputError, StateConflictError
from tinyfleet_service.publish import commands, send_commands


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with running_world(tmp_path_factory.mktemp("world")) as world, running_desk(world) as desk:
        yield desk


@pytest.fixture(scope="module")
def device(desk: Desk) -> str:
    device_id = str(desk.world.start(rate_hz=1).wait("connected")[0]["device"])
    desk.wait(lambda: bool(desk.reported(device_id)))
    return device_id


def ask(desk: Desk, device: str, action: str, expires_s: int = 60) -> int:
    with session_scope(desk.house.engine) as session:
        command = ask_command(session, desk.house.device(session, device), action, expires_s, "operator")
        assert command.id is not None
        return command.id


def row(desk: Desk, command_id: int) -> DeviceCommand:
    with session_scope(desk.house.engine, read_only=True) as session:
        return session.get_one(DeviceCommand, command_id)


def tick(desk: Desk) -> None:
    """The controller's part."""
    desk.reader.apply()
    with session_scope(desk.house.engine) as session:
        send_commands(session, desk.house.keys, desk.house.fence)
    desk.sync.run(desk.house.fence)


def ends(desk: Desk, command_id: int, state: CommandState) -> bool:
    tick(desk)
    return row(desk, command_id).state == state


def test_a_device_reboots_once_however_often_it_is_told(
    desk: Desk, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "AGAIN", timedelta(0))  # with every tick
    boots = desk.reported(device)["boot"]
    command_id = ask(desk, device, "reboot")
    desk.wait(lambda: ends(desk, command_id, CommandState.DONE))
    desk.wait(lambda: desk.reported(device)["boot"] == boots + 1)
    done = row(desk, command_id)
    assert (done.reason, done.number, done.finished_at is not None) == ("", 1, True)
    with session_scope(desk.house.engine, read_only=True) as session:
        sent = session.exec(select(Outbox).where(col(Outbox.topic).endswith("/command"))).all()
        parsed = [parse_command(message.payload, desk.house.keys.known) for message in sent]
    assert isinstance(parsed[0], Command)
    assert {(each.device, each.number) for each in parsed} == {(device, 1)}
    assert not any(message.retain for message in sent)


def test_a_number_that_the_device_knows_already_is_replaced(
    desk: Desk, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was restored from before the last commands."""
    monkeypatch.setattr(commands, "AGAIN", timedelta(seconds=0.5))
    for _ in range(2):
        command_id = ask(desk, device, "diagnostics")
        desk.wait(lambda: ends(desk, command_id, CommandState.DONE))  # noqa: B023
    newest = row(desk, command_id).number
    with session_scope(desk.house.engine) as session:
        for lost in session.exec(select(DeviceCommand)):
            session.delete(lost)
    command_id = ask(desk, device, "diagnostics")
    desk.wait(lambda: ends(desk, command_id, CommandState.DONE))
    assert row(desk, command_id).number > newest


def test_a_command_that_nobody_answers_expires(desk: Desk) -> None:
    with session_scope(desk.house.engine) as session:
        asleep = Device(id="asleep", project_id=PROJECT, device_class="host", nonce="00" * 8)
        session.add_all([asleep, Device(id="gone", project_id=PROJECT, device_class="host", state="revoked")])
    command_id = ask(desk, "asleep", "reboot")
    tick(desk)
    assert row(desk, command_id).state == CommandState.SENT
    with session_scope(desk.house.engine) as session:
        session.get_one(DeviceCommand, command_id).expires_at = utc_now()
    assert ends(desk, command_id, CommandState.EXPIRED)


def test_commands_to_devices_that_never_reported_keep_no_other_waiting(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "AT_ONCE", 1)
    with session_scope(desk.house.engine) as session:
        session.add(Device(id="never-seen", project_id=PROJECT, device_class="host"))
        session.add(Device(id="heard-once", project_id=PROJECT, device_class="host", nonce="00" * 8))
    waits, behind = ask(desk, "never-seen", "reboot"), ask(desk, "heard-once", "reboot")
    tick(desk)
    assert (row(desk, waits).state, row(desk, behind).state) == (CommandState.WAITING, CommandState.SENT)
    with session_scope(desk.house.engine) as session:
        session.get_one(DeviceCommand, waits).expires_at = utc_now()
    assert ends(desk, waits, CommandState.EXPIRED)


@pytest.mark.parametrize(
    ("device_id", "action", "expires_s", "error"),
    [
        ("asleep", "format", 60, InvalidInputError),
        ("asleep", "reboot", 1, InvalidInputError),
        ("gone", "reboot", 60, StateConflictError),
    ],
)
def test_what_cannot_be_asked_is_refused(
    desk: Desk, device_id: str, action: str, expires_s: int, error: type[Exception]
) -> None:
    with session_scope(desk.house.engine) as session:
        for name, state in (("asleep", "enrolled"), ("gone", "revoked")):
            session.merge(Device(id=name, project_id=PROJECT, device_class="host", state=state))
    with pytest.raises(error):
        ask(desk, device_id, action, expires_s)
