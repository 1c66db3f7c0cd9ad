"""Leases on builds: a builder that dies loses its row when the lease runs out, and another takes it.

Every result is written only while its builder still holds the row, so that a builder thought dead cannot overwrite
what its successor did.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import Engine, and_, or_
from sqlmodel import Session, col, select

from tinyfleet_ota import Signer
from tinyfleet_service.builds.compile import CompileOutcome
from tinyfleet_service.builds.events import add_build_event
from tinyfleet_service.builds.notes import add_note
from tinyfleet_service.builds.sign import sign_build
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import database_now, session_scope
from tinyfleet_service.database.models import Build, BuildState
from tinyfleet_service.errors import SettingsError, StateConflictError
from tinyfleet_service.settings import Settings

_log = logging.getLogger(__name__)


def lease_build(engine: Engine, owner: str, settings: Settings) -> Build | None:
    """Take the oldest build that is queued or whose builder died; None when there is none."""
    while True:
        with session_scope(engine) as session:
            build = _next_build(session)
            if build is None:
                return None
            if build.attempt >= settings.build_attempts:
                _fail(
                    session, build, f"the compiler died {build.attempt} times; push the model again or see builder.log"
                )
                continue
            now = database_now(session)
            build.state = BuildState.RUNNING
            build.attempt += 1
            build.lease_owner = owner
            build.lease_until = now + timedelta(seconds=settings.build_lease_s)
            add_note(session, build, f"attempt {build.attempt}, by {owner}")
            return build


def _next_build(session: Session) -> Build | None:
    expired = and_(col(Build.state) == BuildState.RUNNING, col(Build.lease_until) < database_now(session))
    query = select(Build).where(or_(col(Build.state) == BuildState.QUEUED, expired)).order_by(col(Build.id)).limit(1)
    return session.exec(query.with_for_update(skip_locked=True)).first()


def renew_builds(engine: Engine, owner: str, build_ids: Iterable[int], settings: Settings) -> set[int]:
    """Prolong our leases; the ids that are still ours."""
    with session_scope(engine) as session:
        until = database_now(session) + timedelta(seconds=settings.build_lease_s)
        kept = {build_id for build_id in build_ids if _owned(session, build_id, owner)}
        for build_id in kept:
            session.get_one(Build, build_id).lease_until = until
        return kept


def give_back(engine: Engine, owner: str, build_ids: Iterable[int], *, counts: bool) -> None:
    """Queue builds again; with `counts` False the attempt is not held against the build (an orderly stop)."""
    with session_scope(engine) as session:
        for build_id in build_ids:
            if build := _owned(session, build_id, owner):
                build.state, build.lease_owner, build.lease_until = BuildState.QUEUED, None, None
                add_note(session, build, "queued again: " + ("its worker died" if counts else "its builder stops"))
                build.attempt -= 0 if counts else 1


def finish_build(
    engine: Engine, store: BlobStore, owner: str, build_id: int, outcome: CompileOutcome, signer: Signer | None = None
) -> bool:
    """Store what the compiler made, signed where there is a key, so that no one sees it wait for a signature at hand.

    False when the build was taken over meanwhile and the result is dropped.
    """
    image = store.put(outcome.image) if outcome.image else None
    page = store.put(outcome.report_html.encode()) if outcome.report_html else None
    with session_scope(engine) as session:
        build = _owned(session, build_id, owner)
        if build is None:
            return False
        build.state = outcome.state
        build.error = outcome.error or None
        build.image_sha256, build.image_bytes = image, len(outcome.image) or None
        build.report_html_sha256 = page
        build.report, build.sections, build.abi = outcome.report, outcome.sections, outcome.abi
        if outcome.image and outcome.state == BuildState.AWAITING_SIGNATURE and signer is not None:
            _try_to_sign(session, build, outcome.image, signer)
        _close(session, build)
        return True


def cancel_build(session: Session, build: Build) -> None:
    """Take a waiting or running build out; its builder drops what it made. Raises StateConflictError."""
    if build.state not in (BuildState.QUEUED, BuildState.RUNNING):
        raise StateConflictError(f"build {build.id} is {build.state}", next="only a build under way can be cancelled")
    build.state, build.error = BuildState.CANCELLED, "cancelled"
    session.add(build)
    _close(session, build)


def retry_build(session: Session, build: Build) -> None:
    """Queue a build again, with all its attempts. Raises StateConflictError."""
    if build.state not in (BuildState.FAILED, BuildState.MISFIT, BuildState.CANCELLED):
        raise StateConflictError(
            f"build {build.id} is {build.state}", next="only one that failed, did not fit or was cancelled starts again"
        )
    build.state, build.error, build.attempt, build.finished_at = BuildState.QUEUED, None, 0, None
    session.add(build)
    add_build_event(session, build)


def _try_to_sign(session: Session, build: Build, image: bytes, signer: Signer) -> None:
    """A key that cannot sign must not cost the compile: the build waits for its signature."""
    try:
        sign_build(session, build, image, signer)
    except SettingsError as error:
        _log.error("%s", error, extra={"build": build.id})


def _owned(session: Session, build_id: int, owner: str) -> Build | None:
    query = select(Build).where(Build.id == build_id, Build.lease_owner == owner, Build.state == BuildState.RUNNING)
    return session.exec(query.with_for_update()).first()


def _fail(session: Session, build: Build, message: str) -> None:
    build.state, build.error = BuildState.FAILED, message
    _close(session, build)


def _close(session: Session, build: Build) -> None:
    build.lease_owner, build.lease_until = None, None
    build.finished_at = database_now(session)
    add_build_event(session, build)
