"""An answer that is computed at most once a second."""

from __future__ import annotations

import time
from collections.abc import Callable

KEEP_S = 1.0


class Kept:
    """The last checks, for a second: whoever asks without a token cannot make the service work."""

    def __init__(self) -> None:
        self._at = float("-inf")
        self._checks: dict[str, str] = {}

    def get(self, check: Callable[[], dict[str, str]]) -> dict[str, str]:
        """The last result, or a new one when that is old."""
        if time.monotonic() - self._at > KEEP_S:
            self._checks, self._at = check(), time.monotonic()
        return self._checks
