"""How often the analysis is wrong, and how long it takes to be right. `make bench-analysis`.

Three rules decide the same simulated rollouts (`analysis_fleet`): ours (the product's gates, look by look), a fixed
threshold (hawkBit's form, extended to accuracy: more than 5 % of the canaries in error, or pooled accuracy more than
the margin below control) and a z-test on pooled labels and counts that is repeated at every look.

Wrong roll-backs: nothing differs between the arms, and every stage is held open for all its looks, which is harder than
a real course, where a stage ends once its gates pass. Wrong promotions: the candidate is worse by exactly the margin.
Detection: share of rollouts that roll back, hours and devices that ran the candidate by then.

Options by environment: ROLLOUTS (A/A rollouts, 2000), DETECT (rollouts per detection cell, 60), SEED, CANARIES,
PARTS (a_a, at_margin, detect).
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from analysis_fleet import DAY_S, HOUR_S, Fleet, Stage, World

from tinyfleet_service.database.keep_lease import keep_nothing
from tinyfleet_service.rollouts.gates import GateKey, Look, judge
from tinyfleet_service.rollouts.policy import Policy
from tinyfleet_service.rollouts.spec import RolloutSpec
from tinyfleet_service.rollouts.state_machine import Outcome

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "analysis.json"
RULES = ("ours", "threshold", "z-test")
FLEETS = {3: (60, 0.60), 10: (100, 0.30), 50: (500, 0.08), 200: (2000, 0.02)}
"""Canary -> devices of the fleet, share of the A/A rollouts."""
ERROR_SHARE = 0.05
Z_ALARM = 1.96
UNGATED_LATENCY = {"gates": {"latency": Policy.OFF}}
"""Advisory by default: it could roll nothing back, and is not computed where nothing reads it."""
LATENCY = {"gates": {"latency": Policy.REQUIRED}, "latency_ratio": 1.1}
SCENARIOS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "harmless": ({}, {}),
    "accuracy -2 points": ({"accuracy_drop": 0.02}, {}),
    "accuracy -5 points": ({"accuracy_drop": 0.05}, {}),
    "accuracy -10 points": ({"accuracy_drop": 0.10}, {}),
    "latency +20 %, budget 1.1": ({"latency_ratio": 1.2}, LATENCY),
    "crash rate x2": ({"fault_ratio": 2.0}, {}),
    "crash rate x4": ({"fault_ratio": 4.0}, {}),
    "20 % bricked, silent": ({"bricks": 0.2}, {}),
    "all bricked, silent": ({"bricks": 1.0}, {}),
}


@dataclass(frozen=True)
class Course:
    """How one rollout ended: outcome, seconds, devices that ran the candidate, why."""

    outcome: str
    seconds: float
    exposed: int
    why: str = ""


def spec_for(**changes: Any) -> RolloutSpec:
    """The product's defaults, with changes."""
    return RolloutSpec(model="model", version="v2", **changes)


def look_results(fleet: Fleet, stage: Stage, keep: Callable[[], None] = keep_nothing) -> Any:
    """The gates' results at each look of a stage, by the product's code, which calls `keep` as it does in a tick."""
    earlier: dict[GateKey, dict[str, Any]] = {}
    for number in range(1, len(stage.times_s) + 1):
        results = judge(
            Look(
                spec=fleet.spec, stage=stage.key, gates=stage.gates, shares=fleet.shares, number=number,
                seed_text=fleet.plan.salt, panel=stage.panel, earlier=earlier, sizes=stage.sizes, keep=keep,
            )
        )  # fmt: skip
        earlier = {(r.gate, r.scope): {"scope": r.scope} | r.numbers for r in results}
        yield stage.times_s[number - 1], [r for r in results if r.required]


