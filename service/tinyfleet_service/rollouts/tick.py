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
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, exists
from sqlmodel import Session, col, or_, select

from tinyfleet_service import publish
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import check_fence, session_scope
from tinyfleet_service.database.keep_lease import Keep, keep_nothing
from tinyfleet_service.database.models import MemberStatus, Rollout, RolloutMember, RolloutProgress
from tinyfleet_service.errors import FleetError, LeaseLostError, UnavailableError
from tinyfleet_service.rollouts.assignments import Assign, Work, reconcile
from tinyfleet_service.rollouts.changes import forget_changes, mark_stale, progress_of, read_changes
from tinyfleet_service.rollouts.decide import decide, decision_at_hand
from tinyfleet_service.rollouts.joiners import take_joiners
from tinyfleet_service.rollouts.look import Looked, look_now, take_own_starts
from tinyfleet_service.rollouts.observe_members import observe_all, observe_some
from tinyfleet_service.rollouts.paced import PacedTelemetry
from tinyfleet_service.rollouts.records import get_rollout, is_analysed
from tinyfleet_service.rollouts.state_machine import LIVE, UNDECIDED

UNSETTLED = (*UNDECIDED, MemberStatus.UNDOING, MemberStatus.SILENT)
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
    silence_from: datetime | None = None,
) -> int:
    """One tick of all rollouts; how many assignments were made. A rollout that fails does not stop the others. `keep`
    keeps the lease meanwhile. Nobody could be heard before `silence_from`.

    Raises LeaseLostError when another controller took over, UnavailableError when database or blobs do not answer.
    """
    work = Work(engine, store, PacedTelemetry(telemetry, keep), keys, fence, now, assign, keep, silence_from)
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
        check_fence(session, publish.CONTROLLER_LEASE, work.fence)
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
        progress = progress or RolloutProgress(rollout_id=rollout_id)
        whole = decision_at_hand(session, rollout, progress, work.now)
        everybody = observe_all(session, work, rollout) if whole else None
        analysed = everybody.cohort if everybody and is_analysed(rollout) else None
        looked = look_now(session, analysed, work.telemetry, work.keep) if analysed else Looked()
    work.keep()
    with session_scope(work.engine) as session:
        check_fence(session, publish.CONTROLLER_LEASE, work.fence)
        rollout, progress = get_rollout(session, rollout_id, to_write=True), progress_of(session, rollout_id)
        if everybody is not None:
            found = replace(everybody, cohort=replace(everybody.cohort, rollout=rollout))
            decide(session, found, looked, progress)
        else:
            _follow(session, work.inside(session), rollout, progress, changed)
        work.keep(session)


def _follow(session: Session, work: Work, rollout: Rollout, progress: RolloutProgress, changed: Sequence[str]) -> None:
    """Observe what changed, and see to what needs all members at a later tick: perhaps nobody is left in the stage, and
    canaries that began need controls.
    """
    cohort, left = observe_some(session, work, rollout, changed)
    if not is_analysed(rollout):
        return
    progress.stale = progress.stale or left
    if take_own_starts(session, cohort, work.telemetry) and progress.starts_at is None:
        pause_s = cohort.rollout.plan["devices"] / MATCHED_PER_S
        progress.starts_at = cohort.now + timedelta(seconds=pause_s)
    session.add(progress)
