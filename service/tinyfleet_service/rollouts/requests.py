"""What people ask for: start a rollout, and the verbs of one under way. The controller acts on it at its next tick."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session, col, func, select

from tinyfleet_service.database.models import MemberStatus, Project, Rollout, RolloutMember, RolloutState, utc_now
from tinyfleet_service.errors import InvalidInputError, RolloutConflictError, StateConflictError
from tinyfleet_service.rollouts.plan import Plan, places_to_members
from tinyfleet_service.rollouts.records import get_rollout, note, stage_from_key
from tinyfleet_service.rollouts.state_machine import LIVE

ALLOWED = {
    "pause": (RolloutState.RUNNING, RolloutState.HELD),
    "resume": (RolloutState.PAUSED, RolloutState.HELD),
    "promote": LIVE,
    "abort": LIVE,
    "undo": (*LIVE, RolloutState.PROMOTED, RolloutState.ABORTED),
}


def start_rollout(session: Session, plan: Plan, created_by: str = "", now: datetime | None = None) -> Rollout:
    """Store rollout and members. Raises RolloutConflictError when a live rollout has some of the same devices."""
    session.exec(
        select(Project).where(Project.id == plan.spec.project_id).with_for_update()
    ).first()  # one start at a time
    _refuse_conflicts(session, plan)
    first = next(stage_from_key(stage["key"]) for stage in plan.document["stages"] if not stage["skipped"])
    rollout = Rollout(
        project_id=plan.spec.project_id,
        version_id=plan.version_id,
        previous_version_id=plan.previous_version_id,
        component=plan.component,
        spec=plan.spec.model_dump(mode="json"),
        plan=plan.document,
        salt=plan.salt,
        stage=first.name,
        wave=first.wave,
        stage_since=now or utc_now(),
        created_at=now or utc_now(),
        created_by=created_by or plan.spec.created_by,
    )
    session.add(rollout)
    session.flush()
    assert rollout.id is not None
    session.add_all(places_to_members(plan, rollout.id))
    note(session, rollout, "rollout_started", version=plan.document["version"], devices=plan.document["devices"])
    session.flush()
    return rollout


def request(session: Session, rollout_id: int, verb: str, by: str = "") -> Rollout:
    """Ask for `pause`, `resume`, `promote`, `abort` or `undo`.

    Raises NotFoundError, InvalidInputError (no such verb), StateConflictError (not in this state).
    """
    rollout = get_rollout(session, rollout_id)
    if verb not in ALLOWED:
        raise InvalidInputError(f"no verb {verb!r}", next=f"use one of {', '.join(ALLOWED)}")
    if rollout.state not in ALLOWED[verb]:
        raise StateConflictError(
            f"rollout {rollout_id} is {rollout.state}: it cannot {verb}",
            next=f"`fleetctl rollout status {rollout_id}` shows where it stands",
            rollout=rollout_id,
            state=rollout.state,
        )
    if verb == "undo" and rollout.state not in LIVE:
        _refuse_undo_below(session, rollout)
    rollout.requested = verb
    session.add(rollout)
    note(session, rollout, "requested", verb=verb, by=by)
    return rollout


def _refuse_conflicts(session: Session, plan: Plan) -> None:
    mine = {place.device_id for place in plan.draw.places}
    query = (
        select(RolloutMember.rollout_id, RolloutMember.device_id)
        .join(Rollout, col(Rollout.id) == col(RolloutMember.rollout_id))
        .where(Rollout.component == plan.component, col(Rollout.state).in_(LIVE))
        .where(col(RolloutMember.status).not_in((MemberStatus.SKIPPED, MemberStatus.UNDONE)))
    )
    shared: dict[int, int] = {}
    for rollout_id, device_id in session.exec(query):
        if device_id in mine:
            shared[rollout_id] = shared.get(rollout_id, 0) + 1
    if shared:
        rollout_id = min(shared)
        raise RolloutConflictError(
            f"rollout {rollout_id} is under way on {shared[rollout_id]} of these devices",
            next=f"let it end, or `fleetctl rollout abort {rollout_id}`, or narrow --where",
            rollouts=sorted(shared),
        )


def _refuse_undo_below(session: Session, rollout: Rollout) -> None:
    """An old rollout cannot be undone below a newer one of the same devices: that one has to go first."""
    devices = select(RolloutMember.device_id).where(RolloutMember.rollout_id == rollout.id)
    query = (
        select(func.max(RolloutMember.rollout_id))
        .join(Rollout, col(Rollout.id) == col(RolloutMember.rollout_id))
        .where(Rollout.component == rollout.component, col(Rollout.state).in_((*LIVE, RolloutState.PROMOTED)))
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