def held_open(fleet: Fleet, first: tuple[int, Stage] | None = None) -> Course:
    """Ours, with every stage watched through all its looks: the first roll-back, if there is one.

    `first`: a stage that has been played already, by its number.
    """
    begun, exposed = 0.0, 0
    for number in range(len(fleet.stages)):
        stage = first[1] if first and first[0] == number else fleet.stage(number, begun)
        exposed += stage.canaries if stage.key != "shadow" else 0
        for at, results in look_results(fleet, stage):
            if harm := next((r for r in results if r.outcome == Outcome.ROLLBACK), None):
                return Course("rolled back", begun + at, exposed, f"{stage.key} {harm.gate}")
        begun += float(stage.times_s[-1])
    return Course("watched", begun, exposed)


def ours(fleet: Fleet, upto: str = "canary") -> Course:
    """A real course through the stages up to `upto`: rolled back, promoted, or held at a deadline."""
    begun, exposed = 0.0, 0
    for number, described in enumerate(fleet.stages):
        stage = fleet.stage(number, begun)
        exposed += stage.canaries if stage.key != "shadow" else 0
        end = None
        for at, results in look_results(fleet, stage):
            if harm := next((r for r in results if r.outcome == Outcome.ROLLBACK), None):
                return Course("rolled back", begun + at, exposed, f"{stage.key} {harm.gate}")
            if at >= stage.ready_s and all(r.outcome == Outcome.PROMOTE for r in results):
                end = float(at)
                break
        if end is None:
            return Course("held", begun + float(stage.times_s[-1]), exposed, stage.key)
        begun += end
        if described["key"] == upto:
            break
    return Course("promoted", begun, exposed)


def naive(fleet: Fleet, rule: str) -> Course:
    """The two rivals at the canary stage: alarm at any look, promoted at the first look after the soak."""
    number = next(i for i, s in enumerate(fleet.stages) if s["key"] == "canary")
    stage = fleet.stage(number, 0.0)
    alarm, content = (_thresholds if rule == "threshold" else _z_tests)(stage, fleet.spec)
    for row, at in enumerate(stage.times_s):
        if alarm[row]:
            return Course("rolled back", float(at), stage.canaries)
        if at >= stage.ready_s and content[row]:
            return Course("promoted", float(at), stage.canaries)
    return Course("held", float(stage.times_s[-1]), stage.canaries)


def watched(stage: Stage, spec: RolloutSpec, rule: str) -> bool:
    """Whether a rival would roll back, looking on at this stage until its deadline."""
    alarm, _ = (_thresholds if rule == "threshold" else _z_tests)(stage, spec)
    return bool(alarm.any())


def _arms(stage: Stage, values: Any) -> tuple[Any, Any]:
    own = stage.panel.canary
    return values[:, own].sum(axis=1).astype(float), values[:, ~own].sum(axis=1).astype(float)


def _thresholds(stage: Stage, spec: RolloutSpec) -> tuple[Any, Any]:
    panel = stage.panel
    errors = _arms(stage, (panel.sums["faults"] > 0) | panel.failed)[0] / max(stage.canaries, 1)
    labels, control_labels = _arms(stage, panel.sums["labelled"])
    right, control_right = _arms(stage, panel.sums["correct"])
    enough = (labels >= spec.min_labels) & (control_labels > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        worse = enough & (right / labels < control_right / control_labels - spec.margin)
    return (errors > ERROR_SHARE) | worse, enough


def _z_tests(stage: Stage, spec: RolloutSpec) -> tuple[Any, Any]:
    panel, controls = stage.panel, len(stage.panel.canary) - stage.canaries
    labels, control_labels = _arms(stage, panel.sums["labelled"])
    right, control_right = _arms(stage, panel.sums["correct"])
    z_lower, z_accuracy = (_z(right, labels, control_right, control_labels, m) for m in (spec.margin, 0.0))
    events = [(panel.sums["faults"] > 0) | panel.failed, panel.silent]
    counts = [_arms(stage, event) for event in events]
    risky = [-_z(c, np.full_like(c, stage.canaries), k, np.full_like(k, controls), 0.0) for c, k in counts]
    return (z_accuracy < -Z_ALARM) | (np.minimum.reduce(risky) < -Z_ALARM), z_lower > Z_ALARM


def _z(hits: Any, n: Any, control_hits: Any, control_n: Any, margin: float) -> Any:
    """z of (rate - control rate + margin), pooled variance; 0 where there is nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = (hits + control_hits) / (n + control_n)
        z = (hits / n - control_hits / control_n + margin) / np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / control_n))
    return np.nan_to_num(z, nan=0.0, posinf=0.0, neginf=0.0)


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Two-sided exact interval of a proportion, by bisection on the binomial tail."""
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else _solve(lambda p: 1 - _below(hits - 1, n, p), tail)
    high = 1.0 if hits == n else 1 - _solve(lambda p: 1 - _below(n - hits - 1, n, p), tail)
    return low, high


def _below(k: int, n: int, p: float) -> float:
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(k + 1)]
    return sum(math.exp(c + i * math.log(p) + (n - i) * math.log1p(-p)) for i, c in enumerate(logs))


