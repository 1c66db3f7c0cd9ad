"""Members of rollouts as the database counts them: a hundred thousand objects would take seconds and much memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, case, func, not_, or_
from sqlalchemy import select as select_columns
from sqlmodel import Session, col

from tinyfleet_service.database.models import MemberStatus, RolloutMember


@dataclass
class Tally:
    """One rollout: members by wave and status, sums over all of them, and the devices that are shown by name, by id."""

    waves: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    canary_devices: int = 0
    unreached: int = 0
    downloads: int = 0
    bytes_full: int = 0
    bytes_sent: int = 0
    canaries: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    recovered: list[str] = field(default_factory=list)

    @property
    def statuses(self) -> Counter[str]:
        """Members by status."""
        return sum(self.waves.values(), Counter[str]())


def tally_members(session: Session, rollout_ids: Sequence[int]) -> Mapping[int, Tally]:
    """The members of each of these rollouts, counted."""
    found: dict[int, Tally] = {rollout_id: Tally() for rollout_id in rollout_ids}
    for row in session.connection().execute(_counts(rollout_ids)):
        _count(found[row.rollout_id], row)
    for row in session.connection().execute(_named(rollout_ids)):
        _name(found[row.rollout_id], row)
    return found


def _counts(rollout_ids: Sequence[int]) -> Any:
    member = RolloutMember
    by = (col(member.rollout_id), col(member.wave), col(member.joiner), col(member.status))
    unreached = and_(col(member.assigned_at).is_not(None), col(member.heard_at).is_(None))
    sums = (
        func.count().label("devices"),
        _number_of(unreached).label("unreached"),
        _number_of(col(member.bytes_full) > 0).label("downloads"),
        func.sum(member.bytes_full).label("bytes_full"),
        func.sum(member.bytes_sent).label("bytes_sent"),
    )
    return select_columns(*by, *sums).where(col(member.rollout_id).in_(rollout_ids)).group_by(*by)


def _number_of(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((condition, 1), else_=0))


def _named(rollout_ids: Sequence[int]) -> Any:
    """Canaries, and who is or was silent."""
    member = RolloutMember
    names = ("rollout_id", "device_id", "wave", "joiner", "status", "heard_at", "silent_at")
    canary = and_(col(member.wave) == 0, not_(col(member.joiner)))
    query = select_columns(*(col(getattr(member, name)) for name in names))
    query = query.where(col(member.rollout_id).in_(rollout_ids), or_(canary, col(member.silent_at).is_not(None)))
    return query.order_by(col(member.device_id))


def _count(tally: Tally, row: Row[Any]) -> None:
    tally.waves[row.wave][row.status] += row.devices
    tally.canary_devices += row.devices if row.wave == 0 and not row.joiner else 0
    for name in ("unreached", "downloads", "bytes_full", "bytes_sent"):
        setattr(tally, name, getattr(tally, name) + int(getattr(row, name)))


def _name(tally: Tally, row: Row[Any]) -> None:
    if row.wave == 0 and not row.joiner:
        tally.canaries.append(row.device_id)
    if row.silent_at is not None:
        still = row.status == MemberStatus.SILENT or (row.heard_at is not None and row.heard_at < row.silent_at)
        (tally.silent if still else tally.recovered).append(row.device_id)
