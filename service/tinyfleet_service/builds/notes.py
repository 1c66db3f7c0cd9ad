"""The log of a build: what its worker, its builder and people did with it, a line each."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlmodel import Session, col, func, select

from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Build, BuildNote, BuildState

Note = Callable[[str], None]
MAX_NOTES = 500
MAX_TEXT = 400
COMPILER = "tinyfleet_compiler"


def add_note(session: Session, build: Build, text: str) -> None:
    """A line in the log of a build; beyond MAX_NOTES it is dropped."""
    assert build.id is not None
    count = session.exec(select(func.count()).where(BuildNote.build_id == build.id)).one()
    if count < MAX_NOTES:
        session.add(BuildNote(build_id=build.id, attempt=build.attempt, text=text[:MAX_TEXT]))


def store_notes(engine: Engine, owner: str, notes: list[tuple[int, str]]) -> None:
    """Enter what workers said, (build id, text) in order; of builds that are no longer ours nothing."""
    if not notes:
        return
    with session_scope(engine) as session:
        for build_id, text in notes:
            build = session.get(Build, build_id)
            if build is not None and (build.lease_owner, build.state) == (owner, BuildState.RUNNING):
                add_note(session, build, text)


def read_notes(session: Session, build_id: int, after: int = 0) -> list[BuildNote]:
    """Lines of a build's log after number `after`, oldest first."""
    query = select(BuildNote).where(BuildNote.build_id == build_id, col(BuildNote.id) > after)
    return list(session.exec(query.order_by(col(BuildNote.id))))


@contextmanager
def noting(note: Note) -> Iterator[None]:
    """Send what the compiler logs in this thread to `note`."""
    logger, handler = logging.getLogger(COMPILER), _NoteHandler(note)
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _NoteHandler(logging.Handler):
    def __init__(self, note: Note) -> None:
        super().__init__(logging.INFO)
        self._note = note
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self._note(record.getMessage())
