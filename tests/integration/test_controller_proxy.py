"""Rollouts where no labels come (`accuracy=proxy`), and answers that drift, on the simulated fleet."""

from __future__ import annotations

import re

import pytest
from sqlmodel import select

from integration.rollout_fleet import Fleet
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Event, Model
from tinyfleet_service.errors import PlanError
from tinyfleet_service.rollouts import make_plan, parse_spec, set_model_gates

PROXY = {"gates": {"accuracy": "proxy"}}
LEANING = (6.0, 1.0, 1.0, 1.0, 1.0)


@pytest.fixture
def fleet(tmp_path):
    fleet = Fleet(tmp_path, devices=40)
    for version in ("v1", "v2"):
        fleet.push(version, 0.9)
    fleet.run(fleet.start("v1", canary="100%"))
    fleet.settle(15)
    return fleet


@pytest.fixture
def unlabelled(fleet):
    fleet.labels = False
    fleet.telemetry.counters.clear()
    fleet.settle(15)
    return fleet


def plan(fleet, **spec):
    with session_scope(fleet.engine, read_only=True) as session:
        return make_plan(session, parse_spec({"model": "model", "version": "v2", **spec}), fleet.telemetry)


def alerts(fleet):
    with session_scope(fleet.engine, read_only=True) as session:
        return [row.detail for row in session.exec(select(Event).where(Event.kind == "drift_alert"))]


def last(fleet, rollout, gate):
    return [row for row in fleet.explain(rollout)["decisions"] if row["gate"] == gate][-1]


def test_a_plan_does_not_promise_accuracy_where_labels_never_came(unlabelled):
    with pytest.raises(PlanError, match="got no label") as refused:
        plan(unlabelled)
    assert "accuracy=proxy" in refused.value.next
    assert "shadow=off" in refused.value.next
    with pytest.raises(PlanError):
        plan(unlabelled, gates={"shadow": "off"})
    for gates in ({"accuracy": "off", "shadow": "off"}, {"accuracy": "advisory", "shadow": "off"}, PROXY["gates"]):
        assert plan(unlabelled, gates=gates).document["devices"] == 40
    first = next(iter(unlabelled.telemetry.counters))
    unlabelled.telemetry.add(*first, labelled=1)
    assert plan(unlabelled).document["devices"] == 40


def test_a_plan_says_how_long_labels_take(fleet):
    def texts(reports):
        with session_scope(fleet.engine, read_only=True) as session:
            spec = parse_spec({"model": "model", "version": "v2", "min_labels": 900})
            rows = make_plan(session, spec, reports).document["decidable"]
        return [row["text"] for row in rows if row["can"] and row["gate"] != "silence"]

    assert not any("after about" in text for text in texts(None))
    soon = texts(fleet.telemetry)
    assert "900 labelled pairs each, after about 1 min;" in soon[0]
    assert all("900 labels per device, after about 1 min" in text for text in soon[1:])
    (device, image), _ = next(iter(fleet.telemetry.counters.items()))
    fleet.telemetry.add(device, image, active_s=10**6)
    counted = fleet.telemetry.totals().values()
    hours = 900 / (sum(c.labelled for c in counted) / sum(c.active_s for c in counted)) / 3600
    assert all(f", after about {hours:.1f} h" in text for text in texts(fleet.telemetry))


def test_a_plan_by_proxy_says_what_decides(unlabelled):
    document = plan(unlabelled, **PROXY).document
    gates = {stage["key"]: stage["gates"] for stage in document["stages"]}
    assert "shadow" in gates["shadow"]
    assert "accuracy" not in gates["canary"]
    assert "drift" in gates["canary"]
    assert not [key for key in document["alpha"] if key.startswith(("shadow|", "drift|", "accuracy|"))]
    deciding = [row for row in document["decidable"] if row["can"] and row["gate"] != "silence"]
    assert all("by proxy" in row["text"] for row in deciding)
    assert [row["gate"] for row in deciding][:2] == ["shadow", "drift"]


def test_a_plan_says_how_much_silence_undoes_it(fleet):
    rows = [row for row in plan(fleet, canary="25%").document["decidable"] if row["gate"] == "silence"]
    assert rows[0]["stage"] == "canary"
    assert all(row["can"] for row in rows)
    assert re.fullmatch(
        r"\d of \d+ devices that fall silent roll it back while none of \d+ controls is", rows[0]["text"]
    )
    assert rows[-1]["text"].endswith("with no control to compare with")


def test_a_plan_counts_the_controls_that_canaries_have(fleet):
    """Two canaries of forty devices stand beside the eighteen others of their strata, not beside 38."""
    row = next(row for row in plan(fleet, canary="2").document["decidable"] if row["gate"] == "silence")
    text = "2 devices that all fall silent would hold it to its deadline while none of 18 controls is, not roll it back"
    assert (row["can"], row["text"]) == (False, text)


