"""Counts and times requests by route, traces them, and logs those that change something or that failed."""

from __future__ import annotations

import logging
import time

from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinyfleet_service.http.audit import READING
from tinyfleet_service.observe.metrics import HTTP_REQUESTS, HTTP_SECONDS
from tinyfleet_service.observe.traces import span

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_log = logging.getLogger("tinyfleet_service.http.requests")


class Observe:
    """The time of a request ends when its answer begins: an event stream lasts as long as its reader."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        method = scope["method"] if scope["method"] in METHODS else "other"
        with span(f"{method} request", path=scope["path"]) as trace:

            async def observed(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _count(scope, method, message["status"], time.monotonic() - started)
                    if trace is not None:
                        trace.set_attribute("http.response.status_code", message["status"])
                        trace.update_name(f"{method} {_route(scope)}")
                await send(message)

            await self.app(scope, receive, observed)


def _count(scope: Scope, method: str, status: int, seconds: float) -> None:
    route = _route(scope)
    HTTP_REQUESTS.labels(method, route, str(status)).inc()
    HTTP_SECONDS.labels(method, route).observe(seconds)
    if method not in READING or status >= 500:
        things = {key.removesuffix("_id"): value for key, value in scope.get("path_params", {}).items()}
        facts = {"method": method, "route": route, "status": status, "ms": round(1000 * seconds, 1), **_named(things)}
        _log.info("request", extra=facts)


def _named(things: dict[str, object]) -> dict[str, object]:
    """Path parameters under the names that logs use; `name` is the logger's own word."""
    return {{"name": "model"}.get(key, key): value for key, value in things.items()}


def _route(scope: Scope) -> str:
    """The template of the route, so that labels stay few; `other` where there is none."""
    route = scope.get("route")
    if not isinstance(route, APIRoute):
        return "other"
    parts, own = scope["path"].split("/"), route.path.split("/")[1:]
    return "/".join(parts[: len(parts) - len(own)] + own)  # the route knows nothing of its router's prefix
