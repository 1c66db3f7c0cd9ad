"""Keeping a lease through a piece of work that takes longer than it.

The work itself calls the keeper between its parts: one that goes on keeps its lease, one that stalls loses it. No
thread does it beside the work, since that would also keep the lease of work that hangs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from sqlalchemy import Engine
from sqlmodel import Session

from tinyfleet_service.database.engine import extend_lease, session_scope

SHARE = 3
"""A lease is renewed after a third of it: two parts of the work may take the other two thirds."""


class Keep(Protocol):
    """Called between parts of a long work."""

    def __call__(self, session: Session | None = None) -> None:
        """Renew the lease when it is time to, in a transaction of its own and inside no other; or, with a session that
        writes under the fence, at once as part of its transaction. Raises LeaseLostError.
        """


def keep_nothing(session: Session | None = None) -> None:
    """For work without a lease."""


class LeaseKeeper:
    """Renews one lease that this process has just acquired, under `fence`, for `ttl_s` seconds each time."""

    def __init__(
        self, engine: Engine, name: str, fence: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine, self._name, self._fence, self._ttl_s, self._clock = engine, name, fence, ttl_s, clock
        self._renewed_s = clock()

    def __call__(self, session: Session | None = None) -> None:
        """As `Keep`. Raises LeaseLostError when another took the lease over, DatabaseUnavailableError."""
        now_s = self._clock()
        if session is not None:
            extend_lease(session, self._name, self._fence, self._ttl_s)
        elif now_s - self._renewed_s >= self._ttl_s / SHARE:
            with session_scope(self._engine) as own:
                extend_lease(own, self._name, self._fence, self._ttl_s)
        else:
            return
        self._renewed_s = now_s
