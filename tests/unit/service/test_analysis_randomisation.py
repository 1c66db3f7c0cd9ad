"""Randomisation test: hand-counted draws, bounds against brute force, and its level under A/A."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tinyfleet_service.analysis import count_draws, randomisation, randomisation_test, smallest_p

LEVELS = {"margin": 0.02, "alpha_promote": 0.05, "alpha_harm": 0.05, "seed": 1}


def run(values, treated, strata, **changes):
    return randomisation_test(values, treated, strata, **{**LEVELS, **changes})


def test_extreme_canary_has_p_one_over_draws():
    result = run([-0.5, *[0.0] * 19], [True, *[False] * 19], ["a"] * 20)
    assert (result.draws, result.exact) == (20, True)
    assert result.p_harm == pytest.approx(1 / 20)
    assert result.difference == pytest.approx(-0.5)
    assert result.p_promote == 1.0


def test_random_draws_tell_of_their_progress_and_go_on_after_an_interruption():
    values, treated = np.random.default_rng(7).normal(size=60), [n % 6 == 0 for n in range(60)]
    parts: list[int] = []
    whole = run(values, treated, ["a"] * 60, samples=5_000, progress=lambda: parts.append(1))
    assert (len(parts), whole.draws, whole.exact) == (3, 5_001, False)
    randomisation._subsets.cache_clear()

    def lose() -> None:
        parts.append(1)
        if len(parts) == 5:
            raise LookupError

    with pytest.raises(LookupError):
        run(values, treated, ["a"] * 60, samples=5_000, progress=lose)
    assert run(values, treated, ["a"] * 60, samples=5_000, progress=lambda: parts.append(1)) == whole
    assert len(parts) == 6  # two parts were drawn before it was lost, one after


def test_sizes_tell_what_a_draw_can_decide():
    sizes = [(1, 14), (1, 14), (1, 14), (0, 15)]
    assert count_draws(sizes) == 15**3
    assert smallest_p(sizes) == pytest.approx(1 / 3375)
    assert smallest_p([(12, 33)]) == pytest.approx(1 / 20_001)


def test_strata_without_canary_or_control_are_left_out():
    result = run([0.1, 0.0, 0.9, 0.9, 5.0], [True, False, False, False, True], ["a", "a", "b", "b", "c"])
    assert (result.strata, result.canaries, result.controls) == (1, 1, 1)
    assert result.difference == pytest.approx(0.1)


def test_nothing_informative_cannot_decide():
    result = run([0.3, 0.2], [True, True], ["a", "a"])
    assert result.difference is None
    assert (result.lower, result.upper, result.smallest_p) == (None, None, 1.0)


def brute_p(values, treated, shift, larger):
    """Share of draws at least as extreme as the observed one after moving the canaries by `shift`; one stratum."""
    moved = values + shift * treated
    total, k = moved.sum(), int(treated.sum())

    def statistic(mask_sum):
        return mask_sum / k - (total - mask_sum) / (len(values) - k)

    observed = statistic(moved[treated].sum())
    draws = np.array([statistic(moved[list(c)].sum()) for c in combinations(range(len(values)), k)])
    return float(np.mean(draws >= observed - 1e-12 if larger else draws <= observed + 1e-12))


@pytest.mark.parametrize("seed", range(5))
def test_p_values_and_bounds_equal_brute_force(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=11)
    treated = np.zeros(11, dtype=bool)
    treated[rng.choice(11, 3, replace=False)] = True
    result = run(values, treated, ["s"] * 11, margin=0.3)
    assert result.p_promote == pytest.approx(brute_p(values, treated, 0.3, larger=True))
    assert result.p_harm == pytest.approx(brute_p(values, treated, 0.0, larger=False))
    below, above = result.lower - 1e-6, result.lower + 1e-6
    assert brute_p(values, treated, -below, larger=True) <= 0.05 < brute_p(values, treated, -above, larger=True)
    below, above = result.upper - 1e-6, result.upper + 1e-6
    assert brute_p(values, treated, -above, larger=False) <= 0.05 < brute_p(values, treated, -below, larger=False)


def test_sampled_draws_agree_with_all_draws_and_are_repeatable():
    rng = np.random.default_rng(3)
    values, strata = rng.normal(size=24), ["a"] * 12 + ["b"] * 12
    treated = np.array(([True] * 2 + [False] * 10) * 2)
    exact = run(values, treated, strata)
    sampled = run(values, treated, strata, max_draws=10, samples=20_000)
    assert exact.exact
    assert not sampled.exact
    assert sampled.p_harm == pytest.approx(exact.p_harm, abs=0.015)
    assert sampled == run(values, treated, strata, max_draws=10, samples=20_000)


def test_draw_too_small_for_alpha_gives_no_bound():
    result = run([1.0, 0, 0, 0], [True, False, False, False], ["a"] * 4)
    assert result.lower is None
    assert result.smallest_p == 0.25


def test_a_a_runs_keep_the_level_with_uneven_noise():
    """2,000 draws of 3 canaries from 60 devices with heavy, unequal noise: wrong roll-backs stay at alpha."""
    rng = np.random.default_rng(11)
    strata = [s for s in "abcd" for _ in range(15)]
    harmed = promoted = 0
    runs = 2000
    for _ in range(runs):
        values = rng.standard_t(2, size=60) * rng.uniform(0.1, 3, size=60)
        treated = np.zeros(60, dtype=bool)
        treated[[rng.integers(15), 15 + rng.integers(15), 30 + rng.integers(15)]] = True
        result = run(values, treated, strata)
        harmed += result.upper < 0
        promoted += run(values - 0.02 * treated, treated, strata).lower > -0.02
    allowed = 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
    assert harmed / runs <= allowed
    assert promoted / runs <= allowed
