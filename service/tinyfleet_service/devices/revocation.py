"""Revoking and resetting devices: in the database, on the broker's revocation list, and in live connections."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tinyfleet_service import broker
from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.external_ca import ExternalAuthority
from tinyfleet_service.broker.pki import Pki
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Device, DeviceState, Event, utc_now
from tinyfleet_service.devices.enrolment import issued_outside, issued_serials
from tinyfleet_service.errors import BrokerUnavailableError, NotFoundError, StateConflictError, UnavailableError
from tinyfleet_service.mqtt import MqttClient
from tinyfleet_service.settings import Settings

_EVICTION_DAYS = 1 / 24
_EVICTION_S = 5.0


def revoke_device(engine: Engine, settings: Settings, device_id: str) -> bool:
    """Revoke for good; True when a live connection at the broker is known to have ended.

    Reading a new revocation list leaves existing connections up, so the service connects once under the device's name,
    which ends the device's own connection. Raises NotFoundError.
    """
    with session_scope(engine) as session:
        mark_revoked(session, device_id)
    return enforce_revocations(engine, settings, [device_id])


def reset_device(engine: Engine, settings: Settings, device_id: str) -> bool:
    """Let the device enrol again under its id with a claim certificate; its present certificates end.

    Raises NotFoundError, StateConflictError for a revoked device.
    """
    with session_scope(engine) as session:
        mark_reset(session, device_id)
    return enforce_revocations(engine, settings, [device_id])


def enforce_revocations(engine: Engine, settings: Settings, device_ids: list[str]) -> bool:
    """Write the revocation list, have the broker read it, end live connections of `device_ids`.

    Certificates of an authority outside are revoked there. Also right after a restore from backup (with no ids): the
    list follows from the database. False when the broker did not answer; it reads the list at its next start anyway.
    Raises UnavailableError when the authority outside fails: the EST process asks it again (`follow_outside`).
    """
    pki, problem = Pki.load(settings), None
    try:
        device_ids = sorted({*device_ids, *(_revoke_outside(engine, pki.external) if pki.external else ())})
    except UnavailableError as error:
        problem = error  # what we can do ourselves is done first
    write_revocations(engine, pki)
    broker.reload(settings)
    ended = [_end_connection(settings, pki, device_id) for device_id in device_ids]
    if problem:
        raise problem
    return all(ended)


def follow_outside(engine: Engine, settings: Settings) -> None:
    """Take over a new revocation list of the authority outside, and have it revoke what it could not before.

    Raises UnavailableError.
    """
    authority = Pki.load(settings).external
    if authority is None:
        return
    before = authority.lists
    ended = _revoke_outside(engine, authority)
    if ended or authority.lists != before:
        enforce_revocations(engine, settings, ended)


def _revoke_outside(engine: Engine, authority: ExternalAuthority) -> list[str]:
    """Have revoked what the database says and the lists lack; ids of those devices. Raises UnavailableError."""
    authority.refresh()
    with session_scope(engine, read_only=True) as session:
        rows = session.exec(select(Event.device_id, Event.detail).where(col(Event.kind).in_(("revoked", "reset"))))
        wanted = {s: (id_, end) for id_, detail in rows for s, end in detail.get("outside", {}).items()}
    now, listed = utc_now().isoformat(), authority.revoked()
    lacking = {serial: str(device) for serial, (device, end) in wanted.items() if end > now and serial not in listed}
    for serial in lacking:
        authority.revoke(serial)
    if lacking:
        authority.refresh()
    if missing := lacking.keys() - authority.revoked():
        raise UnavailableError(
            f"TINYFLEET_DEVICE_CA revoked {min(missing)}, but its list does not say so",
            next="the program must give a list that is made anew; it is asked again every minute",
        )
    return sorted(set(lacking.values()))


def write_revocations(engine: Engine, pki: Pki) -> None:
    """Write the revocation list that the database asks for; the broker reads it at its start, or when told."""
    with pki.held(), session_scope(engine, read_only=True) as session:
        pki.write_crl(int(serial, 16) for serial in revoked_serials(session))


def mark_revoked(session: Session, device_id: str) -> Device:
    """The database's part of a revocation. Revoking twice changes nothing."""
    device = get_device(session, device_id, lock=True)
    if device.state != DeviceState.REVOKED:
        device.state = DeviceState.REVOKED
        _end_certificates(session, device, "revoked")
    return device


def mark_reset(session: Session, device_id: str) -> Device:
    """The database's part of a reset; also takes a device out of quarantine."""
    device = get_device(session, device_id, lock=True)
    if device.state == DeviceState.REVOKED:
        raise StateConflictError(f"device {device_id} is revoked", next="enrol it as a new device")
    device.state = DeviceState.ENROLLED
    _end_certificates(session, device, "reset")
    return device


def revoked_serials(session: Session) -> set[str]:
    """Serials that the broker must refuse, lower-case hex."""
    rows = session.exec(select(Event.detail).where(col(Event.kind).in_(("revoked", "reset"))))
    return {serial for detail in rows for serial in detail.get("serials", [])}


def get_device(session: Session, device_id: str, *, lock: bool = False) -> Device:
    """The device; `lock` holds its row until this transaction ends. Raises NotFoundError."""
    device = session.get(Device, device_id, with_for_update=lock or None)
    if device is None:
        raise NotFoundError(
            f"no device {device_id!r}", next="`fleetctl device list` shows them", what="device", name=device_id
        )
    return device


def _end_certificates(session: Session, device: Device, kind: str) -> None:
    detail: dict[str, Any] = {"serials": issued_serials(session, device.id)}
    if outside := issued_outside(session, device.id):
        detail["outside"] = outside
    device.certificate_serial = None
    session.add(device)
    session.add(Event(project_id=device.project_id, device_id=device.id, kind=kind, detail=detail))
    session.flush()


def _end_connection(settings: Settings, pki: Pki, device_id: str) -> bool:
    key = x.new_key()
    certificate = pki.issue_device(device_id, key.public_key(), _EVICTION_DAYS)
    with tempfile.TemporaryDirectory(prefix="tinyfleet-") as name:
        files = Path(name) / "eviction.crt", Path(name) / "eviction.key"
        broker.write_private(files[0], x.certificate_pem(certificate))
        broker.write_private(files[1], x.key_pem(key))
        client = MqttClient(
            broker.address(settings),
            settings.broker_port,
            ca=pki.ca_path,
            certificate=files[0],
            key=files[1],
            client_id=device_id,
        )
        try:
            client.connect(_EVICTION_S)
        except BrokerUnavailableError:
            return False
        client.close()
    return True
