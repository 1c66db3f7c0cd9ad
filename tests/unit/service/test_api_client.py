"""How long the client waits for an answer: what makes patches first may take its time."""

from __future__ import annotations

import httpx
import pytest

from tinyfleet_service.api_client import PLAN_S, TIMEOUT_S, Client
from tinyfleet_service.errors import UnavailableError


def late(seconds: float) -> httpx.MockTransport:
    """A service that takes `seconds` for every answer."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.extensions["timeout"]["read"] < seconds:
            raise httpx.ReadTimeout("timed out", request=request)
        return httpx.Response(200, json={"id": 7})

    return httpx.MockTransport(answer)


def test_a_plan_may_take_minutes_and_nothing_else_may() -> None:
    with Client("http://fleet", "token", transport=late(TIMEOUT_S + 1)) as client:
        assert client.plan_rollout({}) == client.start_rollout({}) == {"id": 7}
        with pytest.raises(UnavailableError, match="timed out"):
            client.rollout(7)
    with Client("http://fleet", "token", transport=late(PLAN_S + 1)) as client, pytest.raises(UnavailableError):
        client.plan_rollout({})
