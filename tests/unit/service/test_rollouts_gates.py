"""Gates at one look, on devices that are unlike each other."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from tinyfleet_service.rollouts.gates import RULES
from tinyfleet_service.rollouts.state_machine import Outcome
from unit.service.panel_builders import judged, make_panel

GOLDEN = Path(__file__).parents[2] / "golden" / "rollouts"


def latency(slow, devices, inferences):
    """Histograms in which the first `slow` devices answer four times as slow as before."""
    counts = np.asarray(inferences)
    before = np.stack([np.full(devices, 500), np.zeros(devices, np.int64)], axis=1)
    late = np.arange(devices) < slow
    return {"latency": ((40, 48), before, np.stack([np.where(late, 0, counts), np.where(late, counts, 0)], axis=1))}


def test_latency_waits_for_canaries_that_answer_seldom():
    """One canary that answers often is as fast as before; the others, four times as slow, have counted little."""
    inferences = np.array([20] * 9 + [400] * 51)
    panel = make_panel(10, 50, inferences=inferences, histograms=latency(9, 60, inferences))
    result = judged(panel, "latency", gates={"latency": "required"})
    assert result.outcome == Outcome.HOLD
    assert "9 of 10 devices have fewer than 100 inferences" in result.summary
    inferences = np.array([120] * 9 + [400] * 51)
    panel = make_panel(10, 50, inferences=inferences, histograms=latency(9, 60, inferences))
    assert judged(panel, "latency", gates={"latency": "required"}).outcome == Outcome.ROLLBACK


def labels(before, after, right):
    """Counts before and after, of which a share was right."""
    counts = {"labelled": np.asarray(after), "correct": np.round(np.asarray(after) * right).astype(int)}
    return {
        "before": {"labelled": np.asarray(before), "correct": np.round(np.asarray(before) * 0.9).astype(int)},
        **counts,
    }


def test_accuracy_does_not_wait_for_labels_of_before():
    """They come no more: three canaries that were never labelled would hold the stage whatever it waits."""
    before = np.array([0, 0, 40] + [1000] * 57)
    good = judged(make_panel(10, 50, **labels(before, [1000] * 60, 0.9)), "accuracy")
    assert good.outcome == Outcome.PROMOTE
    assert "7 canaries against 50 controls" in good.summary
    bad = np.where(np.arange(60) < 10, 0.7, 0.9)
    assert judged(make_panel(10, 50, **labels(before, [1000] * 60, bad)), "accuracy").outcome == Outcome.ROLLBACK


def test_accuracy_says_when_no_canary_was_labelled_before():
    result = judged(make_panel(3, 57, **labels([50] * 60, [1000] * 60, 0.9)), "accuracy")
    assert result.outcome == Outcome.HOLD
    assert "no canary has 100 labels from before" in result.summary


def test_accuracy_waits_for_labels_of_after():
    after = [1000] * 9 + [30] + [1000] * 50
    result = judged(make_panel(10, 50, **labels([1000] * 60, after, 0.9)), "accuracy")
    assert result.outcome == Outcome.HOLD
    assert result.summary == "1 of 10 devices has fewer than 100 labels since the change: m4-9"


def test_shadow_says_how_many_devices_lack_labels():
    pairs = np.zeros((10, 4), np.int64)
    pairs[:9] = (1900, 50, 50, 0)
    result = judged(make_panel(10, 0, pairs=pairs), "shadow", stage="shadow")
    assert result.outcome == Outcome.HOLD
    assert "1 of 10 devices has fewer than 100 labelled pairs" in result.summary


GATES = {"accuracy": "required", "latency": "required"}


@pytest.mark.parametrize("gate", ["shadow", "agreement", "accuracy", "faults", "latency"])
def test_who_is_idle_holds_a_gate_no_more_than_coverage_says(gate):
    """Of 40 canaries 38 are 95 %: two may be idle for ever, a third is waited for."""
    outcomes = {}
    for idle in (0, 2, 3):
        after = np.where(np.arange(80) < idle, 3, 2000)
        sums = labels([1000] * 80, after, 0.9) | {"inferences": after}
        sums["pairs"] = np.stack([after, 0 * after, 0 * after, 0 * after], axis=1)
        sums |= {"shadow_inferences": after, "shadow_agree": after, "histograms": latency(0, 80, after)}
        asked = {"gates": GATES | ({"accuracy": "proxy"} if gate == "agreement" else {})}
        stage = "shadow" if gate in ("shadow", "agreement") else "canary"
        result = judged(make_panel(40, 40, **sums), "shadow" if stage == "shadow" else gate, stage, **asked)
        outcomes[idle] = result.outcome
    assert outcomes == {0: Outcome.PROMOTE, 2: Outcome.PROMOTE, 3: Outcome.HOLD}
    assert "3 of 40 devices have fewer than 100" in result.summary
    assert result.summary.endswith(", 2 may: m4-0, m4-1, m4-2")


def test_many_who_are_waited_for_are_not_all_named():
    after = np.where(np.arange(20) < 7, 3, 2000)
    result = judged(make_panel(20, 0, inferences=after), "faults")
    assert result.summary.endswith("7 of 20 devices have fewer than 100 inferences, 1 may: m4-0, m4-1, m4-2, ...")


def test_faults_are_weighed_within_their_strata():
    """A site where devices fault has 20 controls a canary, quiet sites have 50: pooled, that looks like harm."""
    strata = ["bad"] * 100 + [f"good{n}" for n in range(100)]
    strata += ["bad"] * 2000 + [f"good{n}" for n in range(100) for _ in range(50)]
    faults = np.array([name == "bad" for name in strata], dtype=np.int64)
    inferences = np.full(len(strata), 1000)
    panel = make_panel(200, 7000, strata=strata, faults=faults, inferences=inferences)
    assert panel.evidence(1, "fault").e_value < 2
    assert judged(panel, "faults").outcome == Outcome.PROMOTE


def test_a_canary_alone_in_its_stratum_is_weighed_beside_the_others():
    """Each of three sites of one device faults, where none of 57 others does."""
    strata = ["a", "b", "c"] + ["d"] * 3 + ["d"] * 57
    faults = np.array([1, 1, 1] + [0] * 60)
    panel = make_panel(6, 57, strata=strata, faults=faults, inferences=np.full(63, 1000))
    assert judged(panel, "faults").outcome == Outcome.ROLLBACK


def test_a_last_wave_is_not_undone_for_faults_as_before():
    """Nobody is left to compare with, and half of its devices fault in a day: each did every other day."""
    faults, week = np.arange(40) < 20, {"faults": np.full(40, 4), "active_s": np.full(40, 8 * 86400)}
    asked = {"faults": faults, "inferences": np.full(40, 1000)}
    assert judged(make_panel(40, 0, before=week, **asked), "faults").outcome == Outcome.PROMOTE
    rare = week | {"faults": np.arange(40) < 2}
    assert judged(make_panel(40, 0, before=rare, **asked), "faults").outcome == Outcome.ROLLBACK
    daily = {"faults": np.full(2, 80), "active_s": np.full(2, 8 * 86400)}
    both = {"faults": np.ones(2, int), "inferences": np.full(2, 1000)}
    assert judged(make_panel(2, 0, before=daily, **both), "faults").outcome == Outcome.PROMOTE
    assert judged(make_panel(2, 0, **both), "faults").outcome == Outcome.ROLLBACK


def test_drift_of_models_without_classes_goes_by_their_confidence():
    """Of outputs that are no classes, or more than devices count, hardly one is counted by class."""
    before, moved = np.tile([0, 1000], (60, 1)), np.arange(60)[:, None] < 10
    after = np.where(moved, [700, 300], [0, 1000])
    few = ((3,), np.ones((60, 1), np.int64), np.ones((60, 1), np.int64))
    for classes in ({}, {"predicted": few}):
        panel = make_panel(
            10, 50, inferences=np.full(60, 1000), histograms=classes | {"confidence": ((4, 9), before, after)}
        )
        result = judged(panel, "drift", gates={"accuracy": "proxy"})
        assert result.outcome == Outcome.HOLD
        assert "answers drifted (confidence)" in result.summary
    assert judged(make_panel(10, 50, inferences=np.full(60, 1000)), "drift").outcome == Outcome.PROMOTE


@pytest.mark.parametrize(
    ("faulty", "control_faulty", "outcome"), [(4, 0, "rollback"), (3, 0, "promote"), (4, 3, "promote")]
)
def test_faults_of_all_canaries_stop_beside_few_controls_too(faulty, control_faulty, outcome):
    """Of twelve devices four are on one side anyway: no ratio shows that all of those fault."""
    faults = np.array([1] * faulty + [0] * (4 - faulty) + [1] * control_faulty + [0] * (8 - control_faulty))
    panel = make_panel(4, 8, faults=faults, inferences=np.full(12, 1000))
    assert judged(panel, "faults").outcome == outcome


@pytest.mark.parametrize(("loss", "outcome"), [(0.01, Outcome.PROMOTE), (0.1, Outcome.ROLLBACK)])
def test_a_loss_within_the_margin_is_no_harm_however_sure(loss, outcome):
    """Of the 2 points that may be lost: with labels enough every loss is sure, and shadow undid one of half a point."""
    labelled = 100_000
    pairs = np.tile([80_000, 5_000 + int(loss * labelled), 5_000, 10_000 - int(loss * labelled)], (10, 1))
    shadow = judged(make_panel(10, 0, pairs=pairs, shadow_inferences=[labelled] * 10), "shadow", "shadow")
    assert (shadow.outcome, shadow.numbers["upper"] < 0) == (outcome, True)
    right = np.where(np.arange(60) < 10, 0.9 - loss, 0.9)
    accuracy = judged(make_panel(10, 50, **labels([labelled] * 60, [labelled] * 60, right)), "accuracy")
    assert (accuracy.outcome, accuracy.numbers["upper"] < 0) == (outcome, True)


def test_what_gates_say_of_stored_counters_changes_with_the_number_of_the_rules():
    """Otherwise `explain` would call decisions of before the change different. See tests/golden/rollouts."""
    spec = importlib.util.spec_from_file_location("golden_decisions", GOLDEN / "regenerate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kept, now = json.loads((GOLDEN / "decisions.json").read_text()), json.loads(module.text())
    assert {decision["outcome"] for decision in kept["decisions"].values()} == set(Outcome)
    if kept["rules"] == RULES:
        assert now == kept, "raise RULES in rollouts/judging.py, then `make golden`"
    assert now["rules"] == kept["rules"], "make golden"
