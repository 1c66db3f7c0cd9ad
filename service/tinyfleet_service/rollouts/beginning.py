"""Who may get the candidate for the first time in this tick, where a rollout has limits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlmodel import Session, and_, col, or_, select

from tinyfleet_service.database.models import (
    Device,
    DeviceState,
    MemberStatus,
    Rollout,
    RolloutMember,
    RolloutState,
    TransferBlob,
)
from tinyfleet_service.rollouts.admit import BUSY, HOUR, Limits, Start, admitted
from tinyfleet_service.rollouts.records import build_of, is_frozen, member_view_of, rollout_view_of, spec_of
from tinyfleet_service.rollouts.state_machine import wanted


def allowed_to_begin(session: Session, rollout: Rollout, now: datetime) -> list[str] | None:
    """Ids of the devices that may begin now, sorted; None for everybody who wants to: there are no limits."""
    if is_frozen(session, rollout.project_id) or rollout.state not in (RolloutState.RUNNING, RolloutState.PROMOTED):
        return []
    limits = spec_of(rollout).limits
    if limits == Limits():
        return None
    return sorted(_admitted(session, rollout, limits, now))


def _admitted(session: Session, rollout: Rollout, limits: Limits, now: datetime) -> list[str]:
    """Reads the members that wait or take up the limits, not those that are done or come later."""
    last_wave = len(rollout.plan["shares"]) if rollout.state == RolloutState.PROMOTED else rollout.wave
    waits = and_(col(RolloutMember.assigned_at).is_(None), col(RolloutMember.wave) <= last_wave)
    counts = or_(col(RolloutMember.status).in_(BUSY), col(RolloutMember.assigned_at) > now - HOUR)
    query = select(RolloutMember, Device).join(Device, col(Device.id) == col(RolloutMember.device_id))
    rows = list(session.exec(query.where(RolloutMember.rollout_id == rollout.id, or_(waits, counts))))
    view, sizes = rollout_view_of(rollout), transfer_sizes(session, rollout)
    starts = [
        Start(member.device_id, member.rank, sizes(member), device.tags.get("timezone"))
        for member, device in rows
        if member.status == MemberStatus.PLANNED
        and member.assigned_at is None
        and device.state == DeviceState.ENROLLED
        and wanted(view, member_view_of(member, device)) is not None
    ]
    views = [member_view_of(member, device) for member, device in rows]
    spent = sum(sizes(m) for m, _ in rows if m.assigned_at is not None and now - m.assigned_at < HOUR)
    return admitted(limits, starts, views, spent, now)


def transfer_sizes(session: Session, rollout: Rollout) -> Callable[[RolloutMember], int]:
    """Bytes that a member's transfer takes: its delta where one is ready, else the full image."""
    images = {i: build_of(session, i) for i in sorted({c["build_id"] for c in rollout.plan["classes"]})}
    digests = [build.image_sha256 for build in images.values() if build]
    blobs = session.exec(select(TransferBlob).where(col(TransferBlob.image_sha256).in_(digests)))
    sizes = {(blob.image_sha256, blob.base_sha256): blob.blob_bytes for blob in blobs}
    bases: dict[int | None, str] = {None: ""}

    def size(member: RolloutMember) -> int:
        build = images.get(member.build_id) or build_of(session, member.build_id)
        if build is None:
            return 0
        if member.previous_build_id not in bases:
            previous = build_of(session, member.previous_build_id)
            bases[member.previous_build_id] = (previous.image_sha256 if previous else None) or ""
        found = [sizes.get((build.image_sha256 or "", base)) for base in (bases[member.previous_build_id], "")]
        return min((known for known in found if known is not None), default=build.image_bytes or 0)

    return size
