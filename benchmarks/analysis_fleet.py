"""Simulated fleets for `bench_analysis`: the counter snapshots that a rollout's looks would have frozen.

Plan, draw, alpha, look times, matched starts and gates are the product's own; only what devices do is made up here. A
device has an accuracy of its own (beta distributed, intra-device correlation `icc`), which moves a little at the swap
whatever happens; accuracy swings with the time of day, at each site at its own hours; devices answer and report at
unequal rates; labels come `label_lag_h` late; some sleep for hours, half of them without having said so; devices fault
and die in both arms; now and then a site is cut off.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_service.analysis import look_due
from tinyfleet_service.database.models import Build
from tinyfleet_service.rollouts.membership import Candidate, draw_members
from tinyfleet_service.rollouts.observe import RETURN_S
from tinyfleet_service.rollouts.panel import SUMS, Panel
from tinyfleet_service.rollouts.plan_stages import draw_sizes, plan_alpha, plan_stages
from tinyfleet_service.rollouts.planned import Plan
from tinyfleet_service.rollouts.policy import Policy
from tinyfleet_service.rollouts.snapshots import CANARY, CONTROL, Standing, matched_starts
from tinyfleet_service.rollouts.spec import RolloutSpec

HOUR_S, DAY_S, TICK_S, AWAKE_H = 3600.0, 86400.0, 5.0, 2.0
T0 = datetime(2026, 1, 1, tzinfo=UTC)
LATENCY_BUCKETS = tuple(range(36, 48))
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """What a fleet is like and what the candidate does to it; shares and accuracies are fractions."""

    devices: int = 200
    canary: int = 10
    classes: int = 1
    sites: int = 2
    accuracy: float = 0.92
    icc: float = 0.05
    swap_noise: float = 0.01
    day_swing: float = 0.04
    labels_per_h: float = 20.0
    label_share: float = 0.1
    rate_spread: float = 0.5
    label_lag_h: float = 2.0
    history_days: float = 14.0
    report_s: tuple[float, ...] = (60.0, 300.0, 900.0)
    sleepers: float = 0.10
    sleep_h: float = 8.0
    faults_per_day: float = 0.02
    deaths_per_day: float = 0.002
    outages: float = 0.2
    discordant: float = 0.06
    accuracy_drop: float = 0.0
    fault_ratio: float = 1.0
    latency_ratio: float = 1.0
    bricks: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One stage's devices and snapshots."""

    key: str
    gates: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    times_s: Floats
    ready_s: float
    canaries: int
    panel: Panel


