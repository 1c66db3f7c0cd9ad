"""The twin: what a device last said of itself, and the events it sent.

`Device.reported` is the `state` message with the field names of `protocol.cddl` (underscores for dashes), enumerations
by name (`"CONFIRMED"`), ids and nonces as hex. `Event.kind` of a device event is the lower-case name of its kind,
`detail` its other fields in the same form.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, select

from tinyfleet_ota.errors import ProtocolError
from tinyfleet_ota.protocol_codec import decode_event, decode_state
from tinyfleet_service.database.models import Desired, Device, DeviceState, Event, utc_now
from tinyfleet_service.database.reasons import HELP_REASONS, STALE_NONCE
from tinyfleet_service.database.reported import active_image
from tinyfleet_service.devices.commands import take_answer
from tinyfleet_service.devices.json_values import to_json
from tinyfleet_service.devices.revocation import get_device
from tinyfleet_service.errors import InvalidInputError

BIGGEST_INTEGER = (1 << 31) - 1
COMMAND = "command"


def apply_state(session: Session, device_id: str, payload: bytes, *, retained: bool = False) -> Device:
    """Bring the twin up to date. A device whose class is not that of its enrolment is quarantined.

    A `retained` copy, which the broker sends after a connect whether or not the device still lives, counts as hearing
    of it only where it says something new. Raises InvalidInputError for a payload that makes no sense (nothing
    changes), NotFoundError.
    """
    state = _decoded(decode_state, payload, device_id)
    device = get_device(session, device_id)
    reported = to_json(state)
    if not retained or reported != device.reported:
        device.last_seen_at = device.reported_at = utc_now()
    device.reported = reported
    _follow_sequence(device, state["director_epoch"], state["sequence"])
    device.nonce = state["nonce"].hex()
    device.active_image = active_image(device.reported)
    device.report_interval_s = min(state["report_interval_s"], BIGGEST_INTEGER)
    device.sleep_max_s = min(state["sleep_max_s"], BIGGEST_INTEGER)
    device.needs_help = _needs_help(session, device)
    if state["device_class"] != device.device_class:
        _quarantine(session, device, state["device_class"])
    session.add(device)
    return device


def asks_for_help(reported: dict[str, Any]) -> bool:
    """Whether a report tells of a chunk that does not come, or of an assignment or download that was given up."""
    return bool(reported.get("waiting")) or reported.get("last_reason") in HELP_REASONS or refused_nonce(reported)


def refused_nonce(reported: dict[str, Any]) -> bool:
    """Whether a report tells of an assignment that was refused since it echoes an old nonce."""
    return bool(reported.get("refused_sequence")) and reported.get("last_reason") == STALE_NONCE


def _needs_help(session: Session, device: Device) -> bool:
    """Whether the controller is to look at it: it asks, or it follows more than the database has ever assigned."""
    if asks_for_help(device.reported):
        return True
    desired = session.get(Desired, device.id)
    seen = (device.director_epoch, device.reported_sequence)
    return desired is not None and seen > (desired.director_epoch, desired.sequence)


def apply_event(session: Session, device_id: str, payload: bytes) -> Event | None:
    """Store a device's event; None when it was stored before (the same boot and number).

    Raises InvalidInputError for a payload that makes no sense, NotFoundError.
    """
    event = _decoded(decode_event, payload, device_id)
    device = get_device(session, device_id)
    if event["boot"] > BIGGEST_INTEGER or event["number"] > BIGGEST_INTEGER:
        raise InvalidInputError(f"event of {device_id} counts beyond reason", next="check the device's journal")
    seen = select(Event.id).where(
        Event.device_id == device_id, Event.boot == event["boot"], Event.number == event["number"]
    )
    if session.exec(seen).first() is not None:
        return None
    device.last_seen_at = utc_now()
    detail = {key: value for key, value in event.items() if key not in {"protocol", "boot", "number", "kind"}}
    row = Event(
        project_id=device.project_id,
        device_id=device_id,
        boot=event["boot"],
        number=event["number"],
        kind=event["kind"].name.lower(),
        detail=to_json(detail),
    )
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        return None  # another process stored the same event at the same moment
    if row.kind == COMMAND:
        take_answer(session, row)
    return row


def _follow_sequence(device: Device, epoch: int, sequence: int) -> None:
    """Keep the highest (director epoch, sequence): the next assignment must lie above whatever the device has seen."""
    epoch = min(epoch, BIGGEST_INTEGER)
    if (epoch, sequence) > (device.director_epoch, device.reported_sequence):
        device.director_epoch, device.reported_sequence = epoch, sequence


def _quarantine(session: Session, device: Device, claimed: str) -> None:
    session.refresh(device, ["state"], with_for_update=True)  # a revocation may have committed since it was read
    if device.state != DeviceState.ENROLLED:
        return
    device.state = DeviceState.QUARANTINED
    detail = {"enrolled_class": device.device_class, "reported_class": claimed}
    session.add(Event(project_id=device.project_id, device_id=device.id, kind="quarantined", detail=detail))


def _decoded(decode: Any, payload: bytes, device_id: str) -> dict[str, Any]:
    try:
        message: dict[str, Any] = decode(payload)
    except ProtocolError as error:
        raise InvalidInputError(
            f"device {device_id} sent what cannot be read: {error}", next="check the device's agent", device=device_id
        ) from error
    return message
