"""What a rollout needs of the groups that its selector names.

Rules
 1. A rollout's members are stored when it starts: who joins or leaves a group later is not taken in or out.
 2. A device without any assignment that is put into the group joins as a late joiner does: the selector is asked then.
 3. A group that the selector of an open rollout names is not deleted: `group!=x` would let everybody join.
"""

from __future__ import annotations

from sqlmodel import Session, col, select

from tinyfleet_service import devices
from tinyfleet_service.database.models import Rollout
from tinyfleet_service.errors import StateConflictError
from tinyfleet_service.rollouts.state_machine import OPEN


def delete_group(session: Session, project_id: int, name: str) -> None:
    """Forget a group that no open rollout names. Raises NotFoundError, StateConflictError."""
    group = devices.get_group(session, project_id, name, lock=True)
    naming = _rollouts_naming(session, project_id, name)
    if naming:
        raise StateConflictError(
            f"rollout {naming[0]} selects its devices by group {name!r}",
            next="wait until it is decided, or abort it",
            rollouts=naming,
        )
    devices.remove_group(session, group)


def _rollouts_naming(session: Session, project_id: int, name: str) -> list[int]:
    query = select(Rollout).where(Rollout.project_id == project_id, col(Rollout.state).in_(OPEN))
    rollouts = session.exec(query.order_by(col(Rollout.id)))
    return [r.id for r in rollouts if r.id and devices.parse_selector(r.spec.get("where") or "").names_group(name)]
