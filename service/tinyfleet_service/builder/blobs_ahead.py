"""Blobs of new builds, made before a rollout asks for them.

Nothing has to happen here: what is missing is made when a plan or the controller needs it. A thread of the builder
does it, one build after the other, and holds no build back.
"""

from __future__ import annotations

import logging
import threading

from sqlalchemy import Engine
from sqlmodel import Session

from tinyfleet_ota import OtaError
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.errors import FleetError
from tinyfleet_service.publish import builds_to_prepare, pairs_to_prepare, prepare_transfers

_log = logging.getLogger(__name__)

CLOSE_S = 5.0
"""How long an orderly stop waits for the blob under way; its claim on it runs out by itself."""


class BlobsAhead:
    """Makes blobs beside the builds of one builder."""

    def __init__(self, engine: Engine, store: BlobStore) -> None:
        self._engine, self._store = engine, store
        self._tried: set[int] = set()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def step(self) -> None:
        """Begin with the next new build, unless one is under way. Raises DatabaseUnavailableError."""
        if self._thread is not None and self._thread.is_alive():
            return
        with session_scope(self._engine, read_only=True) as session:
            waiting = [build_id for build_id in builds_to_prepare(session) if build_id not in self._tried]
        if waiting:
            self._tried.add(waiting[0])
            self._thread = threading.Thread(target=self._make, args=waiting[:1], name="blobs ahead", daemon=True)
            self._thread.start()

    def _make(self, build_id: int) -> None:
        try:
            with session_scope(self._engine, read_only=True) as session:
                pairs = pairs_to_prepare(session, build_id)
            made = prepare_transfers(self._engine, self._store, pairs, keep=self._keep)
            _log.info("blobs made ahead", extra={"build": build_id, "blobs": made})
        except _ClosedError:
            return
        except (FleetError, OtaError) as error:
            _log.warning("blobs are made when they are needed: %s", error, extra={"build": build_id})

    def _keep(self, session: Session | None = None) -> None:
        if self._closed.is_set():
            raise _ClosedError

    def close(self) -> None:
        """Make no further blob."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)


class _ClosedError(Exception):
    """The builder stops."""
