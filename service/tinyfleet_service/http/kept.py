"""Checks that are made at most once a second, by one thread at a time, however many ask for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from fastapi.concurrency import run_in_threadpool

KEEP_S = 1.0
WAIT_S = 2.0
Checks = dict[str, str]


class Kept:
    """The last checks, for a second: whoever asks without a token cannot make the service work.

    For use in one event loop. Those who ask while a check is under way wait for it, without a thread.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[Checks] | None = None
        self._at = float("-inf")

    async def get(self, check: Callable[[], Checks]) -> Checks | None:
        """The last result, or a new one when that is old; None when that one takes longer than `WAIT_S`."""
        if self._task is None or (self._task.done() and time.monotonic() - self._at > KEEP_S):
            self._task = asyncio.create_task(self._made(check))
        task = self._task
        done, _ = await asyncio.wait([task], timeout=WAIT_S)
        return task.result() if done else None

    async def _made(self, check: Callable[[], Checks]) -> Checks:
        found = await run_in_threadpool(check)
        self._at = time.monotonic()
        return found
