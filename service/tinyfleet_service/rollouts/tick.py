"""One step of every rollout: observe, look and decide, assign. Idempotent; may die between any two transactions.

Each rollout takes one transaction for what was seen and decided and further ones for assignments, all under the
controller's fence. What a tick decides follows from stored rows and the twins, so the next tick simply goes on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Engine
from sqlmodel import Session, col, or_, select

from tinyfleet_service import publish
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import check_fence, session_scope
from tinyfleet_service.database.models import (
    Device,
    DeviceState,
    Event,
    MemberStatus,
    Rollout,
    RolloutMember,
    RolloutStage,
    RolloutState,
    StableBuild,
)
from tinyfleet_service.errors import FleetError, LeaseLostError, UnavailableError
from tinyfleet_service.rollouts.assignments import LEASE, Assign, Work, desired_of, reconcile
from tinyfleet_service.rollouts.joiners import take_joiners
from tinyfleet_service.rollouts.look import Cohort, look_is_due, take_look, take_starts
from tinyfleet_service.rollouts.observe import heard_at, image_id, see
from tinyfleet_service.rollouts.records import (
    build_of,
    devices_of,
    get_rollout,
    is_frozen,
    member_view_of,
    members_of,
    note,
    rollout_view_of,
    store_member,
)
from tinyfleet_service.rollouts.state_machine import (
    LIVE,
    MemberView,
    Stage,
    Transition,
    Verdict,
    next_member,
    next_rollout,
    taken_back,
)

FINAL = (RolloutState.PROMOTED, RolloutState.ROLLED_BACK, RolloutState.ABORTED)
UNSETTLED = (
    MemberStatus.PLANNED, MemberStatus.ASSIGNED, MemberStatus.DOWNLOADING, MemberStatus.SHADOWING, MemberStatus.TESTING,
    MemberStatus.UNDOING, MemberStatus.SILENT,
)  # fmt: skip
log = logging.getLogger(__name__)


def tick(
    engine: Engine,
    store: BlobStore,
    telemetry: Any,
    keys: Any,
    fence: int,
    now: datetime,
    *,
    assign: Assign = publish.assign_many,
) -> int:
    """One tick of all rollouts; how many assignments were made. A rollout that fails does not stop the others.

    Raises LeaseLostError when another controller took over, UnavailableError when database or blobs do not answer.
    """
    work = Work(engine, store, telemetry, keys, fence, now, assign)
    with session_scope(engine, read_only=True) as session:
        due = due_rollouts(session)
    made = take_joiners(work)
    for rollout_id in due:
        try:
            step(work, rollout_id)
            made += reconcile(work, rollout_id)
        except (LeaseLostError, UnavailableError):
            raise
        except FleetError:
            log.exception("a rollout failed in this tick", extra={"rollout": rollout_id})
    return made


def due_rollouts(session: Session) -> list[int]:
    """Live rollouts, those with a pending request, and finished ones whose devices are still on their way."""
    unsettled = select(RolloutMember.rollout_id).where(col(RolloutMember.status).in_(UNSETTLED)).distinct()
    query = select(Rollout.id).where(
        or_(col(Rollout.state).in_(LIVE), col(Rollout.requested).is_not(None), col(Rollout.id).in_(unsettled))
    )
    return sorted(i for i in session.exec(query) if i is not None)


def step(work: Work, rollout_id: int) -> None:
    """Observe, look when due, and go where the rules say, in one transaction."""
    with session_scope(work.engine) as session:
        check_fence(session, LEASE, work.fence)
        rollout = get_rollout(session, rollout_id)
        members = {member.device_id: member for member in members_of(session, rollout)}
        devices = devices_of(session, list(members.values()))
        heard = work.telemetry.last_heard(sorted(members))
        views = observe(session, rollout, members, devices, heard, work.now)
        cohort = Cohort(rollout, members, devices, heard, work.now)
        verdicts = _look(session, cohort, work.telemetry)
        view = rollout_view_of(rollout, frozen=is_frozen(session, rollout.project_id))
        transition = next_rollout(view, views, verdicts, work.now)
        if transition is not None:
            apply_transition(session, rollout, members, views, transition, work.now)
        elif rollout.requested is not None:
            note(session, rollout, "request_refused", verb=rollout.requested, state=rollout.state)
            rollout.requested = None
        session.add(rollout)


def observe(
    session: Session,
    rollout: Rollout,
    members: Mapping[str, RolloutMember],
    devices: Mapping[str, Device],
    heard: Mapping[str, datetime],
    now: datetime,
) -> list[MemberView]:
    """Bring every member up to what its device last said; the new views."""
    desired = desired_of(session, rollout)
    images = {m.build_id: None for m in members.values()}
    candidates = {i: image_id(b.image_sha256) if (b := build_of(session, i)) else None for i in images}
    views = []
    for device_id, member in members.items():
        device = devices.get(device_id)
        view = member_view_of(member, device)
        if view.status == MemberStatus.PLANNED and (device is None or device.state != DeviceState.ENROLLED):
            view = replace(view, status=MemberStatus.SKIPPED)
        candidate = candidates[member.build_id]
        has = desired.get(device_id)
        if has is not None and (has.rollout_id or 0) > (rollout.id or 0):
            _leave_to_newer(session, member, view)
            views.append(member_view_of(member, device))
            continue
        if device is not None and candidate is not None:
            contact = heard_at(device, heard.get(device_id))
            seen = see(device, has, rollout.component, candidate, contact)
            view = next_member(view, seen, now)
        if store_member(member, view):
            note(session, rollout, f"member_{view.status}", device_id, reason=view.reason)
        _count_bytes(session, member, candidate)
        session.add(member)
        views.append(view)
    return views


def _leave_to_newer(session: Session, member: RolloutMember, view: MemberView) -> None:
    """A newer rollout has the device: what it does from now on says nothing about this one."""
    if view.status == MemberStatus.UNDOING:
        member.status = MemberStatus.UNDONE
        session.add(member)


def _count_bytes(session: Session, member: RolloutMember, candidate: str | None) -> None:
    """Bytes of the download, from the device's own event of the image being staged."""
    if member.bytes_sent or member.assigned_at is None or member.status == MemberStatus.ASSIGNED:
        return
    query = select(Event).where(Event.device_id == member.device_id, Event.at >= member.assigned_at)
    for event in session.exec(query.where(col(Event.boot).is_not(None))):
        detail = event.detail
        if detail.get("image") == candidate and detail.get("to") == "STAGED" and detail.get("received_bytes"):
            build = build_of(session, member.build_id)
            member.bytes_sent = int(detail["received_bytes"])
            member.bytes_full = (build.image_bytes or 0) if build else 0


