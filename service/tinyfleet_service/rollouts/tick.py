"""One step of every rollout: observe, look and decide, assign. Idempotent; may die between any two transactions.

Each rollout takes one transaction for what was seen and decided and further ones for assignments, all under the
controller's fence. What a tick decides follows from stored rows and the twins, so the next tick simply goes on.

What a tick costs follows what changed, not the size of the fleet. It looks at members whose twin was written since
(`changes.py`) and at those whose time has come (`RolloutMember.due_at`). At all members of a rollout it looks only when
a decision is at hand: a look is due, a person asked for something, the deadline has passed, controls have to be matched
with canaries, or the last decision took devices back or had more to say (`RolloutProgress`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Engine, exists
from sqlmodel import Session, col, or_, select

from tinyfleet_service import publish
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import check_fence, session_scope
from tinyfleet_service.database.keep_lease import Keep, keep_nothing
from tinyfleet_service.database.models import (
    DeviceState,
    Event,
    MemberStatus,
    Rollout,
    RolloutMember,
    RolloutProgress,
    RolloutStage,
    RolloutState,
    StableBuild,
)
from tinyfleet_service.errors import FleetError, LeaseLostError, UnavailableError
from tinyfleet_service.rollouts.assignments import LEASE, Assign, Work, desired_of, reconcile
from tinyfleet_service.rollouts.changes import (
    forget_changes,
    look_at_unassigned,
    mark_stale,
    progress_of,
    read_changes,
)
from tinyfleet_service.rollouts.joiners import take_joiners
from tinyfleet_service.rollouts.look import (
    Cohort,
    Looked,
    look_now,
    next_look_at,
    reflashed,
    store_look,
    take_own_starts,
)
from tinyfleet_service.rollouts.members import (
    PAGE,
    AnyAssigned,
    AnyDevice,
    AnyMember,
    MemberRow,
    read_pages,
    write_members,
)
from tinyfleet_service.rollouts.observe import heard_at, image_id, see
from tinyfleet_service.rollouts.paced import PacedTelemetry
from tinyfleet_service.rollouts.records import (
    build_of,
    devices_of,
    get_rollout,
    is_frozen,
    last_look,
    member_view_of,
    members_at,
    note,
    note_many,
    rollout_view_of,
    store_member,
)
from tinyfleet_service.rollouts.snapshots import CANARY
from tinyfleet_service.rollouts.state_machine import (
    GOING_BACK,
    LIVE,
    UNTOUCHED,
    MemberView,
    RolloutView,
    Stage,
    Transition,
    next_check,
    next_member,
    next_rollout,
    taken_back,
)

FINAL = (RolloutState.PROMOTED, RolloutState.ROLLED_BACK, RolloutState.ABORTED)
UNSETTLED = (
    MemberStatus.PLANNED, MemberStatus.ASSIGNED, MemberStatus.DOWNLOADING, MemberStatus.SHADOWING, MemberStatus.TESTING,
    MemberStatus.UNDOING, MemberStatus.SILENT,
)  # fmt: skip
_LEFT = (MemberStatus.SKIPPED, *GOING_BACK)
MATCHED_PER_S = 500
"""Controls are matched with canaries so often that no more members a second are read for it."""
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
    keep: Keep = keep_nothing,
) -> int:
    """One tick of all rollouts; how many assignments were made. A rollout that fails does not stop the others. `keep`
    keeps the lease meanwhile.

    Raises LeaseLostError when another controller took over, UnavailableError when database or blobs do not answer.
    """
    work = Work(engine, store, PacedTelemetry(telemetry, keep), keys, fence, now, assign, keep)
    with session_scope(engine, read_only=True) as session:
        changes, due = read_changes(session), due_rollouts(session)
    made = take_joiners(work, changes.devices)
    for rollout_id in due:
        keep()
        try:
            step(work, rollout_id, changes.devices)
            made += reconcile(work, rollout_id, changes.devices)
        except (LeaseLostError, UnavailableError):
            raise
        except FleetError:
            log.exception("a rollout failed in this tick", extra={"rollout": rollout_id})
            _look_at_all_next_time(work, rollout_id)
    forget_changes(engine, fence, changes)
    return made


def _look_at_all_next_time(work: Work, rollout_id: int) -> None:
    """The changes of this tick are forgotten; for this rollout they have not been worked off."""
    with session_scope(work.engine) as session:
        check_fence(session, LEASE, work.fence)
        mark_stale(session, rollout_id)


def due_rollouts(session: Session) -> list[int]:
    """Live rollouts, those with a pending request, and finished ones whose devices are still on their way."""
    unsettled = exists().where(
        col(RolloutMember.rollout_id) == col(Rollout.id), col(RolloutMember.status).in_(UNSETTLED)
    )
    query = select(Rollout.id).where(or_(col(Rollout.state).in_(LIVE), col(Rollout.requested).is_not(None), unsettled))
    return sorted(i for i in session.exec(query) if i is not None)


def step(work: Work, rollout_id: int, changed: Sequence[str]) -> None:
    """Observe members that may have changed, and when a decision is at hand all of them, look when due, and go where
    the rules say, in one transaction. All members are read and judged before it, so that it is short.
    """
    with session_scope(work.engine, read_only=True) as session:
        rollout, progress = get_rollout(session, rollout_id), session.get(RolloutProgress, rollout_id)
        whole = _decision_at_hand(
            _view_of(session, rollout), progress or RolloutProgress(rollout_id=rollout_id), work.now
        )
        everybody = observe_all(session, work, rollout) if whole else None
        looked = (
            look_now(session, everybody.cohort, work.telemetry, work.keep)
            if everybody and _analysed(rollout)
            else Looked()
        )
    work.keep()
    with session_scope(work.engine) as session:
        check_fence(session, LEASE, work.fence)
        rollout, progress = get_rollout(session, rollout_id), progress_of(session, rollout_id)
        if everybody is not None:
            found = replace(everybody, cohort=replace(everybody.cohort, rollout=rollout))
            _decide(session, found, looked, progress)
        else:
            _observe_some(session, rollout, progress, changed, work)
        work.keep(session)


def _observe_some(
    session: Session, rollout: Rollout, progress: RolloutProgress, changed: Sequence[str], work: Work
) -> None:
    """Members among these devices and those whose time has come: few, as objects of the session."""
    found = members_at(session, rollout, changed, work.now)
    members = {member.device_id: member for member in found}
    heard, out = work.telemetry.last_heard(sorted(members)), reflashed(session, rollout, sorted(members))
    cohort = Cohort(rollout, members, devices_of(session, found), heard, work.now, out)
    before = {member.device_id for member in found if member.status not in _LEFT}
    views = observe(session, cohort, desired_of(session, rollout, sorted(members)), partial(note, session, rollout))
    if _analysed(rollout):
        left = any(view.status in _LEFT and view.device_id in before for view in views)
        _keep_up(session, cohort, progress, work.telemetry, left=left)


@dataclass(frozen=True)
class Everybody:
    """All members of a rollout as they are now, of which nothing is written yet; `told` are lines of its history."""

    cohort: Cohort
    rows: list[MemberRow]
    views: list[MemberView]
    told: list[dict[str, Any]]


def observe_all(session: Session, work: Work, rollout: Rollout, page: int = PAGE) -> Everybody:
    """Bring all members up to what their devices last said, page by page; only reads."""
    members: dict[str, MemberRow] = {}
    devices: dict[str, AnyDevice] = {}
    heard: dict[str, datetime] = {}
    views: list[MemberView] = []
    told: list[dict[str, Any]] = []

    def tell(kind: str, device_id: str, **detail: Any) -> None:
        told.append({"device_id": device_id, "kind": kind, "detail": detail})

    for found in read_pages(session, rollout, page):
        work.keep()
        part = Cohort(rollout, found.members, found.devices, work.telemetry.last_heard(list(found.members)), work.now)
        views += observe(session, part, found.desired, tell)
        for device in found.devices.values():
            device.twin = None
        members |= found.members
        devices |= found.devices
        heard |= part.heard
    cohort = Cohort(rollout, members, devices, heard, work.now, reflashed(session, rollout))
    return Everybody(cohort, list(members.values()), views, told)


def _view_of(session: Session, rollout: Rollout) -> RolloutView:
    return rollout_view_of(rollout, frozen=is_frozen(session, rollout.project_id))


def _decision_at_hand(view: RolloutView, progress: RolloutProgress, now: datetime) -> bool:
    """Whether `next_rollout` could say anything, or controls are to be matched: only then all members are needed."""
    if progress.stale or view.requested is not None:
        return True
    if view.state not in LIVE:
        return False
    overdue = (now - view.stage_since).total_seconds() >= view.deadline_s
    held_by_deadline = overdue and view.state == RolloutState.RUNNING and not view.frozen
    return held_by_deadline or any(at is not None and now >= at for at in (progress.look_at, progress.starts_at))


def _decide(session: Session, found: Everybody, looked: Looked, progress: RolloutProgress) -> None:
    """Store what was observed and looked at, and go where the rules say."""
    rollout, cohort = found.cohort.rollout, found.cohort
    progress.stale, progress.look_at, progress.starts_at = False, looked.look_at, None
    note_many(session, rollout, found.told)
    store_look(session, cohort, looked)
    transition = next_rollout(_view_of(session, rollout), found.views, looked.verdicts, cohort.now)
    if transition is not None:
        apply_transition(session, rollout, cohort.members, found.views, transition, cohort.now)
        _go_on(session, found, transition, progress)
    elif rollout.requested is not None:
        note(session, rollout, "request_refused", verb=rollout.requested, state=rollout.state)
        rollout.requested = None
    session.add(rollout)
    write_members(session, found.rows)


def _go_on(session: Session, found: Everybody, transition: Transition, progress: RolloutProgress) -> None:
    """What the next ticks have to see to after the rollout moved: assignments, and all members only where they changed,
    where the rules have more to say at once, or where members of the new stage have begun already.
    """
    rollout, cohort = found.cohort.rollout, found.cohort
    progress.pass_after = ""
    changed, analysed = bool(transition.undo) or transition.retry, _analysed(rollout)
    begun = (cohort.started_at(m) for m in cohort.members.values() if analysed and cohort.arm_of(m) == CANARY)
    progress.stale = changed or any(begun) or _more_to_say(session, found)
    if analysed and not progress.stale:
        number, at, _ = last_look(session, rollout)
        progress.look_at = next_look_at(cohort, number, at)


def _more_to_say(session: Session, found: Everybody) -> bool:
    view = _view_of(session, found.cohort.rollout)
    return next_rollout(view, found.views, None, found.cohort.now) is not None


def _keep_up(session: Session, cohort: Cohort, progress: RolloutProgress, telemetry: Any, *, left: bool) -> None:
    """After some members were observed, of which perhaps one `left`: see to what needs all of them at the next tick."""
    progress.stale = progress.stale or left  # perhaps nobody is left in the stage
    if take_own_starts(session, cohort, telemetry) and progress.starts_at is None:
        pause_s = cohort.rollout.plan["devices"] / MATCHED_PER_S
        progress.starts_at = cohort.now + timedelta(seconds=pause_s)
    session.add(progress)


def observe(
    session: Session, cohort: Cohort, desired: Mapping[str, AnyAssigned], tell: Callable[..., None]
) -> list[MemberView]:
    """Bring every member of `cohort` up to what its device last said, and `tell` what became of it; the new views."""
    rollout, members, devices, now = cohort.rollout, cohort.members, cohort.devices, cohort.now
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
            member.due_at = None
            _leave_to_newer(member, view)
            views.append(member_view_of(member, device))
            continue
        if device is not None and candidate is not None and view.status not in UNTOUCHED:
            contact = heard_at(device, cohort.heard.get(device_id))
            seen = see(device, has, rollout.component, candidate, contact)
            view = next_member(view, seen, now)
        if store_member(member, view):
            tell(f"member_{view.status}", device_id, reason=view.reason)
        if (due_at := next_check(view, now)) != member.due_at:
            member.due_at = due_at
        views.append(view)
    _count_bytes(session, members.values(), candidates)
    return views


def _leave_to_newer(member: AnyMember, view: MemberView) -> None:
    """A newer rollout has the device: what it does from now on says nothing about this one."""
    if view.status == MemberStatus.UNDOING:
        member.status = MemberStatus.UNDONE


def _count_bytes(session: Session, members: Iterable[AnyMember], candidates: Mapping[int, str | None]) -> None:
    """Bytes of each download, from the device's own event of the image being staged."""
    open_ones = {
        m.device_id: (m, m.assigned_at)
        for m in members
        if not m.bytes_sent and m.assigned_at is not None and m.status != MemberStatus.ASSIGNED
    }
    for device_id, at, detail in _staged_events(session, sorted(open_ones)):
        member, since = open_ones[device_id]
        if at >= since and detail.get("image") == candidates[member.build_id]:
            build = build_of(session, member.build_id)
            member.bytes_sent = int(detail["received_bytes"])
            member.bytes_full = (build.image_bytes or 0) if build else 0


