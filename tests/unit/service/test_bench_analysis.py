"""The analysis benchmark in its short form: our gates on simulated fleets, bounds that a fixed seed cannot miss."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))

from analysis_fleet import Fleet, World, look_times
from bench_analysis import UNGATED_LATENCY, clopper_pearson, fleets, held_open, look_results, ours, spec_for

from tinyfleet_service.analysis.randomisation import SAMPLES

HARMLESS = World(devices=60, canary=3)


def test_looks_cover_the_deadline_in_at_most_120():
    times = look_times(spec_for().deadline_s, 900.0)
    assert 110 <= len(times) <= 120
    assert times[-1] == spec_for().deadline_s


def test_clopper_pearson_by_known_values():
    assert clopper_pearson(0, 100) == pytest.approx((0.0, 0.036217), abs=1e-5)
    assert clopper_pearson(10, 100) == pytest.approx((0.049005, 0.176223), abs=1e-5)
    assert clopper_pearson(100, 100) == pytest.approx((0.963783, 1.0), abs=1e-5)


def test_rollouts_in_which_nothing_differs_are_rarely_rolled_back():
    courses = [held_open(fleet) for fleet in fleets(HARMLESS, spec_for(**UNGATED_LATENCY), 8, seed=1)]
    assert sum(course.outcome == "rolled back" for course in courses) <= 2, courses


@pytest.mark.parametrize(
    ("effect", "outcome"),
    [({}, "promoted"), ({"accuracy_drop": 0.1}, "rolled back"), ({"bricks": 1.0}, "rolled back")],
)
def test_ten_canaries_tell_harm_from_no_harm(effect, outcome):
    world = World(devices=100, canary=10, **effect)
    assert ours(Fleet(world, spec_for(**UNGATED_LATENCY), np.random.default_rng(3))).outcome == outcome


def test_a_look_keeps_the_lease_while_it_draws():
    """20,000 random draws of 5,000 canaries take longer than a lease."""
    fleet = Fleet(World(devices=100, canary=10), spec_for(), np.random.default_rng(4))
    canary = fleet.stage([stage["key"] for stage in fleet.stages].index("canary"), 0.0)
    kept: list[int] = []
    looks = look_results(fleet, canary, keep=lambda: kept.append(1))
    while not kept:
        next(looks)
    assert len(kept) >= SAMPLES / 2_000


def test_the_simulated_fleet_has_the_correlation_it_states():
    """Between-device variance of accuracy over p (1 - p) is the intra-device correlation."""
    fleet = Fleet(World(devices=4000, canary=200), spec_for(**UNGATED_LATENCY), np.random.default_rng(5))
    spread = fleet.skill.var() / (fleet.skill.mean() * (1 - fleet.skill.mean()))
    assert spread == pytest.approx(0.05, rel=0.15)
