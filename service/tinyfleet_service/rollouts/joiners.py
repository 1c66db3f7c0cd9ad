"""Devices that enrol while the fleet is in motion: inside the current stage's share they get the candidate, else the
stable build.

A joiner enters the live rollout of its class with a rank like everybody else, but never as a canary: it counts for
faults and silence, not for accuracy, and a device without a model has nothing to shadow beside.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from tinyfleet_service.database.engine import check_fence, session_scope
from tinyfleet_service.database.models import Build, Desired, Device, DeviceState, Rollout, RolloutMember, RolloutStage
from tinyfleet_service.rollouts.assignments import LEASE, Work, assign_stable, stable_build
from tinyfleet_service.rollouts.membership import joiner_wave, rank_of, stratum_of
from tinyfleet_service.rollouts.records import is_frozen, note, spec_of, stage_of
from tinyfleet_service.rollouts.select_devices import is_selected
from tinyfleet_service.rollouts.state_machine import LIVE


def take_joiners(work: Work, changed: Sequence[str]) -> int:
    """Enter new ones of these devices into live rollouts, give the others their class's stable build; assignments made.

    Who is in a live rollout already, or has nothing to get, costs no query of its own.
    """
    with session_scope(work.engine, read_only=True) as session:
        fresh = devices_without_assignment(session, changed)
        members = _members_of_live_rollouts(session, fresh)
        entering = [d.id for d in fresh if d.id not in members and _live_rollout(session, d) is not None]
        classes = {(d.project_id, d.device_class): d for d in fresh}
        served = {
            key
            for key, device in classes.items()
            if not is_frozen(session, device.project_id) and stable_build(session, device) is not None
        }
        stable = [d.id for d in fresh if (d.project_id, d.device_class) in served]
    for device_id in entering:
        _enter(work, device_id)
    return sum(assign_stable(work, device_id) for device_id in stable if not _covered(work, device_id))


def devices_without_assignment(session: Session, among: Sequence[str]) -> list[Device]:
    """Enrolled devices of some thousand that have said something and were never assigned anything."""
    query = (
        select(Device)
        .outerjoin(Desired, col(Desired.device_id) == col(Device.id))
        .where(Device.state == DeviceState.ENROLLED, col(Desired.device_id).is_(None), col(Device.id).in_(among))
        .where(col(Device.reported_at).is_not(None))
    )
    return list(session.exec(query.order_by(Device.id))) if among else []


def _members_of_live_rollouts(session: Session, devices: Sequence[Device]) -> set[str]:
    live = select(Rollout.id).where(col(Rollout.state).in_(LIVE))
    names = [device.id for device in devices]
    query = select(RolloutMember.device_id).where(
        col(RolloutMember.device_id).in_(names), col(RolloutMember.rollout_id).in_(live)
    )
    return set(session.exec(query)) if names else set()


def _enter(work: Work, device_id: str) -> None:
    """Make the device a member of the live rollout it belongs to."""
    with session_scope(work.engine) as session:
        check_fence(session, LEASE, work.fence)
        device = session.get(Device, device_id)
        rollout = _live_rollout(session, device) if device else None
        if device is None or rollout is None or _membership(session, device) is not None:
            return
        member = _new_member(session, rollout, device)
        if member is not None:
            session.add(member)
            note(session, rollout, "joined", device.id, wave=member.wave)


def _covered(work: Work, device_id: str) -> bool:
    """Whether the current stage of a live rollout covers this device, which then gets the candidate from there."""
    with session_scope(work.engine, read_only=True) as session:
        device = session.get(Device, device_id)
        member = _membership(session, device) if device else None
        rollout = session.get(Rollout, member.rollout_id) if member else None
        if member is None or rollout is None:
            return False
        stage = stage_of(rollout)
        return member.wave <= stage.wave and stage.name != RolloutStage.SHADOW


def _membership(session: Session, device: Device) -> RolloutMember | None:
    live = select(Rollout.id).where(col(Rollout.state).in_(LIVE))
    query = select(RolloutMember).where(RolloutMember.device_id == device.id, col(RolloutMember.rollout_id).in_(live))
    return session.exec(query).first()


def _live_rollout(session: Session, device: Device) -> Rollout | None:
    query = select(Rollout).where(Rollout.project_id == device.project_id, col(Rollout.state).in_(LIVE))
    for rollout in session.exec(query):
        spec = spec_of(rollout)
        if device.device_class in spec.skip_class:
            continue
        builds = {c["device_class"] for c in rollout.plan["classes"]}
        if device.device_class not in builds:
            continue
        if is_selected(session, device, spec.where):
            return rollout
    return None


def _new_member(session: Session, rollout: Rollout, device: Device) -> RolloutMember | None:
    query = select(Build).where(Build.version_id == rollout.version_id, Build.device_class == device.device_class)
    build, stable = session.exec(query).first(), stable_build(session, device, rollout.component)
    if build is None or build.id is None or build.image_sha256 is None or rollout.id is None:
        return None
    rank, shares = rank_of(device.id, rollout.salt), rollout.plan["shares"]
    wave = joiner_wave(rank, shares)
    return RolloutMember(
        rollout_id=rollout.id,
        device_id=device.id,
        device_class=device.device_class,
        stratum=stratum_of(device.device_class, device.tags, spec_of(rollout).stratify_by),
        rank=rank,
        wave=max(wave, 1) if len(shares) > 1 else wave,
        joiner=True,
        build_id=build.id,
        previous_build_id=stable.id if stable else None,
    )
