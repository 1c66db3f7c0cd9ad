"""How many devices were heard from lately: within three report intervals or their sleep, by state or telemetry.

That changes with every second and depends on each device, so no kept count has it. A small fleet is counted at once. A
larger one is counted page by page in a thread that rests 19 times as long as each page took, so that no answer waits
for it: a million devices cost a twentieth of a core, and their count is minutes old.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import Engine, select
from sqlmodel import Session, col

from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Device, utc_now
from tinyfleet_service.errors import FleetError

LATELY_INTERVALS = 3
AT_ONCE = 2000
PAGE = 250
REST = 19.0


class Heard(Protocol):
    """What is read of telemetry."""

    def last_heard(self, device_ids: Sequence[str]) -> Mapping[str, datetime]:
        """When each device's newest report arrived."""


@dataclass
class _Count:
    number: int | None = None
    running: threading.Lock = field(default_factory=threading.Lock)


_counts: dict[tuple[str, int], _Count] = {}


def count_online(session: Session, telemetry: Heard, project_id: int, total: int) -> int | None:
    """Devices heard from lately; None for a large fleet that is being counted for the first time."""
    if total <= AT_ONCE:
        return count_now(session, telemetry, project_id)
    engine = session.get_bind()
    assert isinstance(engine, Engine)
    count = _counts.setdefault((str(engine.url), project_id), _Count())
    if count.running.acquire(blocking=False):
        threading.Thread(target=_recount, args=(engine, telemetry, project_id, count), daemon=True).start()
    return count.number


def _recount(engine: Engine, telemetry: Heard, project_id: int, count: _Count) -> None:
    try:
        with session_scope(engine, read_only=True) as session:
            count.number = count_now(session, telemetry, project_id, REST)
    except FleetError:
        pass  # the database does not answer: the count stays as it was
    finally:
        count.running.release()


def count_now(session: Session, telemetry: Heard, project_id: int, rest: float = 0.0) -> int:
    """Count page by page, resting `rest` times as long; telemetry is asked for devices without a recent state only."""
    online, last, started = 0, "", time.monotonic()
    columns: list[Any] = [Device.id, Device.last_seen_at, Device.report_interval_s, Device.sleep_max_s]
    base = select(*columns).where(col(Device.project_id) == project_id).order_by(col(Device.id)).limit(PAGE)
    while rows := session.connection().execute(base.where(col(Device.id) > last)).all():
        now = utc_now()
        quiet = [row for row in rows if not heard_lately(row, row.last_seen_at, now)]
        heard = telemetry.last_heard([row.id for row in quiet])
        online += len(rows) - len(quiet) + sum(heard_lately(row, heard.get(row.id), now) for row in quiet)
        last = rows[-1].id
        if rest:
            session.rollback()  # a count of minutes must not hold a snapshot
            time.sleep(rest * (time.monotonic() - started))
            started = time.monotonic()
    return online


def heard_lately(row: Any, at: datetime | None, now: datetime) -> bool:
    """Whether a device, or a row with its intervals, last heard of `at` is one of those that are counted."""
    allowed = timedelta(seconds=max(LATELY_INTERVALS * row.report_interval_s, row.sleep_max_s))
    return at is not None and now - at <= allowed
