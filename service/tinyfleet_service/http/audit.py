"""Enters every changing request into the audit log: with what it changed, or with the status it was refused with."""

from __future__ import annotations

import logging
from urllib.parse import quote

from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinyfleet_service.audit import Act, append_status, perform
from tinyfleet_service.errors import FleetError

READING = ("GET", "HEAD", "OPTIONS")
_log = logging.getLogger(__name__)


class AuditRequests:
    """Requests whose sender was not recognised are left to the process log: anybody could fill the audit log."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self.app = app
        self.engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http" or scope["method"] in READING:
            await self.app(scope, receive, send)
            return
        client = scope.get("client")
        act = Act(f"{scope['method']} {_printable(scope['path'])}", address=client[0] if client else "")

        async def entered_first(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._enter(act, message["status"])
            await send(message)

        with perform(act):
            await self.app(scope, receive, entered_first)

    async def _enter(self, act: Act, status: int) -> None:
        if act.project_id is None or (act.entered and status < 400):
            return
        try:
            await run_in_threadpool(append_status, self.engine, act, status)
        except FleetError as error:
            _log.error("%s of %s is missing in the audit log: %s", act.action, act.actor, error)


def _printable(path: str) -> str:
    """The path with control characters as they were sent: PostgreSQL, for one, stores no NUL."""
    return "".join(letter if letter.isprintable() else quote(letter) for letter in path)
