"""How often, how much, from where: rates, sizes, headers, and forms that another site sent."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import web
from service_harness import Api, running_api
from tinyfleet_service.error_table import from_document
from tinyfleet_service.errors import RateLimitError
from tinyfleet_service.http import create_app
from tinyfleet_service.http.rate import MAX_KEYS, Buckets
from tinyfleet_service.telemetry import TelemetryStore


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("data"), dashboard=True, request_limit_bytes=4096) as api:
        yield api


def test_a_bucket_refills_with_time_and_keys_do_not_share() -> None:
    now = [0.0]
    buckets = Buckets(2.0, 3.0, lambda: now[0])
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert buckets.take("b") == 0.0
    now[0] = 0.5
    assert buckets.take("a") == 0.0
    assert buckets.take("a") == 0.5
    now[0] = 1000.0
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_a_rate_of_zero_is_no_limit_and_memory_is_bounded() -> None:
    assert {Buckets(0.0, 1.0).take("a") for _ in range(100)} == {0.0}
    buckets = Buckets(1.0, 1.0)
    for number in range(MAX_KEYS + 50):
        buckets.take(str(number))
    assert len(buckets) == MAX_KEYS


def ask_narrow(api: Api, tokens: list[str], path: str = "/api/v1/models") -> list[httpx.Response]:
    """One request a credential and ten an address, then nothing for hours: no test here waits for a refill."""
    rates = {"rate_token_per_s": 1e-4, "rate_address_per_s": 1e-3, "rate_burst_s": 1e4}
    settings = api.settings.model_copy(update=rates)
    app = create_app(settings, api.engine, TelemetryStore(settings))

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as service:
            return [await service.get(path, headers={"Authorization": f"Bearer {token}"}) for token in tokens]

    return asyncio.run(ask())


def test_a_token_that_asks_too_often_is_told_when_to_come_back(api: Api) -> None:
    answers = ask_narrow(api, [api.token, api.token])
    assert [answer.status_code for answer in answers] == [200, 429]
    error = from_document(answers[1].json(), 429)
    assert isinstance(error, RateLimitError)
    assert error.data["retry_after_s"] == int(answers[1].headers["retry-after"]) > 60


def test_guessing_tokens_from_one_address_ends_soon(api: Api) -> None:
    guesses = ask_narrow(api, [f"tf_{n}" for n in range(12)])
    assert [answer.status_code for answer in guesses] == [401] * 10 + [429] * 2
    assert guesses[-1].headers["x-content-type-options"] == "nosniff"
    assert {answer.status_code for answer in ask_narrow(api, ["t"] * 20, "/healthz")} == {200}


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_above_the_limit_is_refused(api: Api, declared: bool) -> None:
    body = b'{"name": "' + b"x" * 5000 + b'"}'
    content = body if declared else iter([body[:3000], body[3000:]])
    headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"}
    answer = web.post(f"{api.url}/api/v1/tokens", headers=headers, content=content)
    assert (answer.status_code, answer.json()["error"]["limit_bytes"]) == (413, 4096)


@pytest.mark.parametrize("path", ["/api/v1/models/m/versions", "/api/v1/models/m/firmware"])
def test_an_upload_of_nobody_we_know_is_refused_before_its_body_is_read(api: Api, path: str) -> None:
    for credential in ("", "Authorization: Bearer tf_guessed\r\n", "Authorization: Basic YTpi\r\n"):
        kind = "Content-Type: multipart/form-data; boundary=B\r\nContent-Length: 5000000\r\n"
        with socket.create_connection(("127.0.0.1", api.settings.http_port), timeout=20) as raw:
            raw.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{credential}{kind}\r\n".encode())
            assert raw.recv(64).split()[1] == b"401", credential
    answer = web.post(api.url + path, files={"model": ("m.onnx", b"x" * 5_000_000)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")


def test_firmware_may_be_as_large_as_a_model(api: Api) -> None:
    headers = {"Authorization": f"Bearer {api.token}"}
    form = {"version": "v1", "device_class": "cortex-m4"}
    url = f"{api.url}/api/v1/models/app/firmware"
    answer = web.post(url, headers=headers, data=form, files={"image": ("app.bin", b"x" * 2_000_000)})
    assert (answer.status_code, "magic is missing" in answer.text) == (422, True)


def test_a_negative_or_broken_length_is_refused(api: Api) -> None:
    for length in ("-1", "1e3", "0x10"):
        request = f"POST /api/v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", api.settings.http_port), timeout=20) as raw:
            raw.sendall(request.encode())
            assert raw.recv(64).split()[1] in (b"400", b"413"), length


def test_every_answer_has_security_headers(api: Api) -> None:
    for path in ("/healthz", "/api/v1/models", "/nothing", "/dashboard/login"):
        headers = web.get(api.url + path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "strict-transport-security" not in headers  # plain HTTP
    assert web.get(f"{api.url}/api/v1/models").headers["cache-control"] == "no-store"


def test_nobody_is_believed_to_be_a_proxy_unless_set(api: Api) -> None:
    forged = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
    assert "strict-transport-security" not in web.get(f"{api.url}/healthz", headers=forged).headers


def test_a_proxy_that_is_named_is_believed(tmp_path: Path) -> None:
    """Its scheme, and the address that a request came to it from: one request each here, then none for hours."""
    rates = {"rate_address_per_s": 1e-3, "rate_burst_s": 1e3}
    with running_api(tmp_path, trusted_proxies="127.0.0.1", **rates) as api:
        told = [{"X-Forwarded-Proto": "https", "X-Forwarded-For": f"203.0.113.{n}"} for n in (1, 2)]
        assert "strict-transport-security" in web.get(f"{api.url}/healthz", headers=told[0]).headers
        answers = [web.get(f"{api.url}/api/v1/models", headers=headers).status_code for headers in told * 2]
    assert answers == [401, 401, 429, 429]


def test_a_login_from_another_site_is_refused(api: Api) -> None:
    with web.Client(base_url=api.url) as browser:
        form = {"token": api.token, "csrf": hidden_field(browser.get("/dashboard/login").text)}
        assert post(browser, "/dashboard/login", form, origin="https://evil.example").status_code == 403
        for stale in ("", "0" * 64, "é"):
            assert post(browser, "/dashboard/login", form | {"csrf": stale}).status_code == 403
        assert "tinyfleet_session" not in browser.cookies
        assert post(web.Client(base_url=api.url), "/dashboard/login", form).status_code == 403


def test_login_and_logout_carry_the_hidden_field(api: Api) -> None:
    with web.Client(base_url=api.url) as browser:
        log_in(browser, api)
        page = browser.get("/dashboard").text
        assert post(browser, "/dashboard/logout", {}).status_code == 403
        assert post(browser, "/dashboard/logout", {"csrf": hidden_field(page)}, origin="null").status_code == 403
        assert browser.get("/dashboard").status_code == 200
        answer = post(browser, "/dashboard/logout", {"csrf": hidden_field(page)}, origin=api.url)
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/login")
        assert browser.get("/dashboard").status_code == 303


def test_a_browser_logs_in_walks_the_pages_and_logs_out(api: Api, chromium: Any) -> None:
    """What a browser sends with a form (`Origin` above all) depends on our own headers."""
    page = chromium.new_page()
    page.goto(f"{api.url}/dashboard")
    page.fill("#token", api.token)
    page.click("text=Log in")
    for name in ("Audit", "Settings"):
        page.click(f"nav >> text={name}")
        assert page.inner_text("nav [aria-current=page]") == name
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} scrolls on a phone"
    page.click("text=Log out")
    assert page.url.endswith("/dashboard/login")


def log_in(browser: httpx.Client, api: Api) -> None:
    form = {"token": api.token, "csrf": hidden_field(browser.get("/dashboard/login").text)}
    answer = post(browser, "/dashboard/login", form, origin=api.url)
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def post(browser: httpx.Client, path: str, form: dict[str, str], origin: str | None = None) -> httpx.Response:
    return browser.post(path, data=form, headers={"Origin": origin} if origin else {})


def hidden_field(page: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', page)
    assert found
    return found[1]
