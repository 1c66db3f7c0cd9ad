"""Writing the log: within the transaction that changes something, by listening to the session.

While an `Act` is under way (`perform`), every row that a session inserts, changes or deletes is noted, and one entry a
project is appended as the last statement before the commit: a change and its entry are committed together or not at
all. Bulk SQL passes the session by: who changes many rows says so by `note_rows`, once for all of them. Counters and
outbox are not entered.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, event, inspect, text
from sqlalchemy.orm import SessionTransaction
from sqlmodel import Session, SQLModel, col, insert, select

from tinyfleet_service.audit.chain import START, canonical, entry_digest
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import AuditEntry, Rollout, utc_now

UNSEEN = {"audit_entry", "event", "lease", "outbox", "web_session"}
"""Tables that only repeat what another row says, or that nobody decided about."""
SHOWN = {
    "api_token": ("name", "role"),
    "build": ("device_class", "state"),
    "claim_certificate": ("name", "device_class", "quota"),
    "decision": ("rollout_id", "stage", "look", "gate", "outcome"),
    "device": ("device_class", "state", "tags"),
    "device_group": ("name", "devices"),
    "device_command": ("device_id", "action", "state"),
    "model": ("name", "gates"),
    "project": ("frozen_by",),
    "project_class": ("name",),
    "rollout": ("state", "stage", "wave", "requested", "reason"),
    "stable_build": ("device_class", "build_id"),
    "webhook": ("events",),
}
"""Columns whose values stand in the entry; of all others only the name, because they may be secret or large."""
MAX_CHANGES = 50
_NOTED = "audit_changes"
_LOCK_SPACE = 0x7F1EE7
_log = logging.getLogger(__name__)


@dataclass
class Act:
    """What is being done, and by whom once that is known. `tables`: only changes of these are entered."""

    action: str
    actor: str = ""
    project_id: int | None = None
    address: str = ""
    tables: frozenset[str] | None = None
    entered: bool = False


@dataclass(frozen=True)
class _Change:
    transaction: SessionTransaction | None
    project_id: int | None
    rollout_id: int | None
    shown: dict[str, Any]
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    rows: int = 1


_current: ContextVar[Act | None] = ContextVar("audit_act", default=None)


@contextmanager
def perform(act: Act) -> Iterator[Act]:
    """Enter whatever changes inside as done by this act."""
    token = _current.set(act)
    try:
        yield act
    finally:
        _current.reset(token)


def name_actor(actor: str, project_id: int) -> None:
    """Say who does what is under way, once that is known."""
    if (act := _current.get()) is not None:
        act.actor, act.project_id = actor, project_id


def note_rows(session: Session, table: str, verb: str, key: str, rows: Sequence[str], **values: Any) -> None:
    """Enter many rows that one statement of this session inserts or deletes as one change.

    `rows` names them, in order. The entry holds how many there are, the first `MAX_CHANGES` names, and the SHA-256 of
    all of them, one a line, so that a list kept elsewhere can be compared (`sha256sum`).
    """
    act = _current.get()
    if act is None or not rows or (act.tables is not None and table not in act.tables):
        return
    digest = hashlib.sha256("".join(f"{name}\n" for name in rows).encode()).hexdigest()
    values |= {"rows": list(rows[:MAX_CHANGES]), "rows_sha256": digest}
    shown = {"table": table, "key": key, "verb": verb, "fields": [], "rows": len(rows), "values": values}
    all_of_them = {"key": key, "rows_sha256": digest}
    before, after = (None, all_of_them) if verb == "insert" else (all_of_them, None)
    change = _Change(session.get_nested_transaction(), None, None, shown, before, after, len(rows))
    session.info.setdefault(_NOTED, []).append(change)


def append_status(engine: Engine, act: Act, status: int) -> None:
    """Enter an act that changed no row, with the status it was answered with."""
    assert act.project_id is not None
    with session_scope(engine) as session:
        _append(session, act, act.project_id, {"status": status}, None, None)


def _note_changes(session: Session, _: Any) -> None:
    act = _current.get()
    if act is None:
        return
    noted: list[_Change] = session.info.setdefault(_NOTED, [])
    for rows, verb in ((session.new, "insert"), (session.dirty, "update"), (session.deleted, "delete")):
        for row in rows:
            table = str(getattr(row, "__tablename__", ""))
            seen = table not in UNSEEN and (act.tables is None or table in act.tables)
            if seen and (verb != "update" or session.is_modified(row)):
                noted.append(_change(session, row, table, verb))


def _change(session: Session, row: SQLModel, table: str, verb: str) -> _Change:
    state: Any = inspect(row)
    now = {attribute.key: state.attrs[attribute.key].value for attribute in state.mapper.column_attrs}
    before = {key: _first(state.attrs[key].history.deleted, value) for key, value in now.items()}
    key = ",".join(str(value) for value in state.mapper.primary_key_from_instance(row))
    fields = sorted(k for k in now if now[k] != before[k]) if verb == "update" else []
    values = {name: now.get(name) for name in SHOWN.get(table, ())}
    return _Change(
        transaction=session.get_nested_transaction(),
        project_id=now["id"] if table == "project" else now.get("project_id"),
        rollout_id=now.get("rollout_id"),
        shown={"table": table, "key": key, "verb": verb, "fields": fields, "values": values},
        before=None if verb == "insert" else before,
        after=None if verb == "delete" else now,
    )


def _first(values: Any, otherwise: Any) -> Any:
    return values[0] if values else otherwise


def _enter_changes(session: Session) -> None:
    act = _current.get()
    if act is None or session.in_nested_transaction():
        return
    session.flush()
    by_project: dict[int, list[_Change]] = {}
    for change in session.info.pop(_NOTED, []):
        project_id = act.project_id or change.project_id or _project_of(session, change)
        if project_id is not None:
            by_project.setdefault(project_id, []).append(change)
    for project_id, changes in sorted(by_project.items()):
        shown, count = [change.shown for change in changes[:MAX_CHANGES]], sum(change.rows for change in changes)
        detail = {"changes": shown, "changed_rows": count}
        before, after = (_digest(session, [getattr(c, side) for c in changes]) for side in ("before", "after"))
        _append(session, act, project_id, detail, before, after)
        act.entered = True


def _project_of(session: Session, change: _Change) -> int | None:
    rollout = session.get(Rollout, change.rollout_id) if change.rollout_id else None
    return rollout.project_id if rollout else None


def _digest(session: Session, rows: list[dict[str, Any] | None]) -> str | None:
    present = [row for row in rows if row is not None]
    return hashlib.sha256(canonical(present)).hexdigest() if present else None


def _append(
    session: Session, act: Act, project_id: int, detail: dict[str, Any], before: str | None, after: str | None
) -> None:
    """One entry at the end of the project's chain; others wait until this transaction ends."""
    if session.connection().dialect.name == "postgresql":
        session.connection().execute(
            text("SELECT pg_advisory_xact_lock(:space, :project)"), {"space": _LOCK_SPACE, "project": project_id}
        )
    last = session.exec(
        select(AuditEntry.number, AuditEntry.entry_sha256)
        .where(AuditEntry.project_id == project_id)
        .order_by(col(AuditEntry.number).desc())
        .limit(1)
    ).first() or (0, START)
    entry: dict[str, Any] = {
        "project": project_id,
        "number": last[0] + 1,
        "at": _stamp(utc_now()),
        "actor": act.actor,
        "action": act.action,
        "detail": detail | ({"address": act.address} if act.address else {}),
        "before_sha256": before,
        "after_sha256": after,
        "previous_sha256": last[1],
    }
    digest = entry_digest(entry)
    row = {key: value for key, value in entry.items() if key != "project"}
    session.connection().execute(insert(AuditEntry).values(project_id=project_id, entry_sha256=digest, **row))
    _log.info("%s: %s", act.actor, act.action, extra={"audit_number": last[0] + 1, "audit_sha256": digest})


def _stamp(at: datetime) -> str:
    return at.isoformat(timespec="microseconds")


def _forget(session: Session, ended: SessionTransaction) -> None:
    """A savepoint that was rolled back took its changes with it; the end of the whole takes all."""
    if ended.nested:
        kept = [change for change in session.info.get(_NOTED, []) if change.transaction is not ended]
        session.info[_NOTED] = kept
    else:
        session.info.pop(_NOTED, None)


event.listen(Session, "after_flush", _note_changes)
event.listen(Session, "before_commit", _enter_changes)
event.listen(Session, "after_soft_rollback", _forget)