def _solve(rising: Any, target: float) -> float:
    low, high = 1e-12, 1 - 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < target else (low, middle)
    return (low + high) / 2


def interval_text(hits: int, n: int) -> str:
    """`3.1 % (2.4 to 4.0)`."""
    low, high = clopper_pearson(hits, n)
    return f"{100 * hits / n:5.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def fleets(world: World, spec: RolloutSpec, count: int, seed: int) -> Any:
    """`count` fleets, each with a seed of its own."""
    for run in range(count):
        yield Fleet(world, spec, np.random.default_rng([seed, run]))


def a_a(rollouts: int, canaries: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """Wrong roll-backs of the three rules, by canary and together."""
    spec, rows = spec_for(**UNGATED_LATENCY), []
    weight = sum(FLEETS[c][1] for c in canaries)
    for canary in canaries:
        devices, share = FLEETS[canary]
        count = max(1, round(rollouts * share / weight))
        wrong = dict.fromkeys(RULES, 0)
        why: dict[str, int] = {}
        for fleet in fleets(World(devices=devices, canary=canary), spec, count, seed):
            played = fleet.stage(1, spec.deadline_s)  # the canary stage, after a shadow stage of full length
            course = held_open(fleet, (1, played))
            wrong["ours"] += course.outcome == "rolled back"
            if course.why:
                why[course.why] = why.get(course.why, 0) + 1
            for rule in RULES[1:]:
                wrong[rule] += watched(played, spec, rule)
        rows.append({"canary": canary, "devices": devices, "rollouts": count, "wrong": wrong, "why": why})
        print(_wrong_line(f"{canary} of {devices}", count, wrong), _reasons(why), flush=True)
    total = {rule: sum(row["wrong"][rule] for row in rows) for rule in RULES}
    n = sum(row["rollouts"] for row in rows)
    print(_wrong_line("all", n, total), flush=True)
    return [*rows, {"canary": "all", "rollouts": n, "wrong": total}]


def at_margin(rollouts: int, canaries: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """Promotions of a candidate worse by exactly the margin, at the canary stage (shadow off) and with shadow."""
    rows = []
    for shadow in ("off", "required"):
        spec = spec_for(gates={"shadow": shadow, "latency": Policy.OFF})
        for canary in canaries:
            devices, share = FLEETS[canary]
            count = max(1, round(rollouts * share))
            world = World(devices=devices, canary=canary, accuracy_drop=spec.margin)
            wrong = dict.fromkeys(RULES, 0)
            for fleet in fleets(world, spec, count, seed):
                wrong["ours"] += ours(fleet).outcome == "promoted"
                for rule in RULES[1:]:
                    wrong[rule] += naive(fleet, rule).outcome == "promoted"
            rows.append({"canary": canary, "shadow": shadow, "rollouts": count, "wrong": wrong})
            print(_wrong_line(f"{canary} of {devices}, shadow {shadow}", count, wrong), flush=True)
    return rows


def detect(runs: int, canaries: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """What each rule does with each scenario: outcomes, hours, devices exposed."""
    rows = []
    for shadow in ("required", "off"):
        for name, (effect, options) in SCENARIOS.items():
            if shadow == "off" and not name.startswith(("harmless", "accuracy")):
                continue
            gates = {"shadow": shadow, "latency": Policy.OFF} | options.get("gates", {})
            spec = spec_for(**(options | {"gates": gates}))
            for canary in canaries:
                world = World(devices=FLEETS[canary][0], canary=canary, **effect)
                courses: dict[str, list[Course]] = {rule: [] for rule in RULES}
                for fleet in fleets(world, spec, runs if canary < 200 else max(runs // 3, 1), seed):
                    courses["ours"].append(ours(fleet))
                    for rule in RULES[1:] if shadow == "required" else ():
                        courses[rule].append(naive(fleet, rule))
                cells = {rule: _cell(found) for rule, found in courses.items() if found}
                rows.append({"scenario": name, "shadow": shadow, "canary": canary, "rules": cells})
                print(_detect_line(name, shadow, canary, cells), flush=True)
    return rows


def _cell(courses: Sequence[Course]) -> dict[str, Any]:
    counts = {o: sum(c.outcome == o for c in courses) for o in ("promoted", "held", "rolled back")}
    main = max(counts, key=lambda o: counts[o])
    chosen = [c for c in courses if c.outcome == main]
    return {
        "runs": len(courses), "counts": counts, "mostly": main,
        "median_hours": round(float(np.median([c.seconds for c in chosen])) / HOUR_S, 1),
        "median_devices": int(np.median([c.exposed for c in chosen])),
        "stages": sorted({c.why for c in chosen if c.why}),
    }  # fmt: skip


def _wrong_line(name: str, n: int, wrong: dict[str, int]) -> str:
    return f"{name:<24} {n:>6}  " + "  ".join(f"{interval_text(wrong[rule], n):<24}" for rule in RULES)


def _reasons(why: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(why.items(), key=lambda item: -item[1]))


def _detect_line(name: str, shadow: str, canary: int, cells: dict[str, Any]) -> str:
    def text(cell: dict[str, Any]) -> str:
        share = 100 * cell["counts"][cell["mostly"]] / cell["runs"]
        return f"{share:3.0f} % {cell['mostly']:<11} {cell['median_hours']:>6} h {cell['median_devices']:>4} dev"

    return f"{name:<26} {shadow:<8} {canary:>4}  " + "  |  ".join(text(cells[rule]) for rule in RULES if rule in cells)


def main() -> int:
    rollouts, runs = int(os.environ.get("ROLLOUTS", "2000")), int(os.environ.get("DETECT", "60"))
    seed = int(os.environ.get("SEED", "1"))
    canaries = [int(c) for c in os.environ.get("CANARIES", "3,10,50,200").split(",")]
    parts = os.environ.get("PARTS", "a_a,at_margin,detect").split(",")
    spec, looks = spec_for(), len(Fleet(World(), spec_for(), np.random.default_rng(0)).stage(0, 0.0).times_s)
    print(f"World: {World()}")
    print(f"alpha {spec.alpha}, margin {spec.margin}, {looks} looks in {spec.deadline_s / DAY_S:.0f} days")
    results: dict[str, Any] = {"world": asdict(World()), "looks": looks, "seed": seed}
    if "a_a" in parts:
        print("\nwrong roll-backs, nothing differs, every stage held open   " + "  ".join(f"{r:<24}" for r in RULES))
        results["a_a"] = a_a(rollouts, canaries, seed)
    if "at_margin" in parts:
        print("\npromotions at exactly the margin")
        results["at_margin"] = at_margin(max(rollouts // 4, 1), canaries, seed)
    if "detect" in parts:
        print("\ndetection: most frequent outcome, median hours, devices that ran the candidate; " + " | ".join(RULES))
        results["detect"] = detect(runs, canaries, seed)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
