"""The API's edge: tokens, roles, shapes of errors, headers, events."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import web
from postgres import database_away
from service_harness import Api, push_digits, running_api
from tinyfleet_service.auth import Role, create_token, ensure_project
from tinyfleet_service.client import Client
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.errors import (
    DatabaseUnavailableError,
    FleetError,
    ForbiddenError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)

OPEN_ROUTES = {("GET", "/healthz"), ("GET", "/readyz")}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("data")) as api:
        yield api


@pytest.fixture(scope="module")
def document(api: Api) -> dict[str, Any]:
    answer = web.get(f"{api.url}/api/v1/openapi.json", headers=bearer(api.token))
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def routes(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(method.upper(), path) for path, item in document["paths"].items() for method in item]


def test_the_openapi_document_is_clean(document: dict[str, Any]) -> None:
    operations = [item for path in document["paths"].values() for item in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for operation in operations:
        assert operation["tags"], operation["operationId"]
        assert operation.get("description"), operation["operationId"]
        assert set(operation["responses"]) - {"422"}, operation["operationId"]
    secured = [operation for operation in operations if "security" in operation]
    assert len(secured) == len(operations) - len(OPEN_ROUTES)


def test_promote_needs_an_approver(api: Api) -> None:
    token = api.client().create_token("op", "operator")["token"]
    with pytest.raises(ForbiddenError, match="approver"):
        api.client(token).rollout_verb(1, "promote")


def test_tokens_end_when_revoked(api: Api) -> None:
    made = api.client().create_token("short-lived", "viewer", hours=1)
    user = api.client(made["token"])
    assert user.models() == []
    assert "token" not in next(row for row in api.client().tokens() if row["id"] == made["id"])
    api.client().revoke_token(made["id"])
    with pytest.raises(UnauthenticatedError):
        user.models()


def test_projects_do_not_see_each_other(api: Api) -> None:
    push_digits(api.client(), name="ours")
    with session_scope(api.engine) as session:
        other = ensure_project(session, "other")
        _, text = create_token(session, other.id, "t", Role.ADMIN)
    stranger = api.client(text)
    build = api.client().version("ours", "v1")["builds"][0]["id"]
    assert stranger.models() == []
    assert stranger.events() == []
    assert [row["name"] for row in stranger.tokens()] == ["t"]
    for look in (lambda: stranger.model("ours"), lambda: stranger.build(build)):
        with pytest.raises(NotFoundError):
            look()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/v1/nothing", 404, "not-found"),
        ("DELETE", "/api/v1/models", 405, "method-not-allowed"),
        ("GET", "/api/v1/builds/abc", 422, "invalid-input"),
        ("GET", "/api/v1/devices/nobody", 404, "not-found"),
        ("GET", "/api/v1/devices/nobody/telemetry", 404, "not-found"),
        ("GET", "/api/v1/devices?where=class%3D%3D", 422, "selector"),
        ("GET", "/api/v1/events?after=-1", 422, "invalid-input"),
        ("GET", "/api/v1/rollouts/99", 404, "not-found"),
        ("POST", "/api/v1/rollouts/99/pause", 404, "not-found"),
        ("POST", "/api/v1/rollouts/99/explode", 422, "invalid-input"),
        ("POST", "/api/v1/devices/nobody/revoke", 404, "not-found"),
    ],
)
def test_errors_have_one_shape(api: Api, method: str, path: str, status: int, code: str) -> None:
    answer = web.request(method, api.url + path, headers=bearer(api.token))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"model": 1}', b"[" * 100_000])
def test_hostile_bodies_are_refused(api: Api, body: bytes) -> None:
    headers = bearer(api.token) | {"Content-Type": "application/json"}
    answer = web.post(f"{api.url}/api/v1/rollouts/plan", headers=headers, content=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] in ("invalid-input", "plan")


def test_a_method_that_is_not_there_is_answered_with_those_that_are(api: Api) -> None:
    assert web.request("DELETE", f"{api.url}/api/v1/models", headers=bearer(api.token)).headers["Allow"] == "GET"


def test_claims_and_authority(api: Api) -> None:
    client = api.client()
    claim = client.create_claim("factory", "cortex-m4", tags={"site": "lyon"}, quota=3)
    assert "BEGIN CERTIFICATE" in claim["certificate_pem"]
    assert "PRIVATE KEY" in claim["key_pem"]
    assert client.ca().startswith(b"-----BEGIN CERTIFICATE")
    assert client.root() == (api.settings.dirs.keys / "root-1.cbor").read_bytes()
    with pytest.raises(NotFoundError, match="cortex-m7"):
        client.create_claim("factory", "cortex-m7")


def test_empty_fleet_has_an_overview(api: Api) -> None:
    assert api.client().overview()["devices"]["total"] == 0
    assert api.client().devices(where="class=cortex-m4 and site=lyon") == []


def test_events_stream_as_they_happen(api: Api) -> None:
    client = api.client()
    after = max((event["id"] for event in client.events(limit=500)), default=0)
    got: list[dict[str, Any]] = []
    ready = threading.Event()

    def listen() -> None:
        with (
            httpx.Client(timeout=20) as http,
            http.stream(
                "GET", f"{api.url}/api/v1/stream", headers=bearer(api.token) | {"Last-Event-ID": str(after)}
            ) as answer,
        ):
            for line in answer.iter_lines():
                ready.set()
                if line.startswith("data: "):
                    got.append(json.loads(line[6:]))
                    return

    listener = threading.Thread(target=listen)
    listener.start()
    assert ready.wait(10)
    push_digits(client, "v2", name="streamed")
    listener.join(20)
    assert [(event["kind"], event["detail"]["model"]) for event in got] == [("model.pushed", "streamed")]
    assert client.events(after=after)[0] == got[0]


def test_a_dead_service_is_a_clear_error() -> None:
    with pytest.raises(UnavailableError, match="fleetctl serve"):
        Client("http://127.0.0.1:9", "t").models()


def test_a_dead_database_is_a_clear_error_and_heals(api: Api) -> None:
    with database_away(api.engine):
        with pytest.raises(DatabaseUnavailableError):
            api.client().models()
        assert api.client().health() == {"status": "ok"}
    assert isinstance(api.client().models(), list)


def test_the_client_has_a_method_for_every_route(document: dict[str, Any]) -> None:
    source = {name for name in vars(Client) if not name.startswith("_")} - {"close"}
    verbs = ("/fleet/freeze", "/fleet/thaw")  # one method, fleet_verb, for both
    served = {(method, path.replace(verbs[1], verbs[0])) for method, path in routes(document)}
    assert len(source) >= len(served)


def test_bugs_answer_without_a_traceback(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("tinyfleet_service.http.routes_models.list_models", bug)
    with pytest.raises(FleetError) as caught:
        api.client().models()
    assert "secret" not in str(caught.value)
