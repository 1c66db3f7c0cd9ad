"""What a tick has to look at: devices whose twin was written since, and where the work on a rollout stands.

`device_change` is a queue that `database/device_index.py` fills within the transaction of each write. A tick works rows
off and drops them at its very end: one that dies in between leaves them, and looking again changes nothing. A rollout
whose step failed is marked `stale`: all its members are looked at the next time.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, delete, exists, insert, literal, update
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select

from tinyfleet_service.database.engine import check_fence, session_scope
from tinyfleet_service.database.models import (
    DesiredEntry,
    Device,
    DeviceChange,
    DeviceState,
    Rollout,
    RolloutMember,
    RolloutProgress,
    StableBuild,
)
from tinyfleet_service.database.reported import has_component
from tinyfleet_service.database.runs import runs_of
from tinyfleet_service.publish import CONTROLLER_LEASE
from tinyfleet_service.rollouts.state_machine import LIVE

AT_ONCE = 5000
"""Changes that one tick works off."""
_DEVICE = col(DeviceChange.device_id)


@dataclass(frozen=True)
class Changes:
    """Rows of the queue, ascending, and the devices that they name, sorted."""

    numbers: tuple[int, ...]
    devices: tuple[str, ...]


def read_changes(session: Session) -> Changes:
    """The oldest changes, at most `AT_ONCE`."""
    query = select_columns(col(DeviceChange.id), _DEVICE).order_by(col(DeviceChange.id)).limit(AT_ONCE)
    rows = session.connection().execute(query).all()
    return Changes(tuple(row.id for row in rows), tuple(sorted({row.device_id for row in rows})))


def forget_changes(engine: Engine, fence: int, changes: Changes) -> None:
    """Drop what was worked off, and nothing that came meanwhile. Raises LeaseLostError."""
    if not changes.numbers:
        return
    with session_scope(engine) as session:
        check_fence(session, CONTROLLER_LEASE, fence)
        for first, last in runs_of(changes.numbers):
            session.connection().execute(delete(DeviceChange).where(col(DeviceChange.id).between(first, last)))


def look_again(session: Session, devices: list[str]) -> None:
    """Have the next tick look at these devices, whatever they say until then."""
    if devices:
        session.connection().execute(insert(DeviceChange), [{"device_id": device} for device in devices])


def look_at_unassigned(session: Session, project_id: int, component: str) -> None:
    """Have the next ticks look at devices whose component was never assigned anything and is in no live rollout.

    To be called when something may now be meant for them: a rollout begins or ends, a build becomes stable, a freeze
    is over.
    """
    live = select_columns(col(Rollout.id)).where(col(Rollout.state).in_(LIVE), col(Rollout.component) == component)
    member = exists().where(col(RolloutMember.device_id) == col(Device.id), col(RolloutMember.rollout_id).in_(live))
    assigned = exists().where(col(DesiredEntry.device_id) == col(Device.id), col(DesiredEntry.component) == component)
    fresh = select_columns(col(Device.id)).where(
        col(Device.project_id) == project_id,
        col(Device.state) == DeviceState.ENROLLED,
        has_component(component),
        ~assigned,
        ~member,
    )
    session.flush()
    session.connection().execute(insert(DeviceChange).from_select(["device_id"], fresh))


def components_in_use(session: Session) -> list[str]:
    """Components that a live rollout or a stable build is for."""
    live = select(Rollout.component).where(col(Rollout.state).in_(LIVE))
    stable = select(StableBuild.component)
    return sorted({*session.exec(live.distinct()), *session.exec(stable.distinct())})


def progress_of(session: Session, rollout_id: int) -> RolloutProgress:
    """Where the work on a rollout stands; a new one looks at everybody and assigns to everybody."""
    found = session.get(RolloutProgress, rollout_id)
    if found is None:
        found = RolloutProgress(rollout_id=rollout_id)
        session.add(found)
    return found


def mark_stale(session: Session, rollout_id: int) -> None:
    """Have the next step look at all members, and the next pass assign to all."""
    progress = progress_of(session, rollout_id)
    progress.stale, progress.pass_after = True, ""
    session.add(progress)


def begin_passes_anew(session: Session, project_id: int) -> None:
    """Every rollout of the project looks again for members that lack something: a freeze is over."""
    of_project = select_columns(col(Rollout.id)).where(col(Rollout.project_id) == project_id)
    update_all = update(RolloutProgress).where(col(RolloutProgress.rollout_id).in_(of_project))
    session.connection().execute(update_all.values(stale=literal(True), pass_after=""))
