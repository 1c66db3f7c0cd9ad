"""What people ask for: start a rollout, and the verbs of one under way. The controller acts on it at its next tick."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from itertools import islice
from typing import Literal

from sqlalchemy import insert, update
from sqlalchemy.orm import aliased
from sqlmodel import Session, and_, col, func, or_, select

from tinyfleet_service.auth import Role
from tinyfleet_service.database.models import (
    Event,
    MemberStatus,
    Project,
    Rollout,
    RolloutMember,
    RolloutState,
    utc_now,
)
from tinyfleet_service.errors import ForbiddenError, InvalidInputError, RolloutConflictError, StateConflictError
from tinyfleet_service.rollouts.changes import begin_passes_anew, components_in_use, look_at_unassigned
from tinyfleet_service.rollouts.planned import Plan, members_of_plan
from tinyfleet_service.rollouts.records import get_rollout, is_frozen, note, stage_from_key
from tinyfleet_service.rollouts.state_machine import ENDING, LIVE, OPEN

MEMBERS_AT_ONCE = 5000
Verb = Literal["pause", "resume", "promote", "approve", "retry", "abort", "undo"]
APPROVERS_ONLY = ("promote", "approve")
ALLOWED = {
    "pause": (RolloutState.RUNNING, RolloutState.HELD),
    "resume": (RolloutState.PAUSED, RolloutState.HELD),
    "promote": LIVE,
    "approve": (RolloutState.PENDING,),
    "retry": (*LIVE, RolloutState.PROMOTED),
    "abort": OPEN,
    "undo": (*LIVE, RolloutState.PROMOTED, RolloutState.ABORTED),
}


def start_rollout(session: Session, plan: Plan, created_by: str = "", now: datetime | None = None) -> Rollout:
    """Store rollout and members. Raises RolloutConflictError when a live rollout has some of the same devices.

    One that supersedes them does so when it begins: with `approval`, when it is approved.
    """
    session.exec(
        select(Project).where(Project.id == plan.spec.project_id).with_for_update(key_share=True)
    ).first()  # one start at a time
    if is_frozen(session, plan.spec.project_id):
        raise _frozen()
    conflicts = find_conflicts(session, plan)
    if conflicts and not plan.spec.supersede:
        raise _conflict(conflicts)
    first = next(stage_from_key(stage["key"]) for stage in plan.document["stages"] if not stage["skipped"])
    rollout = Rollout(
        project_id=plan.spec.project_id,
        version_id=plan.version_id,
        previous_version_id=plan.previous_version_id,
        component=plan.component,
        spec=plan.spec.model_dump(mode="json"),
        plan=plan.document,
        salt=plan.salt,
        state=RolloutState.PENDING if plan.spec.approval else RolloutState.RUNNING,
        stage=first.name,
        wave=first.wave,
        stage_since=now or utc_now(),
        created_at=now or utc_now(),
        created_by=created_by or plan.spec.created_by,
    )
    session.add(rollout)
    session.flush()
    assert rollout.id is not None
    rows = members_of_plan(plan, rollout.id)
    while part := list(islice(rows, MEMBERS_AT_ONCE)):
        session.connection().execute(insert(RolloutMember), part)
    note(session, rollout, "rollout_started", version=plan.document["version"], devices=plan.document["devices"])
    if rollout.state != RolloutState.PENDING:
        _supersede(session, rollout, conflicts)
    look_at_unassigned(session, rollout.project_id, rollout.component)
    return rollout


def allowed_verbs(state: str) -> tuple[str, ...]:
    """What may be asked of a rollout in this state, as far as the state goes."""
    return tuple(verb for verb, states in ALLOWED.items() if state in states)


def role_needed(verb: str) -> Role:
    """Who may ask for it."""
    return Role.APPROVER if verb in APPROVERS_ONLY else Role.OPERATOR


def request(session: Session, rollout_id: int, verb: str, by: str = "") -> Rollout:
    """Ask for `pause`, `resume`, `promote`, `approve`, `retry`, `abort` or `undo`.

    Raises NotFoundError, InvalidInputError (no such verb), StateConflictError (not in this state, about to end, fleet
    frozen), ForbiddenError (approval by the one who asked for the rollout).
    """
    rollout = get_rollout(session, rollout_id, to_write=True)  # neither a tick nor another verb comes between
    if verb not in ALLOWED:
        raise InvalidInputError(f"no verb {verb!r}", next=f"use one of {', '.join(ALLOWED)}")
    if rollout.state not in ALLOWED[verb]:
        raise StateConflictError(
            f"rollout {rollout_id} is {rollout.state}: it cannot {verb}",
            next=f"`fleetctl rollout status {rollout_id}` shows where it stands",
            rollout=rollout_id,
            state=rollout.state,
        )
    if rollout.requested in ENDING and verb not in (rollout.requested, "undo"):
        raise StateConflictError(
            f"rollout {rollout_id} is about to {rollout.requested}: it cannot {verb}",
            next=f"`fleetctl rollout status {rollout_id}` shows where it stands",
            rollout=rollout_id,
            state=rollout.state,
        )
    if verb == "promote" and is_frozen(session, rollout.project_id):
        raise _frozen()
    if verb == "approve":
        _refuse_own_approval(rollout, by)
        _supersede(session, rollout, _sharing(session, rollout.component, set(_devices_of(session, rollout))))
        _go_back_to_what_was_confirmed_since(session, rollout)
    if verb == "undo" and rollout.state not in LIVE:
        _refuse_undo_below(session, rollout)
    rollout.requested = verb
    session.add(rollout)
    note(session, rollout, "requested", verb=verb, by=by)
    return rollout


def freeze(session: Session, project_id: int, by: str, now: datetime | None = None) -> None:
    """Stop every rollout of the project from touching new devices, until `thaw`. Going back goes on."""
    project = session.get_one(Project, project_id)
    if project.frozen_at is None:
        project.frozen_at, project.frozen_by = now or utc_now(), by
        session.add(Event(project_id=project_id, kind="fleet_frozen", detail={"by": by}))


def thaw(session: Session, project_id: int, by: str) -> None:
    """End a freeze."""
    project = session.get_one(Project, project_id)
    if project.frozen_at is not None:
        project.frozen_at, project.frozen_by = None, ""
        begin_passes_anew(session, project_id)
        for component in components_in_use(session):
            look_at_unassigned(session, project_id, component)
        session.add(Event(project_id=project_id, kind="fleet_thawed", detail={"by": by}))


def find_conflicts(session: Session, plan: Plan) -> dict[int, int]:
    """Open rollouts of the same component that have some of the plan's devices, and how many."""
    return _sharing(session, plan.component, {place.device_id for place in plan.draw.places})


