"""Membership, shares, specs and counter differences: exact cases and properties."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import Session

from tinyfleet_service.analysis import count_draws
from tinyfleet_service.database.models import Model
from tinyfleet_service.errors import InvalidInputError, PlanError
from tinyfleet_service.rollouts.decidable import draws_text
from tinyfleet_service.rollouts.membership import (
    Candidate,
    allocate,
    draw_members,
    holdout_size,
    joiner_wave,
    rank_of,
    stratum_of,
)
from tinyfleet_service.rollouts.policy import DEFAULT_POLICY, GATES, Policy, gate_sources, parse_gates, set_model_gates
from tinyfleet_service.rollouts.snapshots import CANARY, CONTROL, Standing, matched_starts
from tinyfleet_service.rollouts.spec import parse_share, parse_spec
from tinyfleet_service.settings import Settings


def fleet(count: int, strata: int = 4) -> list[Candidate]:
    return [Candidate(f"d{n}", f"c{n % strata % 2}", f"s{n % strata}") for n in range(count)]


def test_sixty_devices_in_four_strata():
    draw = draw_members(fleet(60), "5%", ["25%", "100%"], "salt")
    assert [len(draw.in_wave(wave)) for wave in range(draw.waves)] == [3, 12, 33, 12]
    assert all(place.holdout == (place.wave == 3) for place in draw.places)
    assert draw.shares == pytest.approx((0.05, 0.25, 0.8, 1.0))
    assert sorted(p.stratum for p in draw.in_wave(0)) == ["s0", "s1", "s2"]


def test_the_whole_fleet_as_canary_has_no_waves():
    draw = draw_members(fleet(7), "100%", ["100%"], "salt")
    assert draw.waves == 1
    assert not any(place.holdout for place in draw.places)


def test_ranks_depend_on_the_salt_and_nothing_else():
    assert rank_of("d1", "a") == rank_of("d1", "a")
    assert rank_of("d1", "a") != rank_of("d1", "b")
    assert 0 <= rank_of("d1", "a") < 2**63
    assert rank_of("1", "ad") != rank_of("d1", "a")


@given(st.integers(1, 120), st.integers(1, 7), st.sampled_from(["1%", "5%", "3", "40%", "100%"]), st.text(max_size=4))
def test_every_device_has_exactly_one_place(count, strata, canary, salt):
    candidates = fleet(count, strata)
    draw = draw_members(candidates, canary, ["25%", "100%"], salt)
    assert sorted(p.device_id for p in draw.places) == sorted(c.device_id for c in candidates)
    assert len(draw.in_wave(0)) == parse_share(canary, count)
    assert {p.wave for p in draw.places} == set(range(draw.waves))
    assert sum(p.holdout for p in draw.places) <= max(0.2 * count, 0)
    assert [draw.count(wave) for wave in range(draw.waves)] == [len(draw.in_wave(w)) for w in range(draw.waves)]
    assert draw.shares == tuple(sum(p.wave <= wave for p in draw.places) / count for wave in range(draw.waves))
    for stratum in {c.stratum for c in candidates}:
        mine = [p for p in draw.places if p.stratum == stratum]
        assert [p.rank for p in mine] == sorted(rank_of(p.device_id, salt) for p in mine)
        assert [p.wave for p in mine] == sorted(p.wave for p in mine)


def test_a_wave_takes_no_place_from_a_stratum_whose_proportion_falls():
    """Largest remainder may give a stratum less of six than of five."""
    sizes = {"a": 1, "b": 3, "c": 6}
    assert (allocate(5, sizes)["a"], allocate(6, sizes)["a"]) == (1, 0)
    candidates = [Candidate(f"{name}{n}", "class", name) for name, size in sizes.items() for n in range(size)]
    draw = draw_members(candidates, "5", ["6", "100%"], "salt")
    assert sorted(p.device_id for p in draw.places) == sorted(c.device_id for c in candidates)
    assert [p.stratum for p in draw.in_wave(0)] == ["a", "b", "c", "c", "c"]


@given(st.integers(0, 50), st.dictionaries(st.text(max_size=3), st.integers(0, 30), min_size=1, max_size=6))
def test_allocation_is_proportional_and_complete(count, sizes):
    shares = allocate(count, sizes)
    total = sum(sizes.values())
    assert sum(shares.values()) == min(count, total)
    for name, size in sizes.items():
        assert 0 <= shares[name] <= size
        if total:
            assert abs(shares[name] - min(count, total) * size / total) < 1


def test_holdout_is_at_most_a_fifth():
    assert [holdout_size(n) for n in (3, 60, 100, 400, 10_000)] == [0, 12, 20, 20, 500]


def test_missing_tags_have_a_stratum_of_their_own():
    assert stratum_of("m4", {}, ["site"]) == "m4/site=-"
    assert stratum_of("m4", {"site": "lyon", "x": "1"}, ["site"]) == "m4/site=lyon"


def test_joiners_enter_by_share():
    shares = (0.05, 0.25, 1.0)
    assert [joiner_wave(int(f * 2**63), shares) for f in (0.0, 0.1, 0.5, 0.999)] == [0, 1, 2, 2]


@pytest.mark.parametrize(("text", "devices", "count"), [("5%", 60, 3), ("5%", 3, 1), ("12", 60, 12), ("99", 60, 60)])
def test_shares(text, devices, count):
    assert parse_share(text, devices) == count


@pytest.mark.parametrize("text", ["", "0", "-3", "0%", "101%", "five", "nan%", "1e9", "%"])
def test_bad_shares_say_what_to_write(text):
    with pytest.raises(PlanError, match="5%"):
        parse_share(text, 60)


def test_a_spec_takes_what_it_does_not_say_from_the_settings():
    spec = parse_spec({"model": "m", "version": "v1", "margin": None}, Settings(min_labels=7, waves="50%, 100%"))
    assert (spec.min_labels, spec.waves, spec.margin) == (7, ("50%", "100%"), 0.02)
    assert spec.policy("shadow") == Policy.REQUIRED
    assert parse_spec({"model": "m", "version": "v", "gates": {"shadow": "off"}}).policy("shadow") == Policy.OFF


@pytest.mark.parametrize("name", ["soak_s", "deadline_s", "latency_ratio"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_number_that_no_clock_takes_is_refused_before_a_controller_meets_it(name, value):
    with pytest.raises(PlanError, match=name):
        parse_spec({"model": "m", "version": "v", name: value})
    with pytest.raises(PlanError, match="soak_s"):
        parse_spec({"model": "m", "version": "v", "soak_s": 1e15})


@pytest.mark.parametrize(
    "name",
    ["min_inferences", "confirm_min_inferences", "confirm_timeout_s", "start_spread_s", "latency_budget_us"],
)
def test_what_travels_in_an_assignment_fits_into_it(name):
    assert getattr(parse_spec({"model": "m", "version": "v", name: 2**32 - 1}), name) == 2**32 - 1
    with pytest.raises(PlanError, match=name):
        parse_spec({"model": "m", "version": "v", name: 2**32})


def test_every_problem_of_a_spec_is_named_in_our_words():
    with pytest.raises(PlanError) as caught:
        parse_spec({"model": "m", "version": "v", "gates": {"speed": "off"}, "margin": 2, "windows": "x"})
    gates, margin, unknown = sorted(caught.value.data["problems"])
    assert gates.startswith("gates: no gate speed; gates are shadow")
    assert margin == "margin: Input should be less than or equal to 1"
    assert unknown.startswith("windows: Extra inputs")


def test_a_proxy_of_accuracy_changes_what_was_not_asked_for():
    spec = parse_spec({"model": "m", "version": "v", "gates": {"accuracy": "proxy"}})
    assert [spec.policy(gate) for gate in ("shadow", "accuracy", "drift", "latency")] == [
        Policy.PROXY, Policy.PROXY, Policy.REQUIRED, Policy.ADVISORY,
    ]  # fmt: skip
    assert spec.decides("shadow")
    asked = parse_spec({"model": "m", "version": "v", "gates": {"accuracy": "proxy", "shadow": "off", "drift": "off"}})
    assert not asked.decides("shadow")
    assert not asked.decides("drift")


@pytest.mark.parametrize(
    ("own", "asked", "told"),
    [
        ({}, {}, {}),
        ({"latency": "off"}, {}, {"latency": ("off", "model")}),
        ({"latency": "off"}, {"latency": "required"}, {"latency": ("required", "rollout")}),
        ({}, {"latency": "advisory"}, {"latency": ("advisory", "rollout")}),  # said, though it is the default
        ({"accuracy": "proxy"}, {}, {"accuracy": ("proxy", "model"), "shadow": ("proxy", "model"),
                                     "drift": ("required", "model")}),
        ({"accuracy": "proxy"}, {"drift": "off"}, {"accuracy": ("proxy", "model"), "shadow": ("proxy", "model"),
                                                   "drift": ("off", "rollout")}),
        ({"shadow": "off"}, {"accuracy": "proxy"}, {"accuracy": ("proxy", "rollout"), "shadow": ("off", "model"),
                                                    "drift": ("required", "rollout")}),
        ({"accuracy": "proxy"}, {"accuracy": "required"}, {"accuracy": ("required", "rollout")}),
    ],
)  # fmt: skip
def test_what_was_asked_for_goes_before_the_models_own_policy_and_that_before_defaults(own, asked, told):
    spec = parse_spec({"model": "m", "version": "v", "gates": asked}).over(parse_gates(own))
    sources = gate_sources(parse_gates(asked), parse_gates(own))
    by_default = {gate: (policy, "default") for gate, policy in DEFAULT_POLICY.items()}
    assert {gate: (spec.policy(gate), sources[gate]) for gate in GATES} == by_default | told


NO_GATES = [
    {"luck": "off"}, {"": "off"}, {"Shadow": "off"}, {"luck" * 10_000: "off"}, {"shadow": "maybe"}, {"shadow": ""},
    {"shadow": "OFF"}, {"shadow": None}, {"shadow": 1}, {"shadow": ["off"]}, {"shadow": {"off": 1}},
    {"shadow": "x" * 10_000}, {"faults": "proxy"}, {"drift": "proxy", "accuracy": "proxy"}, [], ["shadow"], "shadow", 7,
]  # fmt: skip


@pytest.mark.parametrize("gates", NO_GATES)
def test_gates_that_make_no_sense_are_refused_alike_for_a_rollout_and_a_model(gates):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_gates(gates)
    assert len(str(caught.value)) < 300
    with pytest.raises(PlanError, match=re.escape(str(caught.value))):
        parse_spec({"model": "m", "version": "v1", "gates": gates})
    model = Model(project_id=1, name="m", gates={"drift": "off"})
    with pytest.raises(InvalidInputError, match=re.escape(str(caught.value))):
        set_model_gates(Session(), model, gates)
    assert model.gates == {"drift": "off"}


@pytest.mark.parametrize(
    "bad",
    [
        {"canary": "0%"},
        {"disagreement": 0},
        {"drift_distance": 1},
        {"margin": 2},
        {"typo": 1},
    ],
)
def test_bad_specs_are_refused(bad):
    with pytest.raises(PlanError):
        parse_spec({"model": "m", "version": "v1", **bad})


def test_controls_start_with_their_matched_canary():
    from datetime import UTC, datetime

    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    standings = [
        Standing("a", "s", 1, CANARY, early),
        Standing("b", "s", 2, CANARY, late),
        Standing("c", "s", 3, CONTROL, None),
        Standing("d", "s", 4, CONTROL, None),
        Standing("e", "t", 5, CONTROL, None),
        Standing("f", "u", 6, CANARY, None),
    ]
    assert matched_starts(standings) == {"a": early, "b": late, "c": early, "d": late}


def test_draws_of_a_large_fleet_are_told_by_their_size() -> None:
    assert draws_text(count_draws([(2, 3), (1, 4)])) == "50"
    assert draws_text(18_182_414_250) == "18,182,414,250"
    assert draws_text(count_draws([(5000, 95_000)])) == "10^8619"
