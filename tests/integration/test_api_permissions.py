"""Every route of the OpenAPI document, called with no token, a wrong one, each role, and a stranger's administrator.

A route that is not in `LEAST_ROLE` fails the test: whoever adds one decides here who may call it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

import web
from service_harness import Api, build_all, push_digits, running_api
from tinyfleet_service.auth import Role, create_token, ensure_project
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Device, Event, WebhookDelivery, utc_now
from tinyfleet_service.http.app import create_app, openapi
from tinyfleet_service.telemetry import TelemetryStore

OPEN = {"GET /healthz", "GET /readyz"}
LEAST_ROLE = {
    "GET /api/v1/models": "viewer",
    "GET /api/v1/models/{name}": "viewer",
    "GET /api/v1/models/{name}/versions/{version}": "viewer",
    "POST /api/v1/models/{name}/versions": "operator",
    "POST /api/v1/models/{name}/firmware": "operator",
    "GET /api/v1/builds": "viewer",
    "GET /api/v1/builds/{build_id}": "viewer",
    "GET /api/v1/builds/{build_id}/log": "viewer",
    "GET /api/v1/builds/{build_id}/report.html": "viewer",
    "GET /api/v1/builds/{build_id}/image": "viewer",
    "GET /api/v1/signatures": "operator",
    "POST /api/v1/builds/{build_id}/signature": "operator",
    "GET /api/v1/device-classes": "viewer",
    "POST /api/v1/device-classes": "operator",
    "PATCH /api/v1/device-classes/{name}": "operator",
    "GET /api/v1/devices": "viewer",
    "GET /api/v1/devices/{device_id}": "viewer",
    "PUT /api/v1/devices/{device_id}/tags": "operator",
    "POST /api/v1/devices/{device_id}/revoke": "operator",
    "POST /api/v1/devices/{device_id}/reset": "operator",
    "POST /api/v1/devices/{device_id}/commands": "operator",
    "GET /api/v1/devices/{device_id}/commands": "viewer",
    "GET /api/v1/devices/{device_id}/telemetry": "viewer",
    "GET /api/v1/groups": "viewer",
    "POST /api/v1/groups": "operator",
    "GET /api/v1/groups/{group}": "viewer",
    "DELETE /api/v1/groups/{group}": "operator",
    "POST /api/v1/groups/{group}/add": "operator",
    "POST /api/v1/groups/{group}/remove": "operator",
    "GET /api/v1/claims": "viewer",
    "POST /api/v1/claims": "operator",
    "POST /api/v1/claims/{claim_id}/revoke": "operator",
    "GET /api/v1/ca": "viewer",
    "GET /api/v1/root/1": "viewer",
    "POST /api/v1/rollouts/plan": "operator",
    "GET /api/v1/rollouts": "viewer",
    "POST /api/v1/rollouts": "operator",
    "GET /api/v1/rollouts/{rollout_id}": "viewer",
    "GET /api/v1/rollouts/{rollout_id}/history": "viewer",
    "GET /api/v1/rollouts/{rollout_id}/explain": "viewer",
    "POST /api/v1/rollouts/{rollout_id}/{verb}": "operator",
    "POST /api/v1/fleet/freeze": "operator",
    "POST /api/v1/fleet/thaw": "approver",
    "GET /api/v1/overview": "viewer",
    "GET /api/v1/webhooks": "admin",
    "POST /api/v1/webhooks": "admin",
    "DELETE /api/v1/webhooks/{webhook_id}": "admin",
    "GET /api/v1/webhooks/{webhook_id}/deliveries": "admin",
    "POST /api/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/retry": "admin",
    "PUT /api/v1/models/{name}/aliases/{alias}": "operator",
    "DELETE /api/v1/models/{name}/aliases/{alias}": "operator",
    "PUT /api/v1/models/{name}/versions/{version}/approval": "approver",
    "GET /api/v1/models/{name}/gates": "viewer",
    "PUT /api/v1/models/{name}/gates": "operator",
    "GET /api/v1/models/{name}/diff": "viewer",
    "POST /api/v1/builds/{build_id}/cancel": "operator",
    "POST /api/v1/builds/{build_id}/retry": "operator",
    "GET /metrics": "viewer",
    "GET /api/v1/audit": "viewer",
    "GET /api/v1/events": "viewer",
    "GET /api/v1/stream": "viewer",
    "GET /api/v1/tokens": "admin",
    "POST /api/v1/tokens": "admin",
    "DELETE /api/v1/tokens/{token_id}": "admin",
}
ONE_FOR_ALL = {"GET /api/v1/ca", "GET /api/v1/root/1", "GET /api/v1/stream"}
"""Without a parameter, and nothing of a project in the answer (the stream's events are those of `/events`)."""


@dataclass(frozen=True)
class World:
    """An API with something of each kind in the project `default`, and who may ask about it."""

    api: Api
    http: httpx.Client
    tokens: dict[str, str]
    ids: dict[str, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with (
        pytest.MonkeyPatch.context() as patch,
        running_api(tmp_path_factory.mktemp("data"), rate_token_per_s=0, rate_address_per_s=0) as api,
    ):
        patch.setattr("tinyfleet_service.devices.revocation._EVICTION_S", 0.01)  # there is no broker to wait for
        patch.setattr("tinyfleet_service.webhooks.hooks.resolve", lambda *_: "192.0.2.1")  # nor a name server
        tokens = {role.value: api.client().create_token(f"the-{role}", role)["token"] for role in Role}
        yield World(api, web.Client(), tokens | {"stranger": stranger(api)}, ids_of(api))


def stranger(api: Api) -> str:
    with session_scope(api.engine) as session:
        other = ensure_project(session, "other")
        assert other.id is not None
        return create_token(session, other.id, "stranger", Role.ADMIN)[1]


def ids_of(api: Api) -> dict[str, str]:
    """A thing of the project for every parameter in a path."""
    version = push_digits(api.client(), name="our-secret-model")
    build_all(api)
    with session_scope(api.engine) as session:
        session.add(Device(id="our-secret-device", project_id=1, device_class="cortex-m4"))
    rollout = api.client().start_rollout({"model": "our-secret-model", "version": "v1"})
    return {
        "name": "our-secret-model",
        "version": "v1",
        "alias": "champion",
        "build_id": str(version["builds"][0]["id"]),
        "device_id": "our-secret-device",
        "group": api.client().create_group("our-secret-group")["name"],
        "claim_id": str(api.client().create_claim("our-secret-batch", "cortex-m4")["id"]),
        "rollout_id": str(rollout["id"]),
        "verb": "pause",
        **hook_of(api),
        "token_id": str(api.client().create_token("our-secret-token")["id"]),
    }


def hook_of(api: Api) -> dict[str, str]:
    """A webhook with a dead delivery."""
    hook = api.client().create_webhook("https://our-secret-host.example/x")
    with session_scope(api.engine) as session:
        session.add(Event(id=777, project_id=1, kind="quarantined"))
        session.flush()
        row = WebhookDelivery(webhook_id=hook["id"], event_id=777, event="e", state="dead", next_at=utc_now())
        session.add(row)
        session.flush()
        return {"webhook_id": str(hook["id"]), "delivery_id": str(row.id)}


def routes(api: Api) -> set[str]:
    document = openapi(create_app(api.settings, api.engine, TelemetryStore(api.settings)))
    return {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}


def call(world: World, route: str, token: str | None) -> httpx.Response:
    method, path = route.split(" ", 1)
    filled = re.sub(r"\{(\w+)\}", lambda m: world.ids[m[1]], path)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with world.http.stream(method, world.api.url + filled, headers=headers) as answer:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            answer.read()
        return answer


def test_every_route_is_decided_about(world: World) -> None:
    assert routes(world.api) == OPEN | set(LEAST_ROLE)


def test_nothing_without_a_token(world: World) -> None:
    for route in [*LEAST_ROLE, "GET /api/v1/openapi.json"]:
        for token in (None, "tf_wrong"):
            answer = call(world, route, token)
            assert answer.status_code == 401, route
            assert answer.json()["error"]["code"] == "unauthenticated"
            assert answer.headers["www-authenticate"] == "Bearer"
    assert call(world, "GET /healthz", None).status_code == 200


@pytest.mark.parametrize("role", [role.value for role in Role])
def test_every_route_times_this_role(world: World, role: str) -> None:
    for route, least in LEAST_ROLE.items():
        allowed = Role(role).includes(Role(least))
        if allowed and route.startswith("DELETE"):
            continue  # would take from the other roles what they are tested with
        status = call(world, route, world.tokens[role]).status_code
        assert (status != 403) == allowed, (route, role, status)
        assert status not in (401, 404), (route, role, status)
        assert status < 500, (route, role, status)


def test_a_strangers_administrator_finds_nothing_of_ours(world: World) -> None:
    for route in set(LEAST_ROLE) - ONE_FOR_ALL:
        answer = call(world, route, world.tokens["stranger"])
        if "{" in route:
            assert answer.status_code in (404, 422), (route, answer.status_code)  # 422: the body is missing
        elif route == "GET /api/v1/audit":  # holds the paths that the stranger typed
            assert {entry["actor"].split(" ")[0] for entry in answer.json()["items"]} <= {"stranger"}
        else:
            assert "our-secret" not in answer.text, route
        assert answer.status_code < 500, route


def test_a_strangers_administrator_changes_nothing_of_ours(world: World) -> None:
    admin = world.api.client()
    before = [row["id"] for row in admin.events(limit=500)]
    for route in set(LEAST_ROLE) - ONE_FOR_ALL:
        call(world, route, world.tokens["stranger"])
    assert [row["id"] for row in admin.events(limit=500)] == before
    assert int(world.ids["token_id"]) in [row["id"] for row in admin.tokens()]
