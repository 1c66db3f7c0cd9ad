"""The controller's part of commands: sign with the director key, send until answered, give up when they expire."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlmodel import Session, and_, col, func, or_, select

from tinyfleet_ota import Command, make_command, topics
from tinyfleet_ota.command import NUMBERS
from tinyfleet_ota.protocol import Action
from tinyfleet_service.database.models import UNANSWERED, CommandState, Device, DeviceCommand, utc_now
from tinyfleet_service.publish.assignments import DirectorKeys, director_signs
from tinyfleet_service.publish.outbox import enqueue

AGAIN = timedelta(seconds=30)
AT_ONCE = 500
"""Commands that one call looks at."""
NO_NUMBER = "the device says that it has had every number: `fleetctl keys rotate director` begins anew"


def send_commands(session: Session, keys: DirectorKeys, fence: int) -> int:
    """Sign and enqueue what is due, oldest first, some hundreds at a time; how many.

    A device that never reported has no nonce: what waits for it keeps no other waiting.
    """
    now = utc_now()
    sent = 0
    for command, device in session.exec(_due(now).limit(AT_ONCE)).all():
        if command.expires_at <= now:
            command.state, command.finished_at = CommandState.EXPIRED, now
        elif not _number(session, command, keys.director_epoch):
            command.state, command.finished_at, command.reason = CommandState.REFUSED, now, NO_NUMBER
        else:
            enqueue(session, topics.command(device.id), _sign(command, device, keys), retain=False, fence=fence)
            command.state, command.sent_at, command.sends = CommandState.SENT, now, command.sends + 1
            sent += 1
        session.add(command)
    return sent


def _number(session: Session, command: DeviceCommand, epoch: int) -> bool:
    """Above every number of this epoch that was given, or that the device says it knows; False when none is left."""
    if command.number and command.director_epoch == epoch:
        return True
    used = select(func.max(col(DeviceCommand.number)), func.max(col(DeviceCommand.newest))).where(
        DeviceCommand.device_id == command.device_id, DeviceCommand.director_epoch == epoch
    )
    number, newest = session.exec(used).one()
    known = command.newest if command.director_epoch == epoch else 0
    above = max(number or 0, newest or 0, known) + 1
    if above not in NUMBERS:
        return False
    command.number, command.director_epoch = above, epoch
    session.add(command)
    session.flush()
    return True


def _due(now: datetime) -> Any:
    quiet = or_(col(DeviceCommand.sent_at).is_(None), col(DeviceCommand.sent_at) < now - AGAIN)
    query = select(DeviceCommand, Device).join(Device, col(Device.id) == col(DeviceCommand.device_id))
    sendable = and_(quiet, col(Device.nonce).is_not(None))
    query = query.where(col(DeviceCommand.state).in_(UNANSWERED), or_(sendable, col(DeviceCommand.expires_at) <= now))
    return query.order_by(col(DeviceCommand.id))


def _sign(command: DeviceCommand, device: Device, keys: DirectorKeys) -> bytes:
    asked = Command(
        device=device.id,
        director_epoch=keys.director_epoch,
        number=command.number,
        nonce=bytes.fromhex(device.nonce or ""),
        expires=int(command.expires_at.timestamp()),
        action=Action[command.action.upper()],
    )
    with director_signs():
        return make_command(asked, keys.director)
