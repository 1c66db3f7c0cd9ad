"""From when on a device's silence is its own: not while this controller was away, deaf or stood still.

After a stop of the service, an outage of broker or database, a suspended machine or a step of its clock all devices
have said nothing for long, and they come back one by one. That speaks of nobody's candidate.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from tinyfleet_service.rollouts import RETURN_S

RETURN = timedelta(seconds=RETURN_S)
log = logging.getLogger(__name__)


class Hearing:
    """What a controller knows of its own absences; a standstill of `gap_s` is one."""

    def __init__(self, gap_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap_s, self._clock = gap_s, clock
        self._connection: int | None = None
        self._called: tuple[datetime, float] | None = None
        self._done_s = 0.0
        self._from: datetime | None = None

    def silence_from(self, now: datetime, connection: int | None) -> datetime:
        """For a tick that begins `now`, on the connection with this number, None without one."""
        if self._from is None or self._was_away(now, connection):
            if connection is not None:
                log.info("devices could not be heard until now: their silence counts again in %s s", RETURN.seconds)
            self._from = now + RETURN
        self._connection, self._called = connection, (now, self._clock())
        return self._from

    def done(self) -> None:
        """A tick has ended well."""
        self._done_s = self._clock()

    def _was_away(self, now: datetime, connection: int | None) -> bool:
        assert self._called is not None
        before, before_s = self._called
        clock_s = self._clock()
        stepped_s = (now - before).total_seconds() - (clock_s - before_s)  # also where the machine was suspended
        stood_still = clock_s - self._done_s > self._gap_s or abs(stepped_s) > self._gap_s
        return stood_still or connection is None or connection != self._connection