def _look(session: Session, cohort: Cohort, telemetry: Any) -> list[Verdict] | None:
    """The gates' verdicts when a look is due, else None."""
    rollout = cohort.rollout
    if rollout.state not in LIVE or rollout.stage == RolloutStage.DONE:
        return None
    take_starts(session, cohort, telemetry)
    stage_devices = [cohort.devices[m.device_id] for m in cohort.members.values() if m.wave == rollout.wave]
    interval_s = float(max((d.report_interval_s for d in stage_devices), default=1))
    session.flush()
    if not look_is_due(session, rollout, interval_s, cohort.now):
        return None
    return take_look(session, cohort, telemetry)


def apply_transition(
    session: Session,
    rollout: Rollout,
    members: Mapping[str, RolloutMember],
    views: Sequence[MemberView],
    transition: Transition,
    now: datetime,
) -> None:
    """Write where the rollout goes, take devices back, and keep the stable builds true."""
    before = RolloutState(rollout.state)
    resumed = transition.state == RolloutState.RUNNING and before != RolloutState.RUNNING
    moved = transition.stage != Stage(RolloutStage(rollout.stage), rollout.wave)
    if moved:
        rollout.look = 0
    if moved and transition.state == RolloutState.PROMOTED:
        rollout.stage = RolloutStage.DONE  # `wave` keeps the last wave
    elif moved:
        rollout.stage, rollout.wave = transition.stage.name, transition.stage.wave
    if moved or resumed:
        rollout.stage_since = now
    rollout.state, rollout.requested = transition.state, None
    if not transition.retry:
        rollout.reason, rollout.finished_at = transition.reason, now if transition.state in FINAL else None
    for view in views:
        if store_member(members[view.device_id], taken_back(view, transition)):
            session.add(members[view.device_id])
    kind = "rollout_retry" if transition.retry else f"rollout_{transition.state}"
    note(session, rollout, kind, stage=transition.stage.key, reason=transition.reason)
    if transition.retry:
        return
    if transition.state == RolloutState.PROMOTED:
        _set_stable(session, rollout, {m.device_class: m.build_id for m in _in_force(members)}, now)
    elif before == RolloutState.PROMOTED:
        _set_stable(session, rollout, _previous_by_class(members), now)


def _in_force(members: Mapping[str, RolloutMember]) -> list[RolloutMember]:
    back = (MemberStatus.SKIPPED, MemberStatus.UNDOING, MemberStatus.UNDONE)
    return [m for m in members.values() if m.status not in back]


def _previous_by_class(members: Mapping[str, RolloutMember]) -> dict[str, int]:
    counts: dict[str, Counter[int]] = {}
    for member in members.values():
        if member.previous_build_id is not None:
            counts.setdefault(member.device_class, Counter())[member.previous_build_id] += 1
    return {name: counter.most_common(1)[0][0] for name, counter in counts.items()}


def _set_stable(session: Session, rollout: Rollout, builds: Mapping[str, int], now: datetime) -> None:
    for device_class, build_id in builds.items():
        query = select(StableBuild).where(
            StableBuild.project_id == rollout.project_id,
            StableBuild.component == rollout.component,
            StableBuild.device_class == device_class,
        )
        row = session.exec(query).first() or StableBuild(
            project_id=rollout.project_id, component=rollout.component, device_class=device_class, build_id=build_id
        )
        row.build_id, row.rollout_id, row.since = build_id, rollout.id, now
        session.add(row)
