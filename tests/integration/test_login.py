"""Logins at the dashboard: an identity provider as a process of its own, sessions and their ends, scopes of tokens."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from sqlmodel import select

import web
from integration.fleet_support import eventually
from integration.test_api_limits import hidden_field, log_in
from postgres import free_port
from service_harness import Api, running_api
from tinyfleet_service.auth import Role, find_session
from tinyfleet_service.auth.oidc import OidcProvider, Pending, parse_roles
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import WebSession, utc_now
from tinyfleet_service.errors import (
    ForbiddenError,
    InvalidInputError,
    SettingsError,
    UnauthenticatedError,
    UnavailableError,
)

if find_spec("oidc_provider_mock") is None:
    pytest.skip("oidc-provider-mock is not installed: run `make setup-test`", allow_module_level=True)


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen([sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port)]) as process:
        assert eventually(lambda: answers(url), 120)
        yield url
        process.terminate()


def answers(url: str) -> bool:
    try:
        return web.get(f"{url}/.well-known/openid-configuration").is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def api(issuer: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    oidc = {"oidc_issuer": issuer, "oidc_client_secret": "s", "oidc_roles": "fleet-admins=admin, ml = operator"}
    with running_api(tmp_path_factory.mktemp("data"), dashboard=True, **oidc) as api:
        yield api


def person(issuer: str, name: str, groups: list[str]) -> None:
    claims = {"groups": groups, "email": f"{name}@example.org"}
    web.put(f"{issuer}/users/{name}", json=claims).raise_for_status()


def come_back(api: Api, browser: httpx.Client, name: str) -> httpx.Response:
    """Go to the provider, say who we are, and follow it back."""
    there = browser.get("/dashboard/oidc/login").headers["location"]
    asked = parse_qs(urlsplit(there).query)
    assert asked["code_challenge_method"] == ["S256"]
    back = web.post(there, data={"sub": name}, follow_redirects=False).headers["location"]
    assert back.startswith(f"{api.url}/dashboard/oidc/callback?")
    return browser.get(back)


@contextmanager
def browsing(api: Api) -> Iterator[httpx.Client]:
    with web.Client(base_url=api.url) as browser:
        yield browser


def test_a_person_logs_in_with_the_highest_role_of_the_groups(api: Api, issuer: str) -> None:
    person(issuer, "alice", ["ml", "fleet-admins", "others"])
    with browsing(api) as browser:
        assert "Log in with your organisation" in browser.get("/dashboard/login").text
        answer = come_back(api, browser, "alice")
        assert (answer.status_code, "url=/dashboard" in answer.text) == (200, True)
        page = browser.get("/dashboard/settings").text
        assert "API tokens" in page
        entry = api.client().audit(limit=1000)[-1]
        assert (entry["actor"], entry["action"]) == ("alice@example.org (logged in)", "login at the identity provider")
        copy = dict(browser.cookies)
        browser.post("/dashboard/logout", data={"csrf": hidden_field(page)})
        assert web.get(f"{api.url}/dashboard", cookies=copy).status_code == 303  # a copied cookie is over too


def test_an_operator_is_none_of_the_administrators(api: Api, issuer: str) -> None:
    person(issuer, "oscar", ["ml"])
    with browsing(api) as browser:
        come_back(api, browser, "oscar")
        assert "yours has the role operator" in browser.get("/dashboard/settings").text


def test_who_is_in_no_group_gets_in_nowhere(api: Api, issuer: str) -> None:
    person(issuer, "mallory", ["fleet-admins-of-others"])
    with browsing(api) as browser:
        answer = come_back(api, browser, "mallory")
        assert answer.status_code == 403
        assert "none of your groups has a role" in answer.text
        assert browser.get("/dashboard").status_code == 303


def test_a_login_that_was_not_begun_here_is_refused(api: Api, issuer: str) -> None:
    person(issuer, "alice", ["fleet-admins"])
    with browsing(api) as browser, browsing(api) as victim:
        there = browser.get("/dashboard/oidc/login").headers["location"]
        back = web.post(there, data={"sub": "alice"}, follow_redirects=False).headers["location"]
        assert victim.get(back).status_code == 401  # no cookie of this login
        victim.get("/dashboard/oidc/login")
        assert victim.get(back).status_code == 401  # another login's state
        assert browser.get(back.replace("code=", "code=x")).status_code == 401
        assert browser.get(back).status_code == 200
        assert browser.get(back).status_code == 401  # a second time


def test_what_the_provider_says_no_with_is_shown_to_whom_began_the_login(api: Api) -> None:
    said = {"error": "access_denied", "error_description": "Mallory <b>may not</b>"}
    with browsing(api) as browser:
        there = browser.get("/dashboard/oidc/login").headers["location"]
        state = parse_qs(urlsplit(there).query)["state"][0]
        answer = browser.get("/dashboard/oidc/callback", params={**said, "state": state})
        assert answer.status_code == 401
        assert "access_denied: Mallory &lt;b&gt;may not&lt;/b&gt;" in answer.text
        strange = browser.get("/dashboard/oidc/callback", params={**said, "state": "another"})
        assert (strange.status_code, "Mallory" in strange.text) == (401, False)


def token_endpoint(monkeypatch: pytest.MonkeyPatch, status: int, body: Any) -> list[dict[str, Any]]:
    """A provider whose token endpoint answers this; what was sent there."""
    sent: list[dict[str, Any]] = []
    document = {"issuer": "https://idp", "token_endpoint": "https://idp/t", "jwks_uri": "https://idp/k"}

    def request(method: str, url: str, **options: Any) -> httpx.Response:
        asked = httpx.Request(method, url)
        if method == "GET":
            return httpx.Response(200, json=document, request=asked)
        sent.append(options)
        return httpx.Response(status, json=body, request=asked)

    monkeypatch.setattr("tinyfleet_service.auth.oidc.httpx.request", request)
    return sent


def test_a_wrong_secret_says_which_settings_to_check(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    token_endpoint(monkeypatch, 401, {"error": "invalid_client", "error_description": "unknown"})
    provider = OidcProvider(api.settings.model_copy(update={"oidc_issuer": "https://idp"}))
    with pytest.raises(UnauthenticatedError, match=r"invalid_client: unknown.*OIDC_CLIENT_ID"):
        provider.finish(Pending("st", "n", "v"), {"state": "st", "code": "c"}, "r")


@pytest.mark.parametrize(("secret", "expected"), [("a+b:c%", ("tiny%3Afleet", "a%2Bb%3Ac%25")), ("", None)])
def test_the_secret_is_sent_as_oauth_says(
    api: Api, monkeypatch: pytest.MonkeyPatch, secret: str, expected: tuple[str, str] | None
) -> None:
    sent = token_endpoint(monkeypatch, 200, {"id_token": "x"})
    chosen = {"oidc_issuer": "https://idp", "oidc_client_id": "tiny:fleet", "oidc_client_secret": secret}
    provider = OidcProvider(api.settings.model_copy(update=chosen))
    with pytest.raises(UnavailableError, match="keys cannot be read"):  # the document stands where keys should
        provider.finish(Pending("st", "n", "v"), {"state": "st", "code": "c"}, "r")
    assert sent[0].get("auth") == expected
    assert sent[0]["data"].get("client_id") == (None if secret else "tiny:fleet")


def test_a_provider_that_goes_away_in_between_is_said_so(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    with browsing(api) as browser:
        there = browser.get("/dashboard/oidc/login").headers["location"]
        state = parse_qs(urlsplit(there).query)["state"][0]
        token_endpoint(monkeypatch, 502, {})
        answer = browser.get("/dashboard/oidc/callback", params={"state": state, "code": "c"})
        assert answer.status_code == 503
        assert "does not answer" in answer.text


def test_a_provider_that_is_away_leaves_the_token_login(api: Api) -> None:
    settings = api.settings.model_copy(update={"oidc_issuer": "http://127.0.0.1:9"})
    with pytest.raises(Exception, match="does not answer"):
        OidcProvider(settings).begin("http://x/")


@pytest.mark.parametrize(
    ("claims", "problem"),
    [
        ({}, None),
        ({"aud": "another"}, "aud"),
        ({"iss": "https://evil.example"}, "iss"),
        ({"exp": 1}, "expired"),
        ({"nonce": "another"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"groups": []}, "groups"),
    ],
)
def test_every_claim_of_the_token_is_checked(
    api: Api, monkeypatch: pytest.MonkeyPatch, claims: dict[str, Any], problem: str | None
) -> None:
    key = RSAKey.generate_key(2048)
    good = {"iss": "https://idp", "aud": "tinyfleet", "exp": 2**33, "sub": "s", "nonce": "n", "groups": ["ml"]}
    token = jwt.encode({"alg": "RS256"}, {k: v for k, v in (good | claims).items() if v is not None}, key)
    provider = provider_of(api, monkeypatch, key, token)
    if problem is None:
        assert provider.finish(Pending("st", "n", "v"), {"state": "st", "code": "c"}, "r").role == Role.OPERATOR
        return
    with pytest.raises((UnauthenticatedError, ForbiddenError), match=problem):
        provider.finish(Pending("st", "n", "v"), {"state": "st", "code": "c"}, "r")


def provider_of(api: Api, monkeypatch: pytest.MonkeyPatch, key: RSAKey, token: str) -> OidcProvider:
    """A provider whose answers are given: only what the token says differs."""
    settings = api.settings.model_copy(update={"oidc_issuer": "https://idp"})
    document = {"issuer": "https://idp", "token_endpoint": "https://idp/t", "jwks_uri": "https://idp/k"}

    def fetch(method: str, url: str, **_: Any) -> dict[str, Any]:
        keys = {"keys": [key.as_dict(private=False)]}
        return keys if url.endswith("/k") else {"id_token": token} if method == "POST" else document

    monkeypatch.setattr("tinyfleet_service.auth.oidc._fetch", fetch)
    return OidcProvider(settings)


def test_a_token_of_another_key_or_none_is_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    key, other = RSAKey.generate_key(2048), RSAKey.generate_key(2048)
    claims = {"iss": "https://idp", "aud": "tinyfleet", "exp": 2**33, "sub": "s", "nonce": "n", "groups": ["ml"]}
    unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzIn0."
    for token in (jwt.encode({"alg": "RS256"}, claims, other), unsigned, "", "a.b.c"):
        provider = provider_of(api, monkeypatch, key, token)
        with pytest.raises(UnauthenticatedError):
            provider.finish(Pending("st", "n", "v"), {"state": "st", "code": "c"}, "r")


def test_role_mappings_are_checked_at_start() -> None:
    assert parse_roles("") == {}
    assert parse_roles("a=viewer, b = admin") == {"a": Role.VIEWER, "b": Role.ADMIN}
    for bad in ("a", "a=boss", "=admin"):
        with pytest.raises(SettingsError, match="OIDC_ROLES"):
            parse_roles(bad)


def test_a_session_ends_with_its_time_and_with_its_token(api: Api) -> None:
    made = api.client().create_token("short", "viewer")
    with browsing(api) as browser:
        log_in(browser, Api(api.settings, api.engine, api.url, made["token"]))
        cookie = browser.cookies["tinyfleet_session"]
        with session_scope(api.engine, read_only=True) as session:
            assert find_session(session, cookie, utc_now() + timedelta(hours=11)) is not None
            assert find_session(session, cookie, utc_now() + timedelta(hours=13)) is None
            rows = session.exec(select(WebSession)).all()
            assert cookie not in [row.cookie_sha256 for row in rows]
        assert browser.get("/dashboard").status_code == 200
        api.client().revoke_token(made["id"])
        assert browser.get("/dashboard").status_code == 303


@pytest.mark.parametrize("path", ["/api/v1/stream", "/dashboard/stream"])
def test_a_revoked_token_ends_its_open_stream(api: Api, path: str) -> None:
    made = api.client().create_token("listener", "viewer")
    begun, ended = threading.Event(), threading.Event()

    def listen() -> None:
        with browsing(api) as browser:
            log_in(browser, Api(api.settings, api.engine, api.url, made["token"]))
            headers = {"Authorization": f"Bearer {made['token']}"}
            with browser.stream("GET", path, headers=headers, timeout=60) as answer:
                for _ in answer.iter_lines():
                    begun.set()
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    assert begun.wait(60)
    assert not ended.is_set()
    api.client().revoke_token(made["id"])
    assert ended.wait(60)


def test_scopes_narrow_a_token_below_its_role(api: Api) -> None:
    ci = api.client(api.client().create_token("ci", "operator", scopes=["models:write", "builds:read"])["token"])
    assert ci.models() == []
    for refused in (ci.devices, ci.rollouts, ci.overview, lambda: ci.plan_rollout({}), ci.metrics):
        with pytest.raises(ForbiddenError, match="scope"):
            refused()
    reader = api.client(api.client().create_token("r", "admin", scopes=["tokens:read"])["token"])
    assert reader.tokens()
    with pytest.raises(ForbiddenError, match="tokens:write"):
        reader.create_token("x")
    with pytest.raises(InvalidInputError, match="no scope"):
        api.client().create_token("x", scopes=["everything:write"])


def test_scopes_narrow_what_the_pages_show_too(api: Api) -> None:
    limited = api.client().create_token("ci", "admin", scopes=["models:write", "devices:read"])
    pages = {"models": 200, "devices": 200, "claims": 200}
    pages |= dict.fromkeys(
        ("", "stream", "builds", "builds/1", "builds/1/report", "rollouts", "rollouts/1", "audit", "settings"), 403
    )
    with browsing(api) as browser:
        log_in(browser, Api(api.settings, api.engine, api.url, limited["token"]))
        assert {path: browser.get(f"/dashboard/{path}".rstrip("/")).status_code for path in pages} == pages
        assert "this needs the scope audit:read" in browser.get("/dashboard/audit").text
    for scopes, path in (([], ""), (["devices:read"], "/devices"), (["audit:read"], "/audit"), (["health:read"], "")):
        token = api.client().create_token("ci", "admin", scopes=scopes)["token"]
        with browsing(api) as browser:
            form = {"token": token, "csrf": hidden_field(browser.get("/dashboard/login").text)}
            assert browser.post("/dashboard/login", data=form).headers["location"] == f"/dashboard{path}"


def test_a_limited_token_cannot_make_one_that_may_more(api: Api) -> None:
    limited = api.client(api.client().create_token("l", "admin", scopes=["tokens:write", "models:read"])["token"])
    for asked in ([], ["devices:read"], ["models:read", "devices:read"]):
        with pytest.raises(ForbiddenError):
            limited.create_token("more", "admin", scopes=asked)
    assert limited.create_token("less", "viewer", scopes=["models:read"])["scopes"] == ["models:read"]
