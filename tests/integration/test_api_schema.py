"""Requests made from the OpenAPI document, valid and not: no answer is a 5xx, and each error has the one shape.

Seed and number of examples are fixed, so that a failure repeats.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

import web
from service_harness import Api, push_digits, running_api
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Device
from tinyfleet_service.http.app import create_app, openapi
from tinyfleet_service.telemetry import TelemetryStore

EXAMPLES = 8
ELSEWHERE = {"/api/v1/stream", "/readyz"}  # endless, and 503 by its nature: test_api.py, test_observe.py


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with (
        pytest.MonkeyPatch.context() as patch,
        running_api(tmp_path_factory.mktemp("data"), rate_token_per_s=0, rate_address_per_s=0) as api,
    ):
        patch.setattr("tinyfleet_service.devices.revocation._EVICTION_S", 0.01)  # there is no broker to wait for
        patch.setattr("tinyfleet_service.webhooks.hooks.resolve", lambda *_: "192.0.2.1")  # nor a name server
        push_digits(api.client(), name="a")
        with session_scope(api.engine) as session:
            session.add(Device(id="1", project_id=1, device_class="cortex-m4"))
        yield api


def operations(api: Api) -> list[Any]:
    """Every operation of the document, to be sent to the application without a network between."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: run `make setup-test`")
    app = create_app(api.settings, api.engine, TelemetryStore(api.settings))
    schema = schemathesis.openapi.from_dict(openapi(app))
    schema.app = app
    return [found for result in schema.get_all_operations() if (found := result.ok()).path not in ELSEWHERE]


def test_no_request_from_the_document_breaks_the_service(api: Api) -> None:
    found = operations(api)
    assert len(found) > 25
    for operation in found:
        answers = send_examples(operation, api.token)
        assert len(answers) >= 1, operation.label
        for answer in answers:
            assert answer.status_code < 500, (operation.label, answer.request.url, answer.text[:500])
            if answer.status_code >= 400:
                assert set(answer.json()) == {"error"}, (operation.label, answer.text[:500])


def test_every_operation_that_needs_a_token_says_what_it_answers_without(api: Api) -> None:
    document = openapi(create_app(api.settings, api.engine, TelemetryStore(api.settings)))
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert all("401" in operation["responses"] for operation in operations if "security" in operation)


def send_examples(operation: Any, token: str) -> list[Any]:
    answers = []

    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def send(case: Any) -> None:
        answers.append(case.call(headers={"Authorization": f"Bearer {token}"}))

    send()
    return answers


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/v1/builds/99999999999999999999999", None),
        ("GET", "/api/v1/rollouts/2147483648", None),
        ("DELETE", "/api/v1/tokens/0", None),
        ("GET", "/api/v1/events?after=9223372036854775808", None),
        ("POST", "/api/v1/claims", {"name": "n", "device_class": "cortex-m4", "quota": 10**30}),
        ("POST", "/api/v1/claims", {"name": "n", "device_class": "cortex-m4", "days": 1e300}),
        ("POST", "/api/v1/claims", {"name": "\x00", "device_class": "cortex-m4"}),
        ("POST", "/api/v1/tokens", {"name": "a\x00b"}),
        ("POST", "/api/v1/rollouts/plan", {"model": "a", "version": "v1", "canary": "9" * 400 + "%"}),
        ("POST", "/api/v1/rollouts/plan", {"model": "a", "version": "v1", "soak_s": 1e400}),
        ("GET", "/api/v1/devices?where=" + "(" * 4000, None),
    ],
)
def test_numbers_and_texts_beyond_the_columns_are_refused(api: Api, method: str, path: str, body: Any) -> None:
    headers = {"Authorization": f"Bearer {api.token}"}
    answer = web.request(method, api.url + path, headers=headers, json=_finite(body))
    assert 400 <= answer.status_code < 500, answer.text


def _finite(body: Any) -> Any:
    """JSON has no infinity; send its name, as a careless client would."""
    return body if not body or body.get("soak_s") != float("inf") else body | {"soak_s": "Infinity"}
