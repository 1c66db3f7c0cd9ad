"""Commands to devices: asked for by people, signed and sent by the controller, answered by an event.

A command is sent again until its device answers or it expires; the device carries it out once. It is signed when it is
sent, since it names the device's newest nonce. One that a device refuses as old, and that had been sent more than once,
was carried out and lost its answer; otherwise it gets a number above what the device says.
"""

from __future__ import annotations

from datetime import timedelta

from sqlmodel import Session, col, select

from tinyfleet_ota.command import NUMBERS
from tinyfleet_ota.protocol import Action, Reason
from tinyfleet_service.database.models import (
    UNANSWERED,
    CommandState,
    Device,
    DeviceCommand,
    DeviceState,
    Event,
    utc_now,
)
from tinyfleet_service.errors import InvalidInputError, StateConflictError

ACTIONS = {action.name.lower(): action for action in Action}
EXPIRES_S = range(10, 7 * 86400 + 1)
OLD = Reason.ASSIGNMENT_OLD_SEQUENCE.name


def ask_command(session: Session, device: Device, action: str, expires_s: int, by: str) -> DeviceCommand:
    """Queue a command. Raises InvalidInputError, StateConflictError for a device that takes no part."""
    if action not in ACTIONS:
        raise InvalidInputError(f"no command {action!r}", next=f"use one of {', '.join(ACTIONS)}")
    if expires_s not in EXPIRES_S:
        raise InvalidInputError("expires_s is out of range", next=f"{EXPIRES_S.start} to {EXPIRES_S.stop - 1} seconds")
    if device.state == DeviceState.REVOKED:
        raise StateConflictError(f"device {device.id} is revoked", next="it cannot connect any more")
    command = DeviceCommand(
        device_id=device.id,
        action=action,
        created_by=by,
        expires_at=utc_now() + timedelta(seconds=expires_s),
    )
    session.add(command)
    session.flush()
    return command


def list_commands(session: Session, device_id: str, limit: int = 50) -> list[DeviceCommand]:
    """The newest commands to a device, newest first."""
    query = select(DeviceCommand).where(DeviceCommand.device_id == device_id)
    return list(session.exec(query.order_by(col(DeviceCommand.id).desc()).limit(limit)))


def take_answer(session: Session, event: Event) -> None:
    """Enter a device's event of kind `command`. An answer that fits no open command is an event, and no more."""
    command = session.exec(
        select(DeviceCommand).where(
            DeviceCommand.device_id == event.device_id,
            DeviceCommand.number == event.detail.get("sequence"),
            col(DeviceCommand.state).in_(UNANSWERED),
        )
    ).first()
    if command is not None:
        _settle(command, str(event.detail.get("reason", "NONE")), int(event.detail.get("detail", 0)))
        session.add(command)


def _settle(command: DeviceCommand, reason: str, newest: int) -> None:
    repeated = reason == OLD and command.sends > 1 and newest == command.number
    if reason == OLD and not repeated:  # a restored database, or numbers that somebody else used up: another one
        command.number, command.newest = 0, min(newest, NUMBERS[-1])
        return
    done = reason == "NONE" or repeated
    command.state = CommandState.DONE if done else CommandState.REFUSED
    command.reason = "" if done else reason
    command.finished_at = utc_now()
