"""Login at the identity provider: there, and back."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.fernet import Fernet, InvalidToken
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from tinyfleet_service.auth.oidc import OidcProvider, Pending, Person
from tinyfleet_service.error_table import row_of
from tinyfleet_service.errors import FleetError, UnauthenticatedError

COOKIE = "tinyfleet_oidc"
LOGIN_S = 600
BACK = "/dashboard/oidc/callback"
# A redirect that another site began does not carry our strict cookie: the page itself has to go on.
ENTER = '<!doctype html><meta http-equiv="refresh" content="0;url=/dashboard"><a href="/dashboard">Continue</a>'


def add_oidc_routes(
    router: APIRouter,
    provider: OidcProvider,
    key: bytes,
    enter: Callable[[Request, Response, Person], None],
    refuse: Callable[[Request, str, int], Response],
) -> None:
    """`enter` begins the session of a person, `refuse` shows the login page with what went wrong."""
    box = Fernet(key)

    @router.get("/oidc/login")
    def to_provider(request: Request) -> Response:
        try:
            url, pending = provider.begin(_back(request))
        except FleetError as problem:
            return refuse(request, str(problem), row_of(type(problem)).status)
        answer = RedirectResponse(url, status_code=303)
        kept = box.encrypt("\n".join((pending.state, pending.nonce, pending.verifier)).encode()).decode()
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, kept, max_age=LOGIN_S, httponly=True, samesite="lax", secure=secure)
        return answer

    @router.get("/oidc/callback", response_class=HTMLResponse)
    def from_provider(request: Request) -> Response:
        try:
            pending = _pending(box, request.cookies.get(COOKIE))
            person = provider.finish(pending, request.query_params, _back(request))
        except FleetError as problem:
            return refuse(request, str(problem), row_of(type(problem)).status)
        answer = HTMLResponse(ENTER)
        answer.delete_cookie(COOKIE)
        enter(request, answer, person)
        return answer


def _back(request: Request) -> str:
    return str(request.base_url).rstrip("/") + BACK


def _pending(box: Fernet, cookie: str | None) -> Pending:
    try:
        return Pending(*box.decrypt((cookie or "").encode(), ttl=LOGIN_S).decode().split("\n"))
    except InvalidToken as error:
        raise UnauthenticatedError("this login was not begun here, or took too long", next="log in again") from error
