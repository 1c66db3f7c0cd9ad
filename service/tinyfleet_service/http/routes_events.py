"""What happened: as a list, and as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import Engine
from sqlmodel import Session, col, func, select
from starlette.concurrency import run_in_threadpool

from tinyfleet_service.auth import Principal, find_token
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Event, utc_now
from tinyfleet_service.errors import UnavailableError
from tinyfleet_service.http.context import MAX_ID, AppContext, Context, Viewer
from tinyfleet_service.http.documents import Document

router = APIRouter(tags=["events"])
PAGE = 500
KEEP_ALIVE_S = 15.0
SETTLE_S = 10.0
"""A transaction that writes events ends within so long, or its events may be missed by who reads on."""


class EventDocument(Document):
    """One event of the service or of a device."""

    id: int
    at: datetime
    kind: str
    device_id: str | None
    rollout_id: int | None
    detail: dict[str, Any]


@router.get("/events")
def get_events(
    context: Context,
    principal: Viewer,
    after: Annotated[int, Query(ge=0, le=MAX_ID, description="id of the last event seen")] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = 100,
) -> dict[str, list[EventDocument]]:
    """Events after an id, oldest first."""
    return {"items": read_events(context.engine, principal.project_id, after, limit)}


@router.get("/stream", response_class=StreamingResponse)
async def get_stream(
    context: Context,
    principal: Viewer,
    request: Request,
    last_event_id: Annotated[int | None, Header(ge=0, le=MAX_ID)] = None,
) -> StreamingResponse:
    """Server-sent events from now on, or after `Last-Event-ID`."""
    project_id = principal.project_id
    after = last_event_id if last_event_id is not None else await run_in_threadpool(newest_event, context, project_id)
    lines = stream_lines(context, request, principal, after)
    return StreamingResponse(lines, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def read_events(engine: Engine, project_id: int, after: int, limit: int) -> list[EventDocument]:
    """Events of the project after an id, oldest first."""
    query = select(Event).where(Event.project_id == project_id, col(Event.id) > after)
    with session_scope(engine, read_only=True) as session:
        rows = session.exec(query.order_by(col(Event.id)).limit(limit)).all()
        return [EventDocument.model_validate(row) for row in _settled(session, after, rows)]


def _settled(session: Session, after: int, rows: Sequence[Event]) -> Sequence[Event]:
    """Those before which none can come any more, since whoever has read an id does not look back.

    PostgreSQL numbers events when they are written, not when their transactions end. A number that is missing may still
    come, or nobody has it: after `SETTLE_S` it is taken for that. On SQLite who writes is alone.
    """
    since = utc_now() - timedelta(seconds=SETTLE_S)
    recent = next((place for place, row in enumerate(rows) if row.at > since), None)
    if recent is None or session.get_bind().dialect.name == "sqlite":
        return rows
    numbers = [after, *(row.id or 0 for row in rows)]
    low = numbers[recent]
    known = set(session.exec(select(Event.id).where(col(Event.id) > low, col(Event.id) <= numbers[-1])))
    missing = next(number for number in count(low + 1) if number not in known)
    return [row for row in rows if (row.id or 0) < missing]


def newest_event(context: AppContext, project_id: int) -> int:
    """Id of the newest event, 0 when there is none."""
    with session_scope(context.engine, read_only=True) as session:
        return session.exec(select(func.max(col(Event.id))).where(Event.project_id == project_id)).one() or 0


async def stream_lines(context: AppContext, request: Request, principal: Principal, after: int) -> AsyncIterator[str]:
    """The event table as `text/event-stream`, until the token is revoked or expires.

    A comment now and then keeps proxies from closing the connection.
    """
    quiet_s = 0.0
    yield ": connected\n\n"
    while not await request.is_disconnected():
        try:
            if not await run_in_threadpool(_still_valid, context, principal):
                return
            events = await run_in_threadpool(read_events, context.engine, principal.project_id, after, PAGE)
        except UnavailableError:
            events = []  # the database is away: the reader keeps its place and its connection
        for event in events:
            after = event.id
            yield f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"
        if not events:
            await asyncio.sleep(context.settings.poll_s)
            quiet_s += context.settings.poll_s
            if quiet_s >= KEEP_ALIVE_S:
                quiet_s = 0.0
                yield ": quiet\n\n"


def _still_valid(context: AppContext, principal: Principal) -> bool:
    with session_scope(context.engine, read_only=True) as session:
        return find_token(session, principal.token_id) is not None
