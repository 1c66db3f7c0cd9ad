"""How long counters frozen at looks are kept: some bytes for each device and look of each rollout, without end.

Rules
 1. A rollout that is open, or may become so again, keeps its pages; so does one that ended after `before`.
 2. The first transaction that removes a page of a rollout notes it on the rollout (`counters_removed_at`). So whoever
    reads pages and finds no note afterwards has read all of them: nobody recomputes from what is left.
 3. Decisions, with the numbers they rested on, stay.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete, exists, update
from sqlmodel import Session, col, select

from tinyfleet_service.database.models import Rollout, SnapshotPage
from tinyfleet_service.rollouts.state_machine import OPEN

PAGES = 500
DEVICES = 1_000_000
"""Of all pages removed by one call, at most: some 20 MB, so that SQLite's one writer is not busy for long."""


def forget_counters(
    session: Session, before: datetime, now: datetime, *, pages: int = PAGES, devices: int = DEVICES
) -> int:
    """Remove a portion of the pages of rollouts that ended before `before`, the oldest first; how many.

    Call it again for more. At least one page goes, however many devices it holds.
    """
    portion = _portion(session, before, pages, devices)
    if portion:
        ended = sorted({rollout_id for _, rollout_id in portion})
        first = update(Rollout).where(col(Rollout.id).in_(ended), col(Rollout.counters_removed_at).is_(None))
        session.connection().execute(first.values(counters_removed_at=now))
        ids = [page_id for page_id, _ in portion]
        session.connection().execute(delete(SnapshotPage).where(col(SnapshotPage.id).in_(ids)))
    return len(portion)


def _portion(session: Session, before: datetime, pages: int, devices: int) -> list[tuple[int, int]]:
    """Page and rollout, for as many pages as hold `devices` devices."""
    found: list[tuple[int, int]] = []
    left = devices
    columns = select(SnapshotPage.id, SnapshotPage.devices)
    for rollout_id in session.exec(_ended(before)):
        query = columns.where(SnapshotPage.rollout_id == rollout_id).order_by(col(SnapshotPage.id))
        for page_id, held in session.exec(query.limit(pages - len(found))):
            if found and held > left:
                return found
            found.append((page_id or 0, rollout_id))
            left -= held
        if len(found) == pages:
            break
    return found


def _ended(before: datetime) -> Any:
    has_pages = exists().where(col(SnapshotPage.rollout_id) == col(Rollout.id))
    query = select(Rollout.id).where(col(Rollout.state).not_in(OPEN), col(Rollout.finished_at) < before, has_pages)
    return query.order_by(col(Rollout.finished_at), col(Rollout.id))
