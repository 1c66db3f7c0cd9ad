"""Bounds on how often: a token bucket per credential and one per address, in the memory of this API process.

A bucket holds `rate_burst_s` seconds' worth of requests. Several API processes behind one balancer each count for
themselves, so the fleet-wide bound is their number times the setting.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tinyfleet_service.errors import RateLimitError
from tinyfleet_service.http.errors import answer_error
from tinyfleet_service.settings import Settings

MAX_KEYS = 10_000
FREE_PATHS = ("/healthz", "/readyz")  # a supervisor that asks often must not be told that the service is down


class Buckets:
    """Token buckets by key. The oldest is forgotten above `MAX_KEYS`, which only ever admits more."""

    def __init__(self, rate_per_s: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate_per_s, max(1.0, burst), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Take one token: 0.0 when there was one, else the seconds until there is. A rate of 0 admits everything."""
        if self._rate <= 0:
            return 0.0
        now = self._clock()
        tokens, since = self._buckets.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        admitted = tokens >= 1.0
        self._buckets[key] = (tokens - 1.0 if admitted else tokens, now)
        if len(self._buckets) > MAX_KEYS:
            self._buckets.popitem(last=False)
        return 0.0 if admitted else (1.0 - tokens) / self._rate

    def __len__(self) -> int:
        return len(self._buckets)


class LimitRate:
    """Answer 429 with `Retry-After` above the rate of an address or of a credential (bearer token, session cookie)."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._addresses = _buckets(settings, settings.rate_address_per_s)
        self._credentials = _buckets(settings, settings.rate_token_per_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        wait_s = 0.0 if scope["type"] != "http" or scope["path"] in FREE_PATHS else self._wait_s(scope)
        if wait_s > 0:
            await answer_error(_too_often(wait_s))(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _wait_s(self, scope: Scope) -> float:
        client = scope.get("client")
        wait_s = self._addresses.take(client[0] if client else "")
        if wait_s > 0:
            return wait_s
        headers = Headers(scope=scope)
        credential = headers.get("authorization") or headers.get("cookie")
        return self._credentials.take(_digest(credential)) if credential else 0.0


def _buckets(settings: Settings, rate_per_s: float) -> Buckets:
    return Buckets(rate_per_s, rate_per_s * settings.rate_burst_s)


def _digest(credential: str) -> str:
    """Keys of one size, and no secret kept in a table."""
    return hashlib.sha256(credential.encode()).hexdigest()


def _too_often(wait_s: float) -> RateLimitError:
    seconds = math.ceil(wait_s)
    return RateLimitError(
        "too many requests",
        next=f"wait {seconds} s; if this is no mistake, raise TINYFLEET_RATE_TOKEN_PER_S or _ADDRESS_PER_S",
        retry_after_s=seconds,
    )
