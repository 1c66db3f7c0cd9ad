"""A decision about a rollout: whether one is at hand, and what is written of it.

What was observed, the look, where the rules say to go, and what the next ticks have to see to, in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlmodel import Session, col, select

from tinyfleet_service.database.models import (
    DesiredEntry,
    MemberStatus,
    Rollout,
    RolloutMember,
    RolloutProgress,
    RolloutStage,
    RolloutState,
)
from tinyfleet_service.rollouts.assignments import take_over_ended
from tinyfleet_service.rollouts.changes import look_at_unassigned
from tinyfleet_service.rollouts.look import Looked, next_look_at, store_look
from tinyfleet_service.rollouts.members import AnyMember, write_members
from tinyfleet_service.rollouts.observe_members import Everybody
from tinyfleet_service.rollouts.records import (
    is_analysed,
    is_frozen,
    last_look,
    looks_before,
    note,
    note_many,
    rollout_view_of,
    store_member,
)
from tinyfleet_service.rollouts.snapshots import CANARY
from tinyfleet_service.rollouts.stable import restore_stable, set_stable
from tinyfleet_service.rollouts.state_machine import (
    ALL_CLASSES,
    LEFT,
    LIVE,
    MemberView,
    RolloutView,
    Stage,
    Transition,
    next_rollout,
    taken_back,
)

FINAL = (RolloutState.PROMOTED, RolloutState.ROLLED_BACK, RolloutState.ABORTED)


def decision_at_hand(session: Session, rollout: Rollout, progress: RolloutProgress, now: datetime) -> bool:
    """Whether `next_rollout` could say anything, or controls are to be matched: only then all members are needed."""
    view = _view_of(session, rollout)
    if progress.stale or view.requested is not None:
        return True
    if view.state not in LIVE:
        return False
    overdue = (now - view.stage_since).total_seconds() >= view.deadline_s
    held_by_deadline = overdue and view.state == RolloutState.RUNNING and not view.frozen
    return held_by_deadline or any(at is not None and now >= at for at in (progress.look_at, progress.starts_at))


def decide(session: Session, found: Everybody, looked: Looked, progress: RolloutProgress) -> None:
    """Store what was observed and looked at, and go where the rules say."""
    rollout, cohort = found.cohort.rollout, found.cohort
    progress.stale, progress.look_at, progress.starts_at = False, looked.look_at, None
    note_many(session, rollout, found.told)
    store_look(session, cohort, looked)
    transition = next_rollout(_view_of(session, rollout), found.views, looked.verdicts, cohort.now)
    if transition is not None:
        _apply_transition(session, rollout, cohort.members, found.views, transition, cohort.now)
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
    changed, analysed = bool(transition.undo) or transition.retry, is_analysed(rollout)
    begun = (cohort.started_at(m) for m in cohort.members.values() if analysed and cohort.arm_of(m) == CANARY)
    progress.stale = changed or any(begun) or _more_to_say(session, found)
    if analysed and not progress.stale:
        number, at, _ = last_look(session, rollout)
        progress.look_at = next_look_at(cohort, number - looks_before(session, rollout), at)


def _more_to_say(session: Session, found: Everybody) -> bool:
    view = _view_of(session, found.cohort.rollout)
    return next_rollout(view, found.views, None, found.cohort.now) is not None


def _held_since(session: Session, rollout: Rollout) -> dict[str, datetime]:
    """Since when planned members hold an assignment of this rollout: from before a retry, and not assigned anew yet."""
    query = (
        select(DesiredEntry.device_id, DesiredEntry.since)
        .join(RolloutMember, col(RolloutMember.device_id) == col(DesiredEntry.device_id))
        .where(RolloutMember.rollout_id == rollout.id, RolloutMember.status == MemberStatus.PLANNED)
        .where(DesiredEntry.rollout_id == rollout.id, DesiredEntry.component == rollout.component)
    )
    return dict(session.exec(query).all())


def _apply_transition(
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
    held = _held_since(session, rollout) if transition.undo else {}
    for view in views:
        store_member(members[view.device_id], taken_back(view, transition, held.get(view.device_id)))
    if ALL_CLASSES in transition.undo and not transition.keep_confirmed:
        take_over_ended(session, rollout)
    kind = "rollout_retry" if transition.retry else f"rollout_{transition.state}"
    note(session, rollout, kind, stage=transition.stage.key, reason=transition.reason)
    if transition.retry:
        return
    if transition.state not in LIVE:
        look_at_unassigned(session, rollout.project_id, rollout.component)
    if transition.state == RolloutState.PROMOTED:
        set_stable(session, rollout, {m.device_class: m.build_id for m in _in_force(members)}, now)
    elif before == RolloutState.PROMOTED:
        restore_stable(session, rollout, now)


def _in_force(members: Mapping[str, AnyMember]) -> list[AnyMember]:
    return [m for m in members.values() if m.status not in LEFT]


def _view_of(session: Session, rollout: Rollout) -> RolloutView:
    return rollout_view_of(rollout, frozen=is_frozen(session, rollout.project_id))
