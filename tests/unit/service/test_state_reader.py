"""The reader of `state` and `event` at wrong moments, with a client by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from tinyfleet_service.devices import subscriber
from tinyfleet_service.devices.subscriber import StateReader
from tinyfleet_service.errors import DatabaseUnavailableError
from tinyfleet_service.mqtt import Message
from tinyfleet_service.settings import load_settings


class HandClient:
    """Keeps what was acknowledged, and the callbacks that the reader asked for."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.wanted: dict[str, Callable[[Message], None]] = {}

    def subscribe(self, topic: str, callback: Callable[[Message], None]) -> None:
        self.wanted[topic] = callback

    def acknowledge(self, message: Message) -> None:
        self.acknowledged.append(message.mid)

    def event_arrives(self, mid: int, device: str = "m4-a") -> None:
        self.wanted[subscriber.EVENTS](Message(f"fleet/v1/d/{device}/event", b"\xa0", False, False, mid, 1, 1))

    def arrives(self, mid: int, device: str = "m4-a") -> None:
        self.wanted[subscriber.STATES](Message(f"fleet/v1/d/{device}/state", b"\xa0", False, False, mid, 1, 1))


def test_a_state_that_a_newer_one_replaced_while_the_database_was_away_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the broker, which sends only so many un-acknowledged messages, would say nothing more at last."""
    client = HandClient()
    reader = StateReader(load_settings(tmp_path), None, client)  # type: ignore[arg-type]

    @contextmanager
    def away(_engine: object) -> Iterator[None]:
        client.arrives(2)
        raise DatabaseUnavailableError("away", next="wait")
        yield

    monkeypatch.setattr(subscriber, "session_scope", away)
    client.arrives(1)
    client.arrives(7, "m4-b")
    with pytest.raises(DatabaseUnavailableError):
        reader.apply()
    assert client.acknowledged == [1]
    assert reader.waiting == 2


def test_of_a_device_that_floods_us_an_hour_keeps_so_many_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is too much is acknowledged all the same; others are heard, and the device again in the next hour."""
    client, hour, written = HandClient(), [7], []
    monkeypatch.setattr(subscriber, "MOST_AN_HOUR", 5)
    monkeypatch.setattr(StateReader, "_now_hour", staticmethod(lambda: hour[0]))
    monkeypatch.setattr(subscriber, "session_scope", lambda _engine: nullcontext())
    monkeypatch.setattr(subscriber, "apply_event", lambda _session, device_id, _payload: written.append(device_id))
    reader = StateReader(load_settings(tmp_path), None, client)  # type: ignore[arg-type]
    for mid in range(9):
        client.event_arrives(mid)
        reader.apply()  # none waits: it is not that limit which drops them
    client.event_arrives(20, "m4-b")
    reader.apply()
    assert written == ["m4-a"] * 5 + ["m4-b"]
    assert sorted(client.acknowledged) == [*range(9), 20]
    assert [record.device for record in caplog.records] == ["m4-a"], "once"
    hour[0] += 1
    client.event_arrives(30)
    reader.apply()
    assert written[-1] == "m4-a"
    assert len(written) == 7
