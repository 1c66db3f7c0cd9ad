"""Devices that enrol while the fleet is in motion: inside the current stage's share they get the candidate, else the
stable build.

A joiner enters the live rollout of its class with a rank like everybody else, but never as a canary: it counts for
faults and silence, not for accuracy, and a device without a model has nothing to shadow beside. A class that was
harmed takes no joiners.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import and_
from sqlmodel import Session, col, select

from tinyfleet_service.database.engine import check_fence, session_scope
from tinyfleet_service.database.models import (
    FIRMWARE,
    Build,
    DesiredEntry,
    Device,
    DeviceState,
    Rollout,
    RolloutMember,
    RolloutStage,
)
from tinyfleet_service.database.reported import has_component
from tinyfleet_service.publish import CONTROLLER_LEASE
from tinyfleet_service.rollouts.assignments import Work, assign_stable
from tinyfleet_service.rollouts.changes import components_in_use
from tinyfleet_service.rollouts.membership import joiner_wave, rank_of, stratum_of
from tinyfleet_service.rollouts.records import harmed_classes, is_frozen, note, spec_of, stage_of
from tinyfleet_service.rollouts.select_devices import selected_among
from tinyfleet_service.rollouts.stable import StableBuilds
from tinyfleet_service.rollouts.state_machine import LIVE


def take_joiners(work: Work, changed: Sequence[str]) -> int:
    """Enter new ones of these devices into live rollouts, give the others their class's stable build; assignments made.

    A device is new to each component by itself. Who is in a live rollout already, or has nothing to get, costs no query
    of its own.
    """
    with session_scope(work.engine, read_only=True) as session:
        components = components_in_use(session) if changed else []
    return sum(_take(work, changed, component) for component in components)


def _take(work: Work, changed: Sequence[str], component: str) -> int:
    with session_scope(work.engine, read_only=True) as session:
        fresh = devices_without_assignment(session, changed, component)
        members = _members_of_live_rollouts(session, fresh, component)
        outside = [device for device in fresh if device.id not in members]
        entering = list(_live_rollouts(session, outside, component))
        stable = _served(session, fresh, component)
    for device_id in entering:
        work.keep()
        _enter(work, device_id, component)
    return sum(_serve(work, device_id, component) for device_id in stable)


def _serve(work: Work, device_id: str, component: str) -> bool:
    """Give the device its stable build, when no rollout has something for it now."""
    work.keep()
    return not _covered(work, device_id, component) and assign_stable(work, device_id, component)


def _served(session: Session, fresh: Sequence[Device], component: str) -> list[str]:
    """Those of these devices that a stable build is for.

    Firmware is not handed out: the one that a device came with may be newer and unknown here, it would go back without
    a word, and no gate would stand before it.
    """
    projects = {device.project_id for device in fresh} if component != FIRMWARE else set()
    served: list[str] = []
    for project_id in sorted(projects):
        if not is_frozen(session, project_id):
            devices = [device for device in fresh if device.project_id == project_id]
            served += StableBuilds(session, project_id, component).of_many(devices)
    return served


def devices_without_assignment(session: Session, among: Sequence[str], component: str) -> list[Device]:
    """Enrolled devices of some thousand that have said something and were never assigned anything for `component`."""
    this = and_(col(DesiredEntry.device_id) == col(Device.id), col(DesiredEntry.component) == component)
    query = (
        select(Device)
        .outerjoin(DesiredEntry, this)
        .where(Device.state == DeviceState.ENROLLED, col(DesiredEntry.device_id).is_(None), col(Device.id).in_(among))
        .where(col(Device.reported_at).is_not(None), has_component(component))
    )
    return list(session.exec(query.order_by(Device.id))) if among else []


def _live(component: str) -> Any:
    return select(Rollout.id).where(col(Rollout.state).in_(LIVE), Rollout.component == component)


def _members_of_live_rollouts(session: Session, devices: Sequence[Device], component: str) -> set[str]:
    names = [device.id for device in devices]
    query = select(RolloutMember.device_id).where(
        col(RolloutMember.device_id).in_(names), col(RolloutMember.rollout_id).in_(_live(component))
    )
    return set(session.exec(query)) if names else set()


def _enter(work: Work, device_id: str, component: str) -> None:
    """Make the device a member of the live rollout it belongs to."""
    with session_scope(work.engine) as session:
        check_fence(session, CONTROLLER_LEASE, work.fence)
        device = session.get(Device, device_id)
        rollout = _live_rollouts(session, [device], component).get(device_id) if device else None
        if device is None or rollout is None or _membership(session, device, component) is not None:
            return
        member = _new_member(session, rollout, device)
        if member is not None:
            session.add(member)
            note(session, rollout, "joined", device.id, wave=member.wave)


def _covered(work: Work, device_id: str, component: str) -> bool:
    """Whether the current stage of a live rollout covers this device, which then gets the candidate from there."""
    with session_scope(work.engine, read_only=True) as session:
        device = session.get(Device, device_id)
        member = _membership(session, device, component) if device else None
        rollout = session.get(Rollout, member.rollout_id) if member else None
        if member is None or rollout is None:
            return False
        stage = stage_of(rollout)
        return member.wave <= stage.wave and stage.name != RolloutStage.SHADOW


def _membership(session: Session, device: Device, component: str) -> RolloutMember | None:
    query = select(RolloutMember).where(
        RolloutMember.device_id == device.id, col(RolloutMember.rollout_id).in_(_live(component))
    )
    return session.exec(query).first()


def _live_rollouts(session: Session, devices: Sequence[Device], component: str) -> dict[str, Rollout]:
    """The live rollout of `component` that each of these devices belongs to, the oldest; one query for each rollout."""
    found: dict[str, Rollout] = {}
    if not devices:
        return found
    for rollout in session.exec(select(Rollout).where(col(Rollout.id).in_(_live(component))).order_by(col(Rollout.id))):
        spec = spec_of(rollout)
        classes = {c["device_class"] for c in rollout.plan["classes"]} - set(spec.skip_class)
        classes -= harmed_classes(session, rollout)
        names = [d.id for d in devices if d.device_class in classes and d.id not in found]
        found |= dict.fromkeys(selected_among(session, rollout.project_id, names, spec.where), rollout)
    return found


def _new_member(session: Session, rollout: Rollout, device: Device) -> RolloutMember | None:
    query = select(Build).where(Build.version_id == rollout.version_id, Build.device_class == device.device_class)
    build = session.exec(query).first()
    stable = StableBuilds(session, device.project_id, rollout.component).of(device)
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
