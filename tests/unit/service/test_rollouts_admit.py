"""Windows, concurrency and bandwidth: who may begin, whatever the fleet does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet_service.database.models import MemberStatus
from tinyfleet_service.errors import PlanError
from tinyfleet_service.rollouts.admit import BUSY, Limits, Start, admitted, in_window, known_zone, parse_window
from tinyfleet_service.rollouts.spec import parse_spec
from tinyfleet_service.rollouts.state_machine import MemberView

NOW = datetime(2026, 7, 1, 21, 30, tzinfo=UTC)


def member(status: MemberStatus, heard_s_ago: float = 0.0, name: str = "m") -> MemberView:
    at = NOW - timedelta(seconds=heard_s_ago)
    return MemberView(name, "m4", 0, True, 60.0, status, assigned_at=at, heard_at=at)


def starts(*sizes: int) -> list[Start]:
    return [Start(f"d{number}", number, size) for number, size in enumerate(sizes)]


@pytest.mark.parametrize(("text", "window"), [("22:00-05:00", (1320, 420)), ("00:00-24:00", (0, 1440))])
def test_windows(text, window):
    assert parse_window(text) == window


@pytest.mark.parametrize("text", ["22-5", "25:00-01:00", "10:61-11:00", "22:00-24:30", "", "22:00-05:00 UTC"])
def test_bad_windows_say_how_to_write_them(text):
    with pytest.raises(PlanError, match="22:00-05:00"):
        parse_spec({"model": "m", "version": "v", "window": text})


@pytest.mark.parametrize(
    ("zone", "inside"),
    [
        (None, False),
        ("UTC", False),
        ("Europe/Paris", True),
        ("+01:00", True),
        ("America/Lima", False),
        ("no/where", False),
    ],
)
def test_the_window_is_the_devices_own(zone, inside):
    """21:30 in UTC is 23:30 in a Paris summer and 16:30 in Lima; a zone nobody knows is read as UTC."""
    assert in_window(parse_window("22:00-05:00"), zone, NOW) is inside


def test_zones_that_are_not_known_are_told_apart():
    assert [known_zone(z) for z in ("UTC", "+05:30", "Europe/Oslo", "no/where", "../etc")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_one_that_cannot_be_reached_gives_its_place_up():
    limits = Limits(in_flight=2)
    gone, here = member(MemberStatus.DOWNLOADING, 61), member(MemberStatus.DOWNLOADING, 59)
    assert admitted(limits, starts(1, 1, 1), [gone, here], 0, NOW) == ["d0"]
    assert admitted(limits, starts(1, 1, 1), [here, here], 0, NOW) == []


def test_a_transfer_larger_than_the_limit_begins_alone():
    limits = Limits(bytes_per_hour=100)
    assert admitted(limits, starts(500, 1), [], 0, NOW) == ["d0"]
    assert admitted(limits, starts(500, 1), [], 1, NOW) == []


LISTS = st.lists(st.tuples(st.sampled_from(list(MemberStatus)), st.floats(0, 200)), max_size=12)


@given(st.lists(st.integers(1, 60), max_size=12), LISTS, st.integers(1, 8), st.integers(1, 200), st.integers(0, 300))
def test_limits_hold_and_nobody_waits_for_ever(sizes, states, in_flight, per_hour, spent):
    """Never above a limit, always the first by rank, and with nothing under way somebody begins."""
    members = [member(status, ago) for status, ago in states]
    waiting = starts(*sizes)
    chosen = admitted(Limits(None, in_flight, per_hour), reversed(waiting), members, spent, NOW)
    assert chosen == [s.device_id for s in waiting[: len(chosen)]]
    busy = sum(m.status in BUSY and (NOW - m.heard_at).total_seconds() <= 60 for m in members)
    assert len(chosen) + min(busy, in_flight) <= in_flight
    total = sum(sizes[: len(chosen)])
    assert spent + total <= per_hour or (not spent and len(chosen) == 1) or not chosen
    if waiting and not busy and not spent:
        assert chosen
