"""Bounds on what comes in, and headers on what goes out."""

from __future__ import annotations

from fastapi.security.utils import get_authorization_scheme_param
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinyfleet_service.errors import FleetError, TooLargeError
from tinyfleet_service.http.context import recognise
from tinyfleet_service.http.errors import answer_error
from tinyfleet_service.settings import Settings

UPLOADS = ("/versions", "/firmware")
UPLOAD_FILES = 3  # model, calibration, evaluation; of firmware, as many bytes
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # `no-referrer` would take the `Origin` from our own forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; "
        "base-uri 'none'; form-action 'self'"
    ),
}


class LimitBody:
    """Refuse a body above the limit: by its declared length at once, by counting where none is declared.

    Forms are written to the disk before a route asks who sent them, so that of uploads is asked here.
    """

    def __init__(self, app: ASGIApp, settings: Settings, engine: Engine) -> None:
        self.app = app
        self.settings = settings
        self.engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, limit = Headers(scope=scope), self.settings.request_limit_bytes
        if scope["method"] == "POST" and scope["path"].endswith(UPLOADS):
            try:
                await run_in_threadpool(recognise, self.engine, _bearer(headers))
            except FleetError as error:
                await answer_error(error)(scope, receive, send)
                return
            limit += UPLOAD_FILES * self.settings.upload_limit_bytes
        declared = headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > limit:
            await answer_error(_too_large(limit))(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            return message

        await self.app(scope, counted, send)


def _bearer(headers: Headers) -> str | None:
    scheme, token = get_authorization_scheme_param(headers.get("authorization"))
    return token if scheme.lower() == "bearer" and token else None


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(
        f"the request is larger than {limit} bytes",
        next="send less, or raise TINYFLEET_UPLOAD_LIMIT_BYTES or TINYFLEET_REQUEST_LIMIT_BYTES on the server",
        limit_bytes=limit,
    )


class SecurityHeaders:
    """Adds the headers that a page or answer did not set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/api/"):
                    headers.setdefault("Cache-Control", "no-store")
                if scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", "max-age=31536000")
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)