@dataclass
class Fleet:
    """A drawn fleet with one rollout planned on it."""

    world: World
    spec: RolloutSpec
    rng: np.random.Generator
    plan: Plan = field(init=False)
    stages: list[dict[str, Any]] = field(init=False)
    shares: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        world, rng, n = self.world, self.rng, self.world.devices
        self.site = rng.integers(0, world.sites, n)
        classes = [f"class-{number % world.classes}" for number in range(n)]
        self.plan = _plan(world, self.spec, classes, self.site, salt=str(rng.integers(2**62)))
        self.stages = [s for s in plan_stages(self.plan, _previous(self.plan))[0] if not s["skipped"]]
        self.shares = plan_alpha(self.plan, self.stages)
        self.skill = _betas(rng, world, n)
        self.moved = np.clip(self.skill + rng.normal(0, world.swap_noise, n), 0.01, 0.99)
        self.labels_per_s = world.labels_per_h / HOUR_S * np.exp(rng.normal(0, world.rate_spread, n))
        self.report_s = rng.choice(world.report_s, n)
        self.sleeps = rng.random(n) < world.sleepers
        self.says_so = rng.random(n) < 0.5
        self.frailty = rng.gamma(2.0, 0.5, n)
        self.phase = rng.random(n)
        self.death_s = rng.exponential(DAY_S / world.deaths_per_day, n) if world.deaths_per_day else np.full(n, np.inf)
        self.outage = _outage(rng, world)
        self.speed = np.exp2(rng.normal(10.0, 0.15, n))
        self.before_labels = rng.poisson(self.labels_per_s * world.history_days * DAY_S)
        self.before_correct = rng.binomial(self.before_labels, self.skill)
        self.before_latency = _latencies(rng, np.full((1, n), 2000), self.speed)[0]

    def stage(self, number: int, at_s: float) -> Stage:
        """Play stage `number`, begun `at_s` after the rollout's start, through all its looks."""
        described = self.stages[number]
        wave = int(described["key"].partition("/")[2] or 0)
        chosen, canary, start_s = self._subjects(wave, at_s)
        times = look_times(self.spec.deadline_s, max(self.world.report_s))
        play = _Play(self, chosen, canary, start_s, times, at_s, described["key"] == "shadow")
        ready_s = float(start_s[canary].max() + self.spec.soak_s) if canary.any() else 0.0
        return Stage(
            described["key"], tuple(described["gates"]), tuple(draw_sizes(self.plan.draw, wave)), times, ready_s,
            int(canary.sum()), play.panel(),
        )  # fmt: skip

    def _begins(self, device: int, at_s: float) -> float:
        """When a canary takes the candidate up, seconds since the stage began: within an hour, when it is awake."""
        wanted = float(self.rng.uniform(0, HOUR_S))
        awake_since = _awake_since(wanted + at_s, self.phase[device], self.world.sleep_h)
        if not self.sleeps[device] or wanted + at_s < awake_since + AWAKE_H * HOUR_S:
            return wanted
        return float(awake_since + (self.world.sleep_h + AWAKE_H) * HOUR_S - at_s + 60.0)

    def _subjects(self, wave: int, at_s: float) -> tuple[Ints, npt.NDArray[np.bool_], Floats]:
        """Indices of the devices under analysis, which of them are canaries, and when their comparison starts."""
        standings, lost = [], set[str]()
        for place in self.plan.draw.places:
            if place.wave >= wave:
                own = place.wave == wave
                begun = T0 + timedelta(seconds=self._begins(int(place.device_id), at_s)) if own else None
                if own and self.death_s[int(place.device_id)] - at_s < (begun - T0).total_seconds():
                    lost.add(place.device_id)  # unreached: it never took the candidate up
                arm = CANARY if own else CONTROL
                standings.append(Standing(place.device_id, place.stratum, place.rank, arm, begun))
        starts = matched_starts(standings)
        names = sorted(name for name in starts if name not in lost)
        arms = {s.device_id: s.arm for s in standings}
        seconds = np.array([(starts[name] - T0).total_seconds() for name in names])
        return np.array([int(n) for n in names]), np.array([arms[n] == CANARY for n in names], dtype=bool), seconds


