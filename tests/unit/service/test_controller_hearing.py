"""What a controller takes for an absence of its own."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from tinyfleet_service.controller.hearing import RETURN, Hearing
from tinyfleet_service.database.models import utc_now

GAP_S = 15.0


class World:
    """A controller that ticks once a second; `step` is one tick, `clock_s` what its clock jumps before."""

    def __init__(self) -> None:
        self.now, self.seconds = utc_now(), 100.0
        self.hearing = Hearing(GAP_S, lambda: self.seconds)

    def step(
        self, *, connection: int | None = 1, took_s: float = 0.0, clock_s: float = 0.0, fails: bool = False
    ) -> bool:
        """Whether silence counts from this tick's time on."""
        self.now, self.seconds = self.now + timedelta(seconds=1 + clock_s), self.seconds + 1
        found = self.hearing.silence_from(self.now, connection) if not fails else None
        began = self.now
        self.now, self.seconds = self.now + timedelta(seconds=took_s), self.seconds + took_s
        if not fails:
            self.hearing.done()
        return found == began + RETURN


@pytest.fixture
def world() -> World:
    world = World()
    assert world.step(connection=None), "a start is the end of an absence"
    assert world.step(), "the connection stands only now"
    assert not world.step()
    return world


def test_ticks_that_take_long_are_no_absence(world: World) -> None:
    assert not any(world.step(took_s=10 * GAP_S) for _ in range(3))


def test_a_broker_that_is_away_and_comes_back(world: World) -> None:
    assert world.step(connection=None)
    assert world.step(connection=None)
    assert world.step(connection=2)
    assert not world.step(connection=2)
    assert world.step(connection=3), "it was away between two ticks"


@pytest.mark.parametrize("clock_s", [86400.0, -3600.0])
def test_a_clock_that_steps_and_a_machine_that_slept(world: World, clock_s: float) -> None:
    assert world.step(clock_s=clock_s)
    assert not world.step()


def test_a_database_that_was_away(world: World) -> None:
    for _ in range(int(GAP_S)):
        world.step(fails=True)
    assert world.step()
    assert not world.step()


def test_silence_counts_from_when_the_slowest_is_back(world: World) -> None:
    first: datetime = world.hearing.silence_from(world.now, 1)
    assert first - world.now > timedelta(seconds=60)