def _devices_of(session: Session, rollout: Rollout) -> Iterable[str]:
    return session.exec(select(RolloutMember.device_id).where(RolloutMember.rollout_id == rollout.id))


def _supersede(session: Session, rollout: Rollout, others: Iterable[int]) -> None:
    """End those of `others` that came before it."""
    for number in sorted(other for other in others if other < (rollout.id or 0)):
        old = get_rollout(session, number, to_write=True)
        old.requested = "undo" if old.requested == "undo" else "abort"
        session.add(old)
        note(session, old, "superseded", by=rollout.id)


def _go_back_to_what_was_confirmed_since(session: Session, rollout: Rollout) -> None:
    """While it waited for approval, rollouts before it went on."""
    older = aliased(RolloutMember)
    confirmed = (
        select(older.build_id)
        .join(Rollout, col(Rollout.id) == older.rollout_id)
        .where(older.device_id == RolloutMember.device_id, Rollout.component == rollout.component)
        .where(col(Rollout.id) < rollout.id, older.status == MemberStatus.CONFIRMED)
        .where(col(older.confirmed_at) > rollout.created_at)
        .order_by(col(Rollout.id).desc())
        .limit(1)
        .scalar_subquery()
    )
    own = update(RolloutMember).where(col(RolloutMember.rollout_id) == rollout.id)
    previous = func.coalesce(confirmed, RolloutMember.previous_build_id)
    session.connection().execute(own.values(previous_build_id=previous))


def _sharing(session: Session, component: str, mine: Collection[str]) -> dict[int, int]:
    query = (
        select(RolloutMember.rollout_id, RolloutMember.device_id)
        .join(Rollout, col(Rollout.id) == col(RolloutMember.rollout_id))
        .where(Rollout.component == component, col(Rollout.state).in_(OPEN))
        .where(col(RolloutMember.status).not_in((MemberStatus.SKIPPED, MemberStatus.UNDONE)))
    )
    shared: dict[int, int] = {}
    for rollout_id, device_id in session.exec(query):
        if device_id in mine:
            shared[rollout_id] = shared.get(rollout_id, 0) + 1
    return shared


def _conflict(shared: dict[int, int]) -> RolloutConflictError:
    rollout_id = min(shared)
    return RolloutConflictError(
        f"rollout {rollout_id} is under way on {shared[rollout_id]} of these devices",
        next=f"let it end, `fleetctl rollout abort {rollout_id}`, narrow --where, or take its place with --supersede",
        rollouts=sorted(shared),
    )


def _frozen() -> StateConflictError:
    return StateConflictError(
        "the fleet is frozen", next="`fleetctl thaw` ends the freeze; going back is possible still"
    )


def _refuse_own_approval(rollout: Rollout, by: str) -> None:
    if not by or by == rollout.created_by:
        raise ForbiddenError(
            f"{rollout.created_by or 'nobody known'} asked for rollout {rollout.id}: somebody else must approve it",
            next="let another person with the approver's role approve it",
        )


def _refuse_undo_below(session: Session, rollout: Rollout) -> None:
    """An old rollout cannot be undone below a newer one that the same devices keep: that one has to go first."""
    devices = select(RolloutMember.device_id).where(RolloutMember.rollout_id == rollout.id)
    kept = and_(Rollout.state == RolloutState.ABORTED, RolloutMember.status == MemberStatus.CONFIRMED)
    query = (
        select(func.max(RolloutMember.rollout_id))
        .join(Rollout, col(Rollout.id) == col(RolloutMember.rollout_id))
        .where(Rollout.component == rollout.component)
        .where(or_(col(Rollout.state).in_((*LIVE, RolloutState.PROMOTED)), kept))
        .where(col(RolloutMember.device_id).in_(devices))
    )
    newest = session.exec(query).one()
    if newest is not None and newest > (rollout.id or 0):
        raise StateConflictError(
            f"rollout {newest} came later on the same devices",
            next=f"undo that one first: `fleetctl rollout undo {newest}`",
            rollout=rollout.id,
            newer=newest,
        )
