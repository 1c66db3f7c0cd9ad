"""Who may see the pages: login with an API token or at the identity provider, sessions, logout."""

from __future__ import annotations

import re
import secrets
from datetime import timedelta
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates
from sqlalchemy import Engine

from tinyfleet_service import auth
from tinyfleet_service.audit import Act, append_status, name_actor
from tinyfleet_service.auth import Principal, Role, has_scope, require_role, require_scope
from tinyfleet_service.auth.oidc import OidcProvider, Person
from tinyfleet_service.dashboard.csrf import FIELD, Csrf
from tinyfleet_service.dashboard.oidc_pages import add_oidc_routes
from tinyfleet_service.dashboard.session import COOKIE, load_key
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.errors import ForbiddenError, UnauthenticatedError
from tinyfleet_service.settings import Settings

LOGIN = "/dashboard/login"
LOGIN_AGAIN = f"{LOGIN}?ended=1"
"""Where a form leads that was sent without a session."""
ENDED = "your session was over, so nothing was changed: log in, then do it again"
LOGIN_COOKIE = "tinyfleet_login"
HOME = "/dashboard"
PAGE = re.compile(r"/dashboard(/[\w@.:~%-]+)*(\?[^#\\\s]*)?", re.ASCII)
"""Where a login may lead to: a page of ours and no other place."""
OPERATIONS = ("overview", "rollouts", "builds", "events")
"""What the first page shows, as scopes name it."""
PAGES = {"": OPERATIONS, "/models": ("models",), "/devices": ("devices",), "/builds": ("builds",), "/audit": ("audit",)}
FormToken = Annotated[str, Form(alias=FIELD, max_length=128)]


def login_link(request: Request) -> str:
    """The login that leads back to the page that was asked for."""
    page = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return LOGIN if page == HOME else f"{LOGIN}?{urlencode({'to': page})}"


def _page(to: str) -> str:
    return to if PAGE.fullmatch(to) else HOME


def first_page(principal: Principal) -> str:
    """The first page that the token's scopes allow; the very first where they allow none."""
    allowed = (path for path, tags in PAGES.items() if all(has_scope(principal.scopes, tag, True) for tag in tags))
    return next(allowed, "")


class Door:
    """Sessions of the dashboard and the pages that begin and end them."""

    def __init__(self, settings: Settings, engine: Engine, templates: Jinja2Templates) -> None:
        self._settings, self._engine, self._templates = settings, engine, templates
        self._key = load_key(settings.dirs.keys / "session.key")
        self.csrf = Csrf(self._key)

    def principal_of(self, request: Request) -> Principal | None:
        """Whose session the request belongs to."""
        with session_scope(self._engine, read_only=True) as session:
            return auth.find_session(session, request.cookies.get(COOKIE))

    def may_see(self, request: Request, *scopes: str) -> Principal | None:
        """Who looks at a page of these things; None without a session. Raises ForbiddenError."""
        principal = self.principal_of(request)
        if principal is not None:
            for scope in scopes:
                require_scope(principal.scopes, scope, reading=True)
        return principal

    def may_change(self, request: Request, sent: str, role: Role, scope: str) -> Principal | None:
        """Who changes something by one of our forms; None without a session. Raises ForbiddenError."""
        principal = self.principal_of(request)
        if principal is not None:
            name_actor(principal.actor, principal.project_id)
            self.csrf.check(request, request.cookies.get(COOKIE), sent)
            require_role(principal.role, role)
            require_scope(principal.scopes, scope, reading=False)
        return principal

    def csrf_field(self, request: Request) -> dict[str, str]:
        """The hidden field of this session's forms, for a template."""
        return {FIELD: self.csrf.token(request.cookies[COOKIE])}

    def add_routes(self, router: APIRouter) -> None:
        """Login, logout, and the provider's where one is set."""

        @router.get("/login", response_class=HTMLResponse)
        def login_form(request: Request, to: str = HOME, ended: bool = False) -> Response:
            return self._show_login(request, ENDED if ended else "", to=to)

        @router.post("/login", response_class=HTMLResponse)
        def login(
            request: Request, token: str = Form(max_length=256), sent: FormToken = "", to: str = Form(HOME)
        ) -> Response:
            try:
                self.csrf.check(request, request.cookies.get(LOGIN_COOKIE), sent)
                with session_scope(self._engine, read_only=True) as session:
                    found = auth.check_token(session, token.strip())
            except (UnauthenticatedError, ForbiddenError) as error:
                status = 401 if isinstance(error, UnauthenticatedError) else 403
                return self._show_login(request, error.message, status, to)
            page = _page(to)
            answer = RedirectResponse(page if page != HOME else f"{HOME}{first_page(found)}", status_code=303)
            self._enter(request, answer, found)
            return answer

        @router.post("/logout")
        def logout(request: Request, sent: FormToken = "") -> Response:
            self.csrf.check(request, request.cookies.get(COOKIE), sent)
            if principal := self.principal_of(request):
                name_actor(principal.actor, principal.project_id)
            with session_scope(self._engine) as session:
                auth.end_session(session, request.cookies.get(COOKIE))
            answer = RedirectResponse(LOGIN, status_code=303)
            answer.delete_cookie(COOKIE)
            return answer

        if self._settings.oidc_issuer:
            provider = OidcProvider(self._settings)
            add_oidc_routes(router, provider, self._key, self._enter_person, self._show_login)

    def _show_login(self, request: Request, problem: str = "", status: int = 200, to: str = HOME) -> Response:
        cookie = secrets.token_urlsafe(16)
        shown = {"problem": problem, "oidc": bool(self._settings.oidc_issuer), "to": _page(to)}
        shown |= {FIELD: self.csrf.token(cookie)}
        answer = self._templates.TemplateResponse(request, "login.html", shown, status_code=status)
        answer.set_cookie(LOGIN_COOKIE, cookie, httponly=True, samesite="strict", secure=request.url.scheme == "https")
        return answer

    def _enter_person(self, request: Request, answer: Response, person: Person) -> None:
        with session_scope(self._engine) as session:
            project = auth.ensure_project(session, self._settings.project)
        assert project.id is not None
        principal = Principal(project.id, project.name, 0, person.name, person.role)
        self._enter(request, answer, principal)
        address = request.client.host if request.client else ""
        act = Act("login at the identity provider", principal.actor, project.id, address)
        append_status(self._engine, act, answer.status_code)  # a GET, which the audit log passes by otherwise

    def _enter(self, request: Request, answer: Response, principal: Principal) -> None:
        """Begin a session; its cookie goes with the answer."""
        name_actor(principal.actor, principal.project_id)
        lifetime_s = self._settings.session_s
        with session_scope(self._engine) as session:
            cookie = auth.begin_session(session, principal, timedelta(seconds=lifetime_s))
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, cookie, max_age=int(lifetime_s), httponly=True, samesite="strict", secure=secure)
