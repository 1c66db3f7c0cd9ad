"""Leaving alone for a while what failed, longer each time."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tinyfleet_service.database.models import utc_now

FIRST, LONGEST = timedelta(seconds=10), timedelta(hours=1)


@dataclass
class BackOff:
    """Who failed how often, and until when nobody tries again. Kept in memory: a new controller tries at once."""

    _failures: dict[str, tuple[int, datetime]] = field(default_factory=dict)

    def resting(self) -> list[str]:
        """Names that are not to be tried now."""
        now = utc_now()
        return [name for name, (_, until) in self._failures.items() if until > now]

    def failed(self, name: str) -> timedelta:
        """The pause that begins: 10 s, doubled with each further failure up to an hour."""
        count = self._failures[name][0] + 1 if name in self._failures else 1
        pause = min(FIRST * (1 << min(count - 1, 9)), LONGEST)
        self._failures[name] = (count, utc_now() + pause)
        return pause

    def succeeded(self, name: str) -> None:
        """Its failures are forgotten."""
        self._failures.pop(name, None)
