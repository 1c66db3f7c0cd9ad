"""Event rates, caps, silence, latency and alpha spending: known values and simulated levels."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from tinyfleet_service.analysis import (
    Interval,
    alpha_at_look,
    alpha_shares,
    cap_without_control,
    compare_latency,
    count_e_process,
    deciding_looks,
    histogram_quantile,
    look_due,
    merge_histograms,
    silence_test,
    silences_that_stop,
    stopping_count,
    stopping_rejections,
)


def test_no_events_or_no_control_is_no_evidence():
    assert count_e_process([]).e_value == pytest.approx(1.0)
    assert count_e_process([Interval(3, 0, 100.0, 0.0)]).e_value == pytest.approx(1.0)


def test_one_event_by_hand():
    """Equal exposure, one candidate event: the mean over ratios of 2 r / (r + 1)."""
    ratios = np.geomspace(1.5, 64.0, 16)
    evidence = count_e_process([Interval(1, 0, 10.0, 10.0)])
    assert evidence.e_value == pytest.approx(float(np.mean(2 * ratios / (ratios + 1))))


def test_a_five_percent_canary_with_many_events_is_evidence():
    assert count_e_process([Interval(6, 2, 3.0, 57.0)]).e_value > 100
    assert count_e_process([Interval(1, 19, 3.0, 57.0)]).e_value < 2


def test_e_process_read_at_every_look_keeps_the_level():
    rng = np.random.default_rng(2)
    alarms, runs = 0, 1000
    for _ in range(runs):
        share = 0.05
        steps = [Interval(int(c), int(k), share, 1 - share) for c, k in rng.poisson([0.05, 0.95], size=(80, 2))]
        alarms += any(count_e_process(steps[: n + 1]).e_value >= 20 for n in range(0, 80, 5))
    assert alarms / runs <= 0.05


def test_two_of_three_stop_but_a_naturally_silent_fleet_does_not():
    share, alpha = 3 / 60, 0.00625
    assert stopping_count(share, 0, alpha, 3) == 2
    assert stopping_count(share, 6, alpha, 3) is None
    assert stopping_count(share, 95, alpha, 50) is None
    assert stopping_count(1.0, 0, alpha, 50) is None


@pytest.mark.parametrize("share", [0.003, 0.05, 0.3, 0.5])
@pytest.mark.parametrize("control_events", [0, 7, 400])
def test_the_count_that_stops_is_the_one_of_whole_sums(share, control_events):
    def stops(events):
        total = events + control_events
        chances = (comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(events, total + 1))
        return sum(chances) <= alpha * 0.9 * 0.1 ** (events - 2) * (1 + 1e-9)

    alpha, limit = 0.01, 60
    assert stopping_count(share, control_events, alpha, limit) == next(filter(stops, range(2, limit + 1)), None)


def test_a_wave_of_thousands_among_silent_controls_costs_what_it_has_to():
    """The sum over all silent devices for each count would be half a billion terms."""
    assert stopping_count(0.05, 95_000, 0.005, 5000) is None
    assert stopping_count(0.05, 0, 0.005, 5000) == 2
    assert cap_without_control(30_000) == 4693


def test_the_count_that_stops_by_hand():
    """Two candidate events and no control event have probability share squared, 0.0025, against 0.9 alpha."""
    assert stopping_count(0.05, 0, 0.0025 / 0.9, 9) == 2
    assert stopping_count(0.05, 0, 0.0024 / 0.9, 9) == 3


def test_counting_up_keeps_its_level():
    """Events fall on the candidate with a fixed chance; the rule is read after each of 200."""
    rng = np.random.default_rng(8)
    stops, runs = 0, 300
    for _ in range(runs):
        own = (rng.random(200) < 0.1).cumsum()
        counts = zip(own.tolist(), (np.arange(1, 201) - own).tolist(), strict=True)
        stops += any((cap := stopping_count(0.1, y, 0.05, 60)) is not None and x >= cap for x, y in counts)
    assert stops / runs <= 0.05


def test_without_control_a_cohort_stops_at_more_than_any_fleet_loses_by_itself():
    assert [cap_without_control(n) for n in (1, 2, 3, 12, 60)] == [2, 2, 3, 7, 19]


def test_rejections_that_stop_grow_with_the_cohort():
    """Whole sums: one harmless cohort in a thousand has so many where a thousandth of devices reject anything."""
    assert [stopping_rejections(n) for n in (1, 2, 45, 46, 1000, 10_000)] == [2, 2, 2, 3, 6, 22]
    for n in (45, 46, 1000):
        bar = stopping_rejections(n)
        tails = [1 - sum(comb(n, k) * 0.001**k * 0.999 ** (n - k) for k in range(least)) for least in (bar - 1, bar)]
        assert tails[1] <= 0.001
        assert tails[0] > 0.001 or bar == 2


@pytest.mark.parametrize(
    ("devices", "controls", "stop"), [(3, 57, 2), (10, 90, 4), (12, 12, 7), (22, 8, 10), (12, 0, 7)]
)
def test_a_plan_knows_how_much_silence_stops(devices, controls, stop):
    assert silences_that_stop([(devices, controls)], 0.00625) == stop
    for silent in (stop - 1, stop):
        found = silence_at_once(silent, 0, devices, controls)
        assert (found.cap_reached or found.evidence.harmful) == (silent == stop)


def test_a_plan_knows_silence_stratum_by_stratum():
    """One canary and one control at each of three sites: their silence is no evidence, whoever else there is."""
    assert silences_that_stop([(1, 19)] * 3, 0.00625) == 2
    assert silences_that_stop([(1, 1)] * 3, 0.00625) is None
    assert silences_that_stop([(1, 0), (1, 0), (1, 57)], 0.00625) == silences_that_stop([(3, 57)], 0.00625)


def test_silence_that_no_fleet_shows_waits_for_no_ratio():
    """Among 30 devices 22 are on one side anyway: all of those silent are no evidence by a ratio, but bricked."""
    assert silences_that_stop([(5, 5)], 0.00625) == 5
    assert silences_that_stop([(3, 3)], 0.00625) is None
    assert [silences_that_stop([(devices, 0)], 0.00625) for devices in (1, 2, 3)] == [None, 2, 3]
    assert silence_at_once(22, 0, 22, 8).evidence.e_value < 800
    assert silence_at_once(22, 0, 22, 8).cap_reached
    assert not silence_at_once(22, 4, 22, 8).cap_reached  # an outage takes both


def silence_at_once(silent, control_silent, devices=3, control_devices=57, lost=None):
    return silence_test(
        count_e_process([Interval(silent, control_silent, 1.0 * devices, 1.0 * control_devices)]),
        devices=devices,
        control_devices=control_devices,
        silent_now=silent,
        lost_now=silent if lost is None else lost,
        control_silent_now=control_silent,
        alpha=0.00625,
    )


def test_silence_cap_waits_when_everybody_is_silent():
    assert silence_at_once(2, 0).cap_reached
    assert not silence_at_once(3, 50).cap_reached


@pytest.mark.parametrize("controls", [0, 1])
def test_silence_stops_once_it_outlasts_what_an_outage_explains(controls):
    for silent, lost, stops in ((60, 0, False), (20, 3, False), (20, 20, True), (60, 60, True), (3, 0, False)):
        found = silence_at_once(silent, 0, devices=60, control_devices=controls, lost=lost)
        assert (found.cap_reached, found.returning) == (stops, silent >= 20 and not stops)


def test_of_two_devices_without_control_nobody_is_left_to_be_heard():
    assert silence_at_once(2, 0, devices=2, control_devices=0, lost=0).cap_reached


def test_a_late_report_takes_its_device_out_of_the_cap():
    steps = count_e_process([Interval(2, 0, 3.0, 57.0)])
    back = silence_test(
        steps, devices=3, control_devices=57, silent_now=1, lost_now=1, control_silent_now=0, alpha=0.00625
    )
    assert not back.cap_reached
    assert back.evidence.candidate_events == 2


def test_silence_in_a_tenth_of_both_arms_rarely_stops():
    rng = np.random.default_rng(4)
    stops = sum(silence_at_once(int(rng.binomial(3, 0.1)), int(rng.binomial(57, 0.1))).cap_reached for _ in range(2000))
    assert stops / 2000 < 0.02


def test_quantiles_use_quarter_octave_buckets():
    assert histogram_quantile({}, 0.5) is None
    assert histogram_quantile({40: 10}, 1.0) == pytest.approx(1280.0)
    assert histogram_quantile({40: 10}, 0.5) == pytest.approx(1024 + 128)
    assert merge_histograms([{40: 1, 41: 2}, {41: 3}]) == {40: 1, 41: 5}


def test_latency_harm_needs_slowdown_beyond_the_budget():
    before = np.full(40, 1000.0)
    treated = np.arange(40) < 2
    noise = np.random.default_rng(6).uniform(0.95, 1.05, size=40)
    doubled = np.where(treated, 2000.0, 1000.0) * noise
    common = {"strata": ["a"] * 40, "budget_ratio": 1.5, "alpha_harm": 0.01, "seed": 0}
    slow = compare_latency(before, doubled, treated, **common)
    assert slow.harmful
    assert slow.ratio == pytest.approx(2.0, rel=0.1)
    mild = compare_latency(before, np.where(treated, 1200.0, 1000.0) * noise, treated, **common)
    assert mild.within_budget
    assert not mild.harmful


def test_alpha_shares_sum_to_alpha():
    stages = {"canary": ["all"], "waves/1": ["all"], "waves/2": ["all"]}
    shares = alpha_shares(0.05, {"accuracy": stages, "faults": {"canary": ["m0", "m4"]}, "latency": {}})
    assert sum(shares.values()) == pytest.approx(0.05)
    assert shares[("accuracy", "canary", "all")] == pytest.approx(0.0125)
    assert shares[("faults", "canary", "m4")] == pytest.approx(0.0125)
    assert alpha_shares(0.05, {}) == {}


def test_paid_looks_sum_to_alpha_and_end():
    assert sum(alpha_at_look(0.05, k) for k in range(1, 5000)) == pytest.approx(0.05, rel=1e-3)
    assert deciding_looks(0.05, 1 / 3375) == 12
    assert deciding_looks(0.001, 0.01) == 0


def test_looks_cover_the_deadline_and_never_exceed_120():
    age, last, looks = 0.0, 0.0, 0
    while age <= 8000:
        if look_due(looks, age, last, 1.0, 7200.0):
            looks, last = looks + 1, age
        age += 0.5
    assert 60 <= looks <= 120
    assert last >= 7200
