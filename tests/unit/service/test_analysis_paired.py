"""Paired shadow test: known values, order of bounds, and that it keeps its level under continuous reading."""

from __future__ import annotations

import numpy as np
import pytest

from tinyfleet_service.analysis import paired_shadow_test

LEVELS = {"margin": 0.02, "alpha_promote": 0.05, "alpha_harm": 0.05}


def test_no_labels_say_nothing():
    result = paired_shadow_test([[0, 0, 0, 0]], **LEVELS)
    assert (result.lower, result.upper) == (-1.0, 1.0)
    assert result.difference is None
    assert result.e_harm == pytest.approx(1.0)


def test_harm_evidence_depends_on_discordant_pairs_only():
    few = paired_shadow_test([[10, 30, 5, 10]], **LEVELS)
    many = paired_shadow_test([[5000, 30, 5, 900]], **LEVELS)
    assert few.e_harm == pytest.approx(many.e_harm)
    assert few.upper < 0
    assert few.e_harm > 20


def test_one_bet_by_hand():
    """With one discordant pair the mixture's wealth at 0 is 1 + mean fraction, exactly."""
    fractions = np.geomspace(0.004, 0.98, 32)
    assert paired_shadow_test([[0, 1, 0, 0]], **LEVELS).e_harm == pytest.approx(1 + fractions.mean())


def test_bounds_mirror_and_enclose_the_difference():
    worse = paired_shadow_test([[300, 60, 20, 40]], **LEVELS)
    better = paired_shadow_test([[300, 20, 60, 40]], **LEVELS)
    assert worse.lower < worse.difference < worse.upper
    assert worse.upper == pytest.approx(-better.lower)


def test_devices_add_up_and_the_worst_is_named():
    split = paired_shadow_test([[100, 5, 5, 10], [80, 20, 5, 10]], **LEVELS)
    whole = paired_shadow_test([[180, 25, 10, 20]], **LEVELS)
    assert split.lower == whole.lower
    assert split.devices == 2
    assert split.worst_device_difference == pytest.approx(-15 / 115)


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="counts"):
        paired_shadow_test([[1, -1, 0, 0]], **LEVELS)


def test_a_ten_point_drop_is_found_within_400_labels():
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(100):
        found += paired_shadow_test([rng.multinomial(400, [0.78, 0.14, 0.04, 0.04])], **LEVELS).upper < 0
    assert found >= 95


def test_reading_at_every_look_keeps_the_level():
    """300 null streams read at 12 looks: wrong verdicts stay below alpha (0.05 plus three standard errors)."""
    rng = np.random.default_rng(7)
    harmed = promoted = 0
    for _ in range(300):
        looks = rng.multinomial(20, [0.8, 0.07, 0.07, 0.06], size=60).cumsum(axis=0)
        harmed += any(paired_shadow_test([row], **LEVELS).upper < 0 for row in looks[::5])
        at_margin = rng.multinomial(20, [0.8, 0.08, 0.06, 0.06], size=60).cumsum(axis=0)  # truly 2 points worse
        promoted += any(paired_shadow_test([row], **LEVELS).lower > -0.02 for row in at_margin[::5])
    allowed = 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert harmed / 300 <= allowed
    assert promoted / 300 <= allowed
