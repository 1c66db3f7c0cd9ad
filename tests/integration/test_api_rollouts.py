"""Rollouts over HTTP: plan, start, look, steer. What a rollout decides is tested with the controller."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlmodel import select

import web
from service_harness import Api, build_all, push_digits, running_api
from tinyfleet_service.auth import Role, create_token, ensure_project
from tinyfleet_service.client import Fleet
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Device, Project, Rollout
from tinyfleet_service.errors import (
    FleetError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    PlanError,
    RolloutConflictError,
)

FLEET = 60


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("data")) as api:
        push_digits(api.client())
        build_all(api)
        with session_scope(api.engine) as session:
            project = session.exec(select(Project)).one()
            for number in range(FLEET):
                tags = {"site": "lyon" if number % 2 else "oslo"}
                device = Device(id=f"d-{number}", project_id=project.id, device_class="cortex-m4", tags=tags)
                session.add(device)
        yield api


def test_a_plan_changes_nothing(api: Api) -> None:
    plan = api.client().plan_rollout({"model": "digits", "version": "v1", "canary": "5%"})
    assert plan
    with session_scope(api.engine) as session:
        assert session.exec(select(Rollout)).all() == []


def test_devices_are_listed_and_selected(api: Api) -> None:
    assert len(api.client().devices()) == FLEET
    found = api.client().devices(where="class=cortex-m4 and site=lyon")
    assert {device["tags"]["site"] for device in found} == {"lyon"}
    assert len(found) == FLEET // 2
    assert api.client().device("d-1")["active_version"] is None


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"model": "digits"},
        {"model": "digits", "version": "v1", "canary": "much"},
        {"model": "digits", "version": "v1", "gates": {"luck": "required"}},
        {"model": "digits", "version": "v1", "unknown": 1},
        {"model": "digits", "version": "v1", "margin": 7},
        {"model": "digits", "version": "v1", "where": "class=="},
    ],
)
def test_senseless_specs_are_refused(api: Api, spec: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        api.client().plan_rollout(spec)
    assert caught.value.next


def test_a_model_has_gates_of_its_own(api: Api) -> None:
    client = api.client()
    shown = client.set_model_gates("digits", {"latency": "off", "accuracy": "proxy"})
    assert shown == client.model_gates("digits")
    assert shown["own"] == client.model("digits")["gates"] == {"accuracy": "proxy", "latency": "off"}
    assert (shown["gates"]["shadow"], shown["gates_from"]["shadow"]) == ("proxy", "model")
    (entry,) = [row for row in client.audit(limit=50) if row["action"].startswith("PUT /api/v1/models/digits/gates")]
    assert entry["detail"]["changes"][0]["values"] == {"name": "digits", "gates": shown["own"]}
    spec = {"model": "digits", "version": "v1", "gates": {"latency": "required"}}
    plan = client.plan_rollout(spec)
    assert (plan["gates"]["latency"], plan["gates_from"]["latency"]) == ("required", "rollout")
    assert (plan["gates"]["accuracy"], plan["gates_from"]["accuracy"]) == ("proxy", "model")
    fleet = Fleet(api.url, api.token)
    assert fleet.gates("digits", accuracy=None) == {"latency": "off"}
    assert fleet.gates("digits", latency=None) == fleet.gates("digits") == {}
    with pytest.raises(NotFoundError):
        client.set_model_gates("digit", {})


@pytest.mark.parametrize(
    "gates", [{"luck": "off"}, {"shadow": "proxy"}, {"shadow": 7}, {"shadow": None}, ["off"], "off"]
)
def test_senseless_gates_of_a_model_are_refused_and_change_nothing(api: Api, gates: object) -> None:
    headers = {"Authorization": f"Bearer {api.token}"}
    answer = web.put(f"{api.url}/api/v1/models/digits/gates", json=gates, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["error"]["next"]
    assert api.client().model_gates("digits")["own"] == {}


def test_a_token_that_may_only_push_models_sets_no_gates(api: Api) -> None:
    pusher = api.client(api.client().create_token("ci", "operator", scopes=["models:write"])["token"])
    with pytest.raises(ForbiddenError, match="rollouts:write"):
        pusher.set_model_gates("digits", {"accuracy": "off"})


def test_an_unknown_version_is_named(api: Api) -> None:
    with pytest.raises((NotFoundError, PlanError), match="v9"):
        api.client().plan_rollout({"model": "digits", "version": "v9"})


def test_a_rollout_runs_its_course_over_http(api: Api) -> None:
    client = api.client()
    view = client.start_rollout({"model": "digits", "version": "v1", "canary": "5%"})
    number = view["id"]
    assert (view["version"], view["state"]) == ("digits:v1", "running")
    assert client.rollout(number)["id"] == number
    assert [row["id"] for row in client.rollouts()] == [number]
    assert client.rollout_history(number)
    assert client.explain_rollout(number) is not None
    with pytest.raises(RolloutConflictError):
        client.start_rollout({"model": "digits", "version": "v1"})
    assert client.rollout_verb(number, "pause")["id"] == number
    with session_scope(api.engine) as session:
        assert session.get(Rollout, number).created_by == "admin"


def test_who_asks_comes_from_the_token_alone(api: Api) -> None:
    with session_scope(api.engine) as session:
        other = ensure_project(session, "other")
        _, text = create_token(session, other.id, "t", Role.ADMIN)
    stranger = api.client(text)
    with pytest.raises(FleetError):
        stranger.plan_rollout({"model": "digits", "version": "v1", "project_id": 1})
    assert stranger.rollouts() == []
    with pytest.raises(NotFoundError):
        stranger.rollout(1)
    with pytest.raises(NotFoundError):
        stranger.device("d-1")
    with pytest.raises(NotFoundError):
        stranger.revoke_device("d-1")
    assert stranger.devices() == []