def set_own(fleet, **gates):
    with session_scope(fleet.engine) as session:
        set_model_gates(session, session.exec(select(Model).where(Model.name == "model")).one(), gates)


def test_the_models_own_policy_holds_for_a_rollout_as_it_was_at_its_start(unlabelled):
    set_own(unlabelled, accuracy="proxy", latency="off")
    document = plan(unlabelled, gates={"latency": "advisory"}).document
    assert document["gates_from"] == {
        "shadow": "model", "accuracy": "model", "faults": "default", "silence": "default", "latency": "rollout",
        "drift": "model",
    }  # fmt: skip
    assert (document["gates"]["accuracy"], document["gates"]["latency"]) == ("proxy", "advisory")
    rollout = unlabelled.start("v2", waves="100%")
    set_own(unlabelled, faults="off", accuracy="required")
    assert unlabelled.run(rollout, 150) == "promoted"
    assert unlabelled.explain(rollout)["equal"]
    assert "answers agree" in last(unlabelled, rollout, "shadow")["summary"]
    decided = {row["gate"] for row in unlabelled.explain(rollout)["decisions"]}
    assert {"shadow", "faults", "drift"} <= decided
    assert not decided & {"accuracy", "latency"}
    unlabelled.push("v3", 0.9)
    with pytest.raises(PlanError, match="got no label") as refused:
        plan(unlabelled, version="v3")
    assert "fleetctl model gates model accuracy=proxy" in refused.value.next


def test_by_proxy_a_version_that_agrees_is_promoted(unlabelled):
    rollout = unlabelled.start("v2", waves="100%", **PROXY)
    assert unlabelled.run(rollout, 150) == "promoted"
    assert unlabelled.explain(rollout)["equal"]
    assert "answers agree" in last(unlabelled, rollout, "shadow")["summary"]
    drift = last(unlabelled, rollout, "drift")
    assert (drift["required"], drift["outcome"], drift["numbers"]["drifted"]) == (True, "promote", [])
    assert alerts(unlabelled) == []


def test_by_proxy_a_version_that_answers_otherwise_waits_for_a_person(unlabelled):
    unlabelled.agreement["v2"] = 0.6
    rollout = unlabelled.start("v2", **PROXY, deadline_s=30.0)
    assert unlabelled.run(rollout, 60) == "held"
    assert unlabelled.rollout(rollout).stage == "shadow"
    decision = last(unlabelled, rollout, "shadow")
    assert decision["outcome"] == "hold"
    assert "differ too often" in decision["summary"]
    assert decision["equal"]


def test_answers_that_drift_are_told_once_and_pass_where_labels_say_all_is_well(fleet):
    fleet.answers["v2"] = LEANING
    rollout = fleet.start("v2", canary="6", waves="100%", gates={"shadow": "off"}, margin=0.05, soak_s=15.0)
    assert fleet.run(rollout, 150) == "promoted"
    canary = [row for row in fleet.explain(rollout)["decisions"] if row["gate"] == "drift"]
    assert all(row["equal"] for row in canary)
    told = next(row for row in canary if row["stage"] == "canary" and row["numbers"].get("alert"))
    assert (told["required"], told["outcome"], told["numbers"]["drifted"]) == (False, "hold", ["predicted"])
    assert told["numbers"]["predicted"]["distance"] > 0.2
    assert told["numbers"]["predicted"]["moved"][0] == pytest.approx(0.4, abs=0.1)
    stages = [detail["stage"] for detail in alerts(fleet)]
    assert stages.count("canary") == 1
    assert len(stages) == len(set(stages))


def test_required_drift_holds_until_a_person_promotes(fleet):
    fleet.answers["v2"] = LEANING
    gates = {"shadow": "off", "accuracy": "advisory", "drift": "required"}
    rollout = fleet.start("v2", canary="6", waves="100%", gates=gates, deadline_s=30.0)
    assert fleet.run(rollout, 60) == "held"
    assert fleet.rollout(rollout).stage == "canary"
    assert "answers drifted (classes)" in last(fleet, rollout, "drift")["summary"]
    fleet.ask(rollout, "promote")
    fleet.settle(5)
    assert fleet.rollout(rollout).stage == "waves"


def test_models_that_count_no_classes_are_judged_by_their_confidence(fleet):
    fleet._answered = lambda version, count: {}
    fleet.telemetry.counters.clear()
    fleet.settle(10)
    rollout = fleet.start("v2", canary="6", gates={"shadow": "off", "accuracy": "off", "drift": "required"})
    assert fleet.run(rollout, 60) == "promoted"
    assert last(fleet, rollout, "drift")["summary"].endswith("distance to control: confidence 0.00; 0.20 is drift")
