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


def test_one_device_of_three_decides_nothing():
    """It loses 40 points on 500 labels, or wins them; the others are equal, or lack labels to say so."""
    quiet = [[45, 3, 3, 0], [45, 3, 3, 0]]
    harmed = paired_shadow_test([*quiet, [300, 200, 0, 0]], **LEVELS)
    assert harmed.difference < -0.3
    assert harmed.upper > 0
    assert harmed.e_harm == pytest.approx(paired_shadow_test(quiet[:1] * 2, **LEVELS).e_harm)
    praised = paired_shadow_test([*quiet, [300, 0, 200, 0]], **LEVELS)
    assert praised.lower < -0.02
    assert praised.e_promote == pytest.approx(paired_shadow_test(quiet[:1] * 2, **LEVELS).e_promote)
    assert paired_shadow_test([*quiet[:1], [300, 200, 0, 0]], **LEVELS).upper < 0  # of two, each counts


def test_labels_alone_can_make_a_device_loud_for_no_harm():
    """Equal on 5,000 labels, against two devices that cannot exclude a loss of two points."""
    few = [[45, 3, 3, 0], [45, 3, 3, 0]]
    test = paired_shadow_test([[4800, 100, 100, 0], *few], **LEVELS)
    assert test.lower == paired_shadow_test(few, **LEVELS).lower


def test_a_device_that_counts_for_others_does_not_hide_harm_of_all():
    test = paired_shadow_test([[300, 40, 5, 0]] * 10, **LEVELS)
    assert test.lower < test.difference < test.upper < 0


@pytest.mark.parametrize("devices", [3, 10])
def test_devices_that_differ_undo_no_harmless_candidate(devices):
    """Each gains or loses a point or so, on its own number of labels: roll-backs stay below alpha."""
    rng = np.random.default_rng(11)
    harmed = 0
    for _ in range(150):
        change = rng.normal(0, 0.01, devices)
        chances = np.stack([0.94 + 0 * change, 0.03 - change / 2, 0.03 + change / 2], axis=1).clip(0, 1)
        chances /= chances.sum(axis=1, keepdims=True)
        table = np.zeros((devices, 4), dtype=int)
        labels = (40 * np.exp(rng.normal(0, 1.2, devices))).astype(int)
        for _ in range(20):
            table[:, :3] += rng.multinomial(labels, chances)
            test = paired_shadow_test(table, **LEVELS)
            if test.upper < 0 and test.lower < -0.02:
                harmed += 1
                break
    assert harmed / 150 <= 0.05


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