@lru_cache
def look_times(deadline_s: float, interval_s: float) -> Floats:
    """When the looks of one stage are taken, by the product's own rule at a tick every five seconds."""
    times: list[float] = []
    for tick in range(1, int(deadline_s // TICK_S) + 1):
        if look_due(len(times), tick * TICK_S, times[-1] if times else 0.0, interval_s, deadline_s):
            times.append(tick * TICK_S)
    return np.array(times)


@dataclass
class _Play:
    """What the chosen devices do and report in one stage; arrays are `(looks, devices)`."""

    fleet: Fleet
    chosen: Ints
    canary: npt.NDArray[np.bool_]
    start_s: Floats
    times: Floats
    at_s: float
    shadow: bool

    def panel(self) -> Panel:
        """The panel that stored snapshots of these devices would give."""
        fleet, world, rng = self.fleet, self.fleet.world, self.fleet.rng
        pick = self.chosen
        heard, quiet_s = self._last_reports()
        present = self.times[:, None] >= self.start_s
        told = np.clip(heard - self.start_s, 0.0, None)
        windows = np.diff(told, axis=0, prepend=0.0)
        candidate = self.canary if not self.shadow else np.zeros_like(self.canary)
        inferences = rng.poisson(windows * fleet.labels_per_s[pick] / world.label_share).cumsum(axis=0)
        labelled, correct, late, late_correct = self._labels(heard, candidate)
        pairs = self._pairs(heard)
        faults = (told >= self._first_faults()) & (told > 0)
        latency = np.zeros((len(self.times), len(pick), len(LATENCY_BUCKETS)), dtype=np.int64)
        if not self.shadow and fleet.spec.policy("latency") != Policy.OFF:
            speed = fleet.speed[pick] * np.where(candidate, world.latency_ratio, 1.0)
            latency = _latencies(rng, np.diff(inferences, axis=0, prepend=0), speed).cumsum(axis=0)
        answered = inferences * (self.canary if self.shadow else 1)
        nothing = np.zeros((len(pick), 0), dtype=np.int64)
        sums = dict.fromkeys(SUMS, np.zeros_like(inferences)) | {
            "inferences": inferences, "labelled": labelled, "correct": correct, "faults": faults.astype(np.int64),
            "shadow_inferences": answered,
        }  # fmt: skip
        return Panel(
            devices=tuple(map(str, pick)),
            device_classes=tuple(fleet.plan.draw.places[self._place(i)].device_class for i in pick),
            strata=tuple(fleet.plan.draw.places[self._place(i)].stratum for i in pick),
            canary=self.canary,
            joiner=np.zeros(len(pick), dtype=bool),
            silent_at_start=self._silent_at_start(quiet_s),
            numbers=tuple(range(1, len(self.times) + 1)),
            present=present,
            silent=present & (self.times[:, None] - heard > quiet_s),
            lost=self._lost(heard, quiet_s, present),
            failed=np.zeros_like(present),
            heard=present & (heard > self.start_s),
            at_risk_s=np.clip(self.times[:, None] - self.start_s, 0.0, None),
            before={"labelled": fleet.before_labels[pick], "correct": fleet.before_correct[pick]} | self._past_faults(),
            sums=sums,
            late={"labelled": late, "correct": late_correct},
            pairs=pairs,
            counted={"latency": (LATENCY_BUCKETS, fleet.before_latency[pick], latency)}
            | {
                kind: ((), nothing, np.zeros((len(self.times), *nothing.shape), np.int64))
                for kind in ("predicted", "confidence")
            },
        )

    def _place(self, index: int) -> int:
        return _positions(self.fleet.plan)[str(index)]

    def _last_reports(self) -> tuple[Floats, Floats]:
        """When each device was last heard at each look, and how long it may say nothing."""
        fleet, world, pick = self.fleet, self.fleet.world, self.chosen
        heard = self._reported_by(self.times[:, None])
        dead = fleet.death_s[pick] - self.at_s
        if world.bricks and not self.shadow:
            bricked = self.canary & (fleet.rng.random(len(pick)) < world.bricks)
            dead = np.where(bricked, np.minimum(dead, self.start_s + 600.0), dead)
        allowed = np.maximum(3 * fleet.report_s[pick], world.sleep_h * HOUR_S * (fleet.sleeps & fleet.says_so)[pick])
        return np.minimum(heard, dead), allowed

    def _reported_by(self, times: Floats) -> Floats:
        """The newest report before each time, of devices that live for ever."""
        fleet, world, pick = self.fleet, self.fleet.world, self.chosen
        every, phase = fleet.report_s[pick], fleet.phase[pick]
        heard = np.floor(times / every - phase) * every + phase * every
        ends = _awake_since(times + self.at_s, phase, world.sleep_h) - self.at_s + AWAKE_H * HOUR_S
        heard = np.where(fleet.sleeps[pick], np.minimum(heard, ends), heard)
        site, begin, end = fleet.outage
        cut = (fleet.site[pick] == site) & (times + self.at_s >= begin) & (times + self.at_s < end)
        return np.where(cut, np.minimum(heard, begin - self.at_s), heard)

    def _silent_at_start(self, quiet_s: Floats) -> npt.NDArray[np.bool_]:
        heard = np.minimum(self._reported_by(self.start_s[None, :])[0], self.fleet.death_s[self.chosen] - self.at_s)
        return np.where(self.canary, False, self.start_s - heard > quiet_s)

    def _lost(self, heard: Floats, quiet_s: Floats, present: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Silent since a look `RETURN_S` before, at which another had been heard since."""
        over = heard + quiet_s
        newest = np.where(present, heard, -np.inf).max(axis=1, keepdims=True)
        gone = present & (self.times[:, None] > over) & (newest > over)
        since, lost = np.full(len(self.chosen), np.inf), np.zeros_like(present)
        for row, time in enumerate(self.times):
            again = row > 0 and heard[row] != heard[row - 1]
            since = np.where(gone[row], np.minimum(np.where(again, np.inf, since), time), np.inf)
            lost[row] = time - since >= RETURN_S
        return lost

    def _past_faults(self) -> dict[str, Ints]:
        fleet, world, pick = self.fleet, self.fleet.world, self.chosen
        faults = fleet.rng.poisson(world.faults_per_day * fleet.frailty[pick] * world.history_days)
        return {"faults": faults, "active_s": np.full(len(pick), int(world.history_days * DAY_S))}

    def _first_faults(self) -> Floats:
        fleet, world, pick = self.fleet, self.fleet.world, self.chosen
        rate = world.faults_per_day / DAY_S * fleet.frailty[pick]
        rate = rate * np.where(self.canary & (not self.shadow), world.fault_ratio, 1.0)
        return fleet.rng.exponential(1.0, len(pick)) / rate

    def _labels(self, heard: Floats, candidate: npt.NDArray[np.bool_]) -> tuple[Ints, Ints, Ints, Ints]:
        """Labels and right answers since the start: of the image after, and of the image before on canaries."""
        rng, fleet, world = self.fleet.rng, self.fleet, self.fleet.world
        lag_s = world.label_lag_h * HOUR_S
        known = np.maximum(heard, self.start_s) - lag_s  # inputs up to this time have their label in by then
        edges = np.concatenate([(self.start_s - lag_s)[None, :], np.maximum.accumulate(known, axis=0)])
        rate = fleet.labels_per_s[self.chosen]
        old, new = (np.minimum(edges, self.start_s), np.maximum(edges, self.start_s))
        drop = world.accuracy_drop * candidate
        results = []
        for bounds, minus in ((new, drop), (old, 0.0)):
            labels = rng.poisson(np.diff(bounds, axis=0) * rate)
            chance = np.clip(self._accuracy(bounds) - minus, 0.0, 1.0)
            results += [labels.cumsum(axis=0), rng.binomial(labels, chance).cumsum(axis=0)]
        labelled, correct, late, late_correct = results
        controls = ~candidate  # a control has one image, which is credited with both
        return (
            labelled + late * controls, correct + late_correct * controls, late * candidate, late_correct * candidate,
        )  # fmt: skip

    def _accuracy(self, bounds: Floats) -> Floats:
        """Mean accuracy between consecutive times: a device's own, with its site's swing of the day."""
        world, turn = self.fleet.world, 2 * np.pi / DAY_S
        angle = turn * (bounds + self.at_s) + 2.0 * self.fleet.site[self.chosen]
        lengths = np.diff(bounds, axis=0)
        swing = -np.diff(np.cos(angle), axis=0) / np.where(lengths > 0, lengths * turn, 1.0)
        accuracy: Floats = self.fleet.moved[self.chosen] + world.day_swing * swing
        return accuracy

    def _pairs(self, heard: Floats) -> Ints:
        """Shadow pairs of canaries: both right, active only, candidate only, neither."""
        looks, devices = heard.shape
        table = np.zeros((looks, devices, 4), dtype=np.int64)
        if not self.shadow:
            return table
        rng, fleet, world, own = self.fleet.rng, self.fleet, self.fleet.world, self.canary
        known = np.maximum.accumulate(np.maximum(heard - world.label_lag_h * HOUR_S, self.start_s), axis=0)[:, own]
        bounds = np.concatenate([self.start_s[None, own], known])
        labels = rng.poisson(np.diff(bounds, axis=0) * fleet.labels_per_s[self.chosen][own])
        drop = world.accuracy_drop - (fleet.moved - fleet.skill)[self.chosen][own]
        worse, better = np.clip((world.discordant + drop) / 2, 0, 1), np.clip((world.discordant - drop) / 2, 0, 1)
        split = rng.binomial(labels, worse + better)
        only_active = rng.binomial(split, worse / np.maximum(worse + better, 1e-9))
        both = rng.binomial(labels - split, np.clip(self._accuracy_of(own), 0, 1))
        columns = [both, only_active, split - only_active, labels - split - both]
        table[:, own, :] = np.stack([c.cumsum(axis=0) for c in columns], axis=2)
        return table

    def _accuracy_of(self, own: npt.NDArray[np.bool_]) -> Floats:
        accuracy: Floats = self.fleet.moved[self.chosen][own]
        return accuracy


def _awake_since(at_s: Any, phase: Any, sleep_h: float) -> Any:
    """When a sleeper last woke up; it stays awake for `AWAKE_H`."""
    cycle_s = (sleep_h + AWAKE_H) * HOUR_S
    return np.floor(at_s / cycle_s - phase) * cycle_s + phase * cycle_s


def _betas(rng: np.random.Generator, world: World, n: int) -> Floats:
    concentration = 1 / world.icc - 1
    values: Floats = rng.beta(world.accuracy * concentration, (1 - world.accuracy) * concentration, n)
    return np.clip(values, 0.05, 0.995)


def _outage(rng: np.random.Generator, world: World) -> tuple[int, float, float]:
    begin = float(rng.uniform(0, 2 * DAY_S)) if rng.random() < world.outages else np.inf
    return int(rng.integers(world.sites)), begin, begin + 2 * HOUR_S


def _latencies(rng: np.random.Generator, counts: Ints, speed_us: Floats) -> Ints:
    """Histograms `(..., buckets)` of answers that take `speed_us`, 10 % up and down, a twentieth of them double."""
    edges = np.array([2.0 ** (b // 4) * (1 + (b % 4) / 4) for b in (*LATENCY_BUCKETS, LATENCY_BUCKETS[-1] + 1)])
    shape = np.clip((edges[None, :] / speed_us[:, None] - 0.9) / 0.2, 0, 1)
    slow = np.clip((edges[None, :] / (2 * speed_us[:, None]) - 0.9) / 0.2, 0, 1)
    reached = 0.95 * shape + 0.05 * slow
    reached[:, 0], reached[:, -1] = 0.0, 1.0
    chances = np.broadcast_to(np.diff(reached, axis=1), (*counts.shape, len(LATENCY_BUCKETS)))
    drawn: Ints = rng.multinomial(counts, chances / chances.sum(axis=-1, keepdims=True))
    return drawn


def _plan(world: World, spec: RolloutSpec, classes: list[str], site: Ints, salt: str) -> Plan:
    candidates = [Candidate(f"{number:06}", name, f"{name}/site={site[number]}") for number, name in enumerate(classes)]
    builds = {name: Build(id=2 + i, version_id=2, device_class=name) for i, name in enumerate(sorted(set(classes)))}
    return Plan(
        spec=spec, version_id=2, previous_version_id=1, component="model/0", salt=salt,
        draw=draw_members(candidates, str(world.canary), spec.waves, salt), builds=builds,
        previous_builds={c.device_id: 1 for c in candidates}, bases={c.device_id: 1 for c in candidates},
    )  # fmt: skip


def _previous(plan: Plan) -> dict[str, Build | None]:
    old = Build(id=1, version_id=1, device_class="-")
    return dict.fromkeys(plan.previous_builds, old)


def _positions(plan: Plan) -> dict[str, int]:
    known = plan.document.get("positions")
    if known is None:
        known = plan.document["positions"] = {str(int(p.device_id)): i for i, p in enumerate(plan.draw.places)}
    positions: dict[str, int] = known
    return positions
