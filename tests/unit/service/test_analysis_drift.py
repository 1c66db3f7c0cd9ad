"""Drift of answers: distances counted by hand, p-values against brute force, and its level when nothing drifts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tinyfleet_service.analysis import answer_drift, jensen_shannon


def test_distances_of_distributions():
    assert jensen_shannon([1, 0], [0, 2]) == pytest.approx(1.0)
    assert jensen_shannon([3, 1], [6, 2]) == 0.0
    # middle (5/8, 3/8): half of 3/4 lb 6/5 + 1/4 lb 2/3, half of 1/2 lb 4/5 + 1/2 lb 4/3
    by_hand = (0.75 * np.log2(6 / 5) + 0.25 * np.log2(2 / 3) + 0.5 * np.log2(4 / 5) + 0.5 * np.log2(4 / 3)) / 2
    assert jensen_shannon([3, 1], [1, 1]) == pytest.approx(by_hand**0.5)


def test_what_moves_for_everybody_is_no_drift():
    before = np.array([[80, 20], [60, 40], [40, 60], [20, 80]])
    same = answer_drift(before, before + [[10, -10]] * 4, [True, False, True, False], ["a", "a", "b", "b"], seed=1)
    assert (same.canaries, same.controls) == (2, 2)
    assert same.moved == pytest.approx((0.0, 0.0))
    assert same.distance == pytest.approx(0.0, abs=1e-7)
    assert same.p == 1.0


def test_the_effect_and_p_are_those_of_all_draws():
    rng = np.random.default_rng(3)
    before, after = rng.integers(1, 50, (7, 3)), rng.integers(1, 50, (7, 3))
    treated = np.arange(7) < 2
    drift = answer_drift(before, after, treated, ["s"] * 7, seed=1)
    changes = after / after.sum(axis=1, keepdims=True) - before / before.sum(axis=1, keepdims=True)
    variances = changes.var(axis=0)

    def effect(chosen):
        mask = np.isin(np.arange(7), chosen)
        return changes[mask].mean(axis=0) - changes[~mask].mean(axis=0)

    sizes = [(effect(draw) ** 2 / variances).sum() for draw in combinations(range(7), 2)]
    assert drift.moved == pytest.approx(effect([0, 1]))
    assert drift.p == pytest.approx(np.mean(np.array(sizes) >= sizes[0] * (1 - 1e-9)))
    assert drift.smallest_p == pytest.approx(1 / 21)


def test_strata_that_lack_an_arm_say_nothing():
    before = np.array([[10, 10], [10, 10], [1, 99]])
    after = np.array([[10, 10], [10, 10], [99, 1]])
    drift = answer_drift(before, after, [True, False, True], ["a", "a", "b"], seed=1)
    assert (drift.canaries, drift.controls, drift.distance) == (1, 1, 0.0)
    nobody = answer_drift(before[2:], after[2:], [True], ["b"], seed=1)
    assert (nobody.canaries, nobody.distance, nobody.p) == (0, None, 1.0)


def fleet(rng: np.random.Generator, moved: float, canaries: int = 6, devices: int = 60, answers: int = 200):
    """Devices with habits of their own and a change of season; `moved` of the canaries' answers go to class 0."""
    habits = rng.dirichlet([3.0] * 8, size=devices)
    now = 0.8 * habits + 0.2 * rng.dirichlet([3.0] * 8)
    treated = np.arange(devices) < canaries
    now[treated] *= 1 - moved
    now[treated, 0] += moved
    draw = [np.array([rng.multinomial(answers, shares) for shares in table]) for table in (habits, now)]
    return draw[0], draw[1], treated, ["s"] * devices


def test_nothing_that_drifts_is_called_drift_as_often_as_promised():
    rng = np.random.default_rng(1)
    p = np.array([answer_drift(*fleet(rng, 0.0), seed=i).p for i in range(300)])
    assert (p <= 0.05).mean() <= 0.08
    assert 0.4 < p.mean() < 0.6


def test_drift_is_found_and_its_distance_grows():
    rng = np.random.default_rng(2)
    found = {moved: answer_drift(*fleet(rng, moved), seed=1) for moved in (0.1, 0.3, 0.6)}
    assert all(drift.p < 0.01 for drift in found.values())
    distances = [drift.distance or 0.0 for drift in found.values()]
    assert distances == sorted(distances)
    assert found[0.3].moved[0] == pytest.approx(0.3 * 0.87, abs=0.06)
