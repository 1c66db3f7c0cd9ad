"""Enrolment and renewal: who gets a device certificate, and under which name.

Rules
 1. The server assigns the id: the class and eight base-32 digits of the public key's SHA-256. The request's subject is
    ignored, except that naming an existing device is refused.
 2. The id follows the key: a device whose answer got lost asks again with the same key, gets the same certificate.
 3. A claim certificate never yields a second certificate for an existing id, unless an operator has reset the device:
    then it does once, for another key by the id's name, for the device's own key also without.
 4. The class is the claim's and is fixed from then on.
 5. Renewal needs a certificate of the device: the current one, or the one before when the newest answer got lost. One
    that a reset has ended renews nothing.
 6. Who issues or ends certificates of a device holds its row: none is issued that a revocation has not seen.
 7. A device that was reset and comes with another key has another flash: its journal counts boots and events from the
    beginning, and what they are known by belongs to the one before.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import update
from sqlmodel import Session, col, func, select

from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.pki import is_reserved
from tinyfleet_service.database.models import ClaimCertificate, Device, DeviceState, Event
from tinyfleet_service.devices import requests
from tinyfleet_service.devices.claims import use_claim
from tinyfleet_service.devices.issuing import Issuer
from tinyfleet_service.errors import ConflictError, ForbiddenError, StateConflictError

ISSUED = ("enrolled", "renewed")
_DIGITS = (8, 16, 24)
_CLASS_CHARS = 36


CountsAnew = Callable[[str], None]


def _counts_nothing(device_id: str) -> None:
    """Where no telemetry is kept, nothing of it begins anew."""


def enroll(
    session: Session,
    issuer: Issuer,
    claim: ClaimCertificate,
    csr: bytes,
    counts_anew: CountsAnew = _counts_nothing,
) -> tuple[Device, x509.Certificate]:
    """A device and its first certificate, for a request made under `claim`.

    `counts_anew` is told which device that was known counts its boots from the beginning again (rule 7).

    Raises CertificateRequestError, QuotaError, ForbiddenError (it names an existing device), StateConflictError.
    """
    request = requests.parse_request(csr)
    key = requests.public_key(request)
    wanted = requests.asked_name(request)
    device = session.get(Device, wanted, with_for_update=True)
    if device is not None:
        return _enroll_named(session, issuer, claim, device, key, counts_anew)
    return _enroll_new(session, issuer, claim, key)


def renew(session: Session, issuer: Issuer, peer: x509.Certificate, csr: bytes) -> tuple[Device, x509.Certificate]:
    """A new certificate for the device that `peer` belongs to; `peer` proved itself in TLS and is ours.

    Raises CertificateRequestError, ForbiddenError.
    """
    request = requests.parse_request(csr)
    key = requests.public_key(request)
    device = session.get(Device, x.name_of(peer), with_for_update=True)
    if device is None or device.state != DeviceState.ENROLLED or device.certificate_serial is None:
        raise ForbiddenError(f"device {x.name_of(peer)!r} may not renew", next="ask the operator to enrol or reset it")
    wanted = requests.asked_name(request)
    if wanted != device.id and session.get(Device, wanted) is not None:
        raise _refuse_name(wanted)
    issued = _issued(session, device.id, after=_last_reset(session, device.id))
    serials = [detail["serial"] for detail in issued]
    if x.serial_text(peer) not in serials[-2:]:
        raise ForbiddenError("this certificate was replaced", next="renew with the newest certificate of the device")
    if x.serial_text(peer) != serials[-1] and issued[-1]["key_sha256"] == requests.key_digest(key).hex():
        return device, _stored(issued[-1])
    return device, _issue(session, issuer, device, key, "renewed")


def count_issued_before(session: Session, at: datetime) -> int:
    """Enrolled devices whose newest certificate is older than `at`."""
    newer = select(Event.id).where(Event.device_id == Device.id, col(Event.kind).in_(ISSUED), col(Event.at) >= at)
    holds = (Device.state == DeviceState.ENROLLED, col(Device.certificate_serial).is_not(None))
    return session.exec(select(func.count()).select_from(Device).where(*holds, ~newer.exists())).one()


def issued_outside(session: Session, device_id: str) -> dict[str, str]:
    """Serials of the device's certificates from an authority outside, and when each ends (ISO 8601)."""
    issued = _issued(session, device_id)
    return {detail["serial"]: detail["outside_until"] for detail in issued if "outside_until" in detail}


def issued_serials(session: Session, device_id: str) -> list[str]:
    """Serials of every certificate the device ever got, oldest first, lower-case hex."""
    return [detail["serial"] for detail in _issued(session, device_id)]


