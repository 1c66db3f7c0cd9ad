"""Claim certificates: what a factory puts into devices so that they can enrol, once each, within a quota."""

from __future__ import annotations

import re

from cryptography import x509
from sqlalchemy import update
from sqlmodel import Session, col, select

from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.pki import CLAIM_DAYS, Pki
from tinyfleet_service.database.models import ClaimCertificate, ProjectClass, utc_now
from tinyfleet_service.errors import ForbiddenError, InvalidInputError, NotFoundError, QuotaError
from tinyfleet_service.words import quantity

TAG_KEY = re.compile(r"[a-z][a-z0-9_.-]{0,31}")
TAG_VALUE = re.compile(r"[A-Za-z0-9_.:/-]{0,63}")
MAX_TAGS = 16


def create_claim(
    session: Session,
    pki: Pki,
    *,
    project_id: int,
    name: str,
    device_class: str,
    tags: dict[str, str] | None = None,
    quota: int = 1000,
    days: float = CLAIM_DAYS,
) -> tuple[ClaimCertificate, bytes, bytes]:
    """A claim certificate for devices of one class: (row, certificate PEM, key PEM). The key is kept nowhere.

    Raises NotFoundError for an unknown class, InvalidInputError for a bad name, quota or tags.
    """
    known = select(ProjectClass.id).where(ProjectClass.project_id == project_id, ProjectClass.name == device_class)
    if session.exec(known).first() is None:
        raise NotFoundError(
            f"no device class {device_class!r}",
            next="`fleetctl device-class add`; `fleetctl device-class list --project` shows those there are",
            what="device class",
            name=device_class,
        )
    if not 1 <= quota <= 10_000_000 or not 0 < days <= 20 * 365:
        raise InvalidInputError("quota or lifetime out of range", next="use 1 to 10,000,000 devices and up to 20 years")
    if not name.isprintable():
        raise InvalidInputError("a claim needs a printable name", next="leave control characters out")
    certificate, key = pki.issue_claim(name, days)
    row = ClaimCertificate(
        project_id=project_id,
        name=name,
        serial=x.serial_text(certificate),
        device_class=device_class,
        tags=check_tags(tags or {}),
        quota=quota,
        not_after=certificate.not_valid_after_utc,
    )
    session.add(row)
    session.flush()
    return row, x.certificate_pem(certificate), x.key_pem(key)


def find_claim(session: Session, certificate: x509.Certificate) -> ClaimCertificate:
    """The row of a claim certificate that proved itself in TLS. Raises ForbiddenError: not one of ours, or revoked."""
    serial = x.serial_text(certificate)
    claim = session.exec(select(ClaimCertificate).where(ClaimCertificate.serial == serial)).first()
    if claim is None:
        raise ForbiddenError("this claim certificate is not known", next="use one that `fleetctl claim create` made")
    if claim.revoked_at is not None:
        raise ForbiddenError(
            f"claim certificate {claim.name!r} was revoked", next="use another one: `fleetctl claim create`"
        )
    return claim


def list_claims(session: Session, project_id: int, after: int = 0, limit: int = 1000) -> list[ClaimCertificate]:
    """A page of the project's claims by id, those behind `after`."""
    query = select(ClaimCertificate).where(ClaimCertificate.project_id == project_id, col(ClaimCertificate.id) > after)
    return list(session.exec(query.order_by(col(ClaimCertificate.id)).limit(limit)))


def revoke_claim(session: Session, project_id: int, claim_id: int) -> ClaimCertificate:
    """Let nobody enrol with it any more; devices that did keep their certificates. Raises NotFoundError."""
    claim = session.get(ClaimCertificate, claim_id, with_for_update=True)
    if claim is None or claim.project_id != project_id:
        raise NotFoundError(f"no claim {claim_id}", next="see `fleetctl claim list`", what="claim", name=str(claim_id))
    claim.revoked_at = claim.revoked_at or utc_now()
    session.add(claim)
    return claim


def claim_state(claim: ClaimCertificate) -> str:
    """`open`, or why nobody enrols with it: `revoked`, `expired`, `used up`."""
    if claim.revoked_at is not None:
        return "revoked"
    if claim.not_after is not None and claim.not_after <= utc_now():
        return "expired"
    return "used up" if claim.used >= claim.quota else "open"


def use_claim(session: Session, claim: ClaimCertificate) -> None:
    """Count one enrolment; concurrent ones cannot pass the quota together. Raises QuotaError."""
    within = update(ClaimCertificate).where(
        col(ClaimCertificate.id) == claim.id, col(ClaimCertificate.used) < col(ClaimCertificate.quota)
    )
    result = session.connection().execute(within.values(used=col(ClaimCertificate.used) + 1))
    if result.rowcount != 1:
        raise QuotaError(
            f"claim certificate {claim.name!r} has enrolled its {quantity(claim.quota, 'device')}",
            next="make another claim certificate",
            quota=claim.quota,
        )
    session.refresh(claim)


def check_tags(tags: dict[str, str]) -> dict[str, str]:
    """Tags as given. Raises InvalidInputError naming the bad one."""
    if len(tags) > MAX_TAGS:
        raise InvalidInputError(f"{len(tags)} tags", next=f"use at most {MAX_TAGS}")
    for key, value in tags.items():
        if not TAG_KEY.fullmatch(key) or not isinstance(value, str) or not TAG_VALUE.fullmatch(value):
            raise InvalidInputError(
                f"bad tag {key!r}={value!r}",
                next="keys: a-z, 0-9, _ . - (32 at most); values: letters, digits, _ . : / - (63 at most)",
            )
    return dict(tags)