def _staged_events(session: Session, devices: Sequence[str]) -> Iterator[tuple[str, datetime, Mapping[str, Any]]]:
    """Device, time and detail of events that tell how many bytes a staged image took."""
    for start in range(0, len(devices), 500):
        query = select(Event.device_id, Event.at, Event.detail).where(
            col(Event.device_id).in_(devices[start : start + 500]), col(Event.boot).is_not(None)
        )
        for device_id, at, detail in session.exec(query):
            if device_id and detail.get("to") == "STAGED" and detail.get("received_bytes"):
                yield device_id, at, detail


def _analysed(rollout: Rollout) -> bool:
    return rollout.state in LIVE and rollout.stage != RolloutStage.DONE


def apply_transition(
    session: Session,
    rollout: Rollout,
    members: Mapping[str, AnyMember],
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
        store_member(members[view.device_id], taken_back(view, transition))
    kind = "rollout_retry" if transition.retry else f"rollout_{transition.state}"
    note(session, rollout, kind, stage=transition.stage.key, reason=transition.reason)
    if transition.retry:
        return
    if transition.state not in LIVE:
        look_at_unassigned(session, rollout.project_id, rollout.component)
    if transition.state == RolloutState.PROMOTED:
        _set_stable(session, rollout, {m.device_class: m.build_id for m in _in_force(members)}, now)
    elif before == RolloutState.PROMOTED:
        _set_stable(session, rollout, _previous_by_class(members), now)


def _in_force(members: Mapping[str, AnyMember]) -> list[AnyMember]:
    back = (MemberStatus.SKIPPED, MemberStatus.UNDOING, MemberStatus.UNDONE)
    return [m for m in members.values() if m.status not in back]


def _previous_by_class(members: Mapping[str, AnyMember]) -> dict[str, int]:
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