def _enroll_new(
    session: Session,
    issuer: Issuer,
    claim: ClaimCertificate,
    key: ec.EllipticCurvePublicKey,
) -> tuple[Device, x509.Certificate]:
    for digits in _DIGITS:
        device_id = assigned_id(claim.device_class, key, digits)
        device = session.get(Device, device_id, with_for_update=True)
        if device is None:
            break
        if _owns(device, key):
            return _enroll_named(session, issuer, claim, device, key)
    else:
        raise ConflictError("no free id for this key", next="enrol with a new key")
    use_claim(session, claim)
    device = Device(
        id=device_id,
        project_id=claim.project_id,
        device_class=claim.device_class,
        tags=dict(claim.tags),
    )
    session.add(device)
    session.flush()
    return device, _issue(session, issuer, device, key, "enrolled")


def _enroll_named(
    session: Session,
    issuer: Issuer,
    claim: ClaimCertificate,
    device: Device,
    key: ec.EllipticCurvePublicKey,
    counts_anew: CountsAnew = _counts_nothing,
) -> tuple[Device, x509.Certificate]:
    """A device that exists: one that was reset, its own repetition, or somebody else."""
    reset = device.state == DeviceState.ENROLLED and device.certificate_serial is None
    if not reset and _owns(device, key):
        return _again(session, device, claim)
    if not reset or (device.project_id, device.device_class) != (claim.project_id, claim.device_class):
        raise _refuse_name(device.id)
    use_claim(session, claim)
    replaced = not _owns(device, key)
    certificate = _issue(session, issuer, device, key, "enrolled")
    if replaced:
        numbered = update(Event).where(col(Event.device_id) == device.id, col(Event.number).is_not(None))
        session.connection().execute(numbered.values(number=None))
        counts_anew(device.id)
    return device, certificate


def assigned_id(device_class: str, key: ec.EllipticCurvePublicKey, digits: int) -> str:
    """`<class>-<first digits of the key's digest in base 32>`: `[a-z0-9-]{1,64}`, and never a reserved name."""
    prefix = re.sub(r"[^a-z0-9]+", "-", device_class.lower()).strip("-")[:_CLASS_CHARS] or "device"
    name = f"{prefix}-{base64.b32encode(requests.key_digest(key)).decode().lower()[:digits]}"
    return f"d-{name}" if is_reserved(name) else name


def _again(session: Session, device: Device, claim: ClaimCertificate) -> tuple[Device, x509.Certificate]:
    if device.state != DeviceState.ENROLLED or device.project_id != claim.project_id:
        raise ForbiddenError(f"device {device.id} may not enrol again", next="ask the operator")
    newest = next(reversed(_issued(session, device.id)), None)
    if newest is None or newest["serial"] != device.certificate_serial or newest["kind"] != "enrolled":
        raise StateConflictError(
            f"device {device.id} has enrolled and renewed since", next="renew with its certificate, or reset the device"
        )
    return device, _stored(newest)


def _owns(device: Device, key: ec.EllipticCurvePublicKey) -> bool:
    return device.public_key == requests.point_of(key)


def _issue(
    session: Session, issuer: Issuer, device: Device, key: ec.EllipticCurvePublicKey, kind: str
) -> x509.Certificate:
    certificate = issuer.issue_device(device.id, key)
    device.certificate_serial = x.serial_text(certificate)
    device.certificate_not_after = certificate.not_valid_after_utc
    device.public_key = requests.point_of(key)
    detail = {
        "serial": device.certificate_serial,
        "key_sha256": requests.key_digest(key).hex(),
        "certificate": x.certificate_pem(certificate).decode(),
    }
    if issuer.outside:
        detail["outside_until"] = certificate.not_valid_after_utc.isoformat()
    session.add(device)
    session.add(Event(project_id=device.project_id, device_id=device.id, kind=kind, detail=detail))
    session.flush()
    return certificate


def _issued(session: Session, device_id: str, after: int = 0) -> list[dict[str, Any]]:
    rows = select(Event).where(Event.device_id == device_id, col(Event.kind).in_(ISSUED), col(Event.id) > after)
    return [{**event.detail, "kind": event.kind} for event in session.exec(rows.order_by(col(Event.id)))]


def _last_reset(session: Session, device_id: str) -> int:
    """Number of the event that ended what the device had before; 0 when it never was reset."""
    resets = select(func.max(Event.id)).where(Event.device_id == device_id, Event.kind == "reset")
    return session.exec(resets).one() or 0


def _stored(detail: dict[str, Any]) -> x509.Certificate:
    return x509.load_pem_x509_certificate(detail["certificate"].encode())


def _refuse_name(name: str) -> ForbiddenError:
    return ForbiddenError(
        f"the request names {name!r}, which belongs to another device",
        next="leave the subject empty: the server assigns the id; for a replaced part ask the operator to reset it",
        name=name,
    )
