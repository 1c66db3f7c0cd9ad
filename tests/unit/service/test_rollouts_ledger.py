"""Counters as columns: pages hold what was put in, and a stage added up is what plain sums per device say."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet_service.rollouts.frozen import Frozen, decode, flag_columns
from tinyfleet_service.rollouts.gate_counts import judge_silence
from tinyfleet_service.rollouts.judging import Look
from tinyfleet_service.rollouts.ledger import COUNTED, Ledger, StoredPage, gained_between
from tinyfleet_service.rollouts.snapshots import CANARY, CONTROL, HISTOGRAMS, PAIRS, SUMMED, Kind, Subject
from tinyfleet_service.rollouts.spec import RolloutSpec
from tinyfleet_service.rollouts.state_machine import Outcome
from unit.service.frozen_builders import columns_of, nothing

BEFORE, AFTER = "a" * 32, "b" * 32
INTEGERS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.tuples(st.text(max_size=5), INTEGERS, st.booleans(), st.floats(allow_nan=False)), max_size=5))
def test_a_page_holds_what_was_put_in(rows: list[tuple[str, int, bool, float]]) -> None:
    kinds = {"count": np.int64, "flag": np.bool_, "time": np.float64}
    columns = {name: np.array([row[at] for row in rows], kind) for at, (name, kind) in enumerate(kinds.items(), 1)}
    frozen = Frozen(tuple(row[0] for row in rows), columns)
    back = decode(frozen.encode())
    assert back.devices == frozen.devices
    for name, kind in kinds.items():
        assert back.columns[name].dtype == kind
        assert back.columns[name].tolist() == columns[name].tolist()


def counters(rng: random.Random, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Counters some time after `before`; sometimes the device lost them."""
    old = before if before is not None and rng.random() < 0.8 else nothing()
    grown: dict[str, Any] = {name: old[name] + rng.randrange(9) for name in SUMMED}
    grown["shadow_pairs"] = [n + rng.randrange(3) for n in old["shadow_pairs"]]
    for kind in HISTOGRAMS:
        buckets = {*old[kind], *(str(rng.randrange(8, 12)) for _ in range(2))}
        grown[kind] = {b: old[kind].get(b, 0) + rng.randrange(4) for b in buckets}
    return grown


def page(arm: str, kind: Kind, look: int, image: str, rows: dict[str, dict[str, Any]], **extra: Any) -> StoredPage:
    names = sorted(rows)
    columns = columns_of([rows[name] for name in names])
    columns |= flag_columns([rows[name] for name in names], [n for n in ("silent", "failed", "heard") if n in extra])
    if "at_risk_s" in extra:
        columns["at_risk_s"] = np.array([rows[name]["at_risk_s"] for name in names])
    frozen = decode(Frozen(tuple(names), columns).encode())
    return StoredPage(arm, kind, look, image, frozen.devices, frozen.columns)


def gained_plainly(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What a device gained from the first of its rows on, counter by counter."""
    total: dict[str, Any] = nothing()
    for old, new in pairwise(rows):
        since = nothing() if any(new[name] < old[name] for name in SUMMED) else old
        for name in SUMMED:
            total[name] += new[name] - since[name]
        pairs = zip(total["shadow_pairs"], new["shadow_pairs"], since["shadow_pairs"], strict=True)
        total["shadow_pairs"] = [sum_ + max(n - o, 0) for sum_, n, o in pairs]
        for kind in HISTOGRAMS:
            for bucket, count in new[kind].items():
                more = max(count - since[kind].get(bucket, 0), 0)
                total[kind][bucket] = total[kind].get(bucket, 0) + more
    return total


@pytest.mark.parametrize("seed", range(25))
def test_a_stage_added_up_is_what_plain_sums_per_device_say(seed: int) -> None:
    rng = random.Random(seed)
    arms = {f"d{n:02}": CONTROL if n % 3 else CANARY for n in range(9)}
    images = {d: AFTER if arm == CANARY else BEFORE for d, arm in arms.items()}
    subjects = {d: Subject(d, "m4", "s", arm, False, BEFORE, images[d]) for d, arm in arms.items()}
    before = {d: counters(rng) | {"silent": rng.random() < 0.2, "failed": False} for d in arms}
    rows = {d: [counters(rng) if arm == CANARY else before[d]] for d, arm in arms.items()}
    starts = [page(arm, Kind.ACTIVATION, 0, BEFORE, {d: before[d] for d in arms if arms[d] == arm}, silent=1, failed=1)
              for arm in (CANARY, CONTROL)]  # fmt: skip
    begun = {d: rows[d][0] | {"silent": before[d]["silent"], "failed": False} for d in arms if arms[d] == CANARY}
    ledger = Ledger(subjects, [*starts, page(CANARY, Kind.ACTIVATION, 0, AFTER, begun, silent=1, failed=1)])
    late: dict[str, dict[str, Any]] = {}
    seen: list[dict[str, dict[str, Any]]] = []
    for look in range(1, 5):
        here = [d for d in arms if rng.random() < 0.8] or ["d00"]
        now = {
            d: counters(rng, rows[d][-1])
            | {name: rng.random() < 0.3 for name in ("silent", "failed", "heard")}
            | {"at_risk_s": look + rng.random()}
            for d in here
        }
        pages = [
            page(arm, Kind.LOOK, look, image, mine, silent=1, failed=1, heard=1, at_risk_s=1)
            for arm, image in ((CANARY, AFTER), (CONTROL, BEFORE))
            if (mine := {d: now[d] for d in here if arms[d] == arm})
        ]
        late |= {d: counters(rng, late.get(d, before[d])) for d in here if arms[d] == CANARY}
        told = {d: late[d] for d in here if d in late}
        ledger.add_look(look, [*pages, *([page(CANARY, Kind.LATE, look, BEFORE, told)] if told else [])])
        for d in here:
            rows[d].append(now[d])
        seen.append(now)
        check(ledger, sorted(here), rows, before, late, seen)


def check(ledger: Ledger, here: list[str], rows: Any, before: Any, late: Any, seen: list[dict[str, Any]]) -> None:
    panel = ledger.panel()
    gained = [gained_plainly(rows[d]) for d in here]
    for name in ("inferences", "labelled", "correct", "faults", "shadow_inferences", "shadow_agree"):
        assert panel.sums[name][-1].tolist() == [g[name] for g in gained], name
    assert panel.pairs[-1].tolist() == [g["shadow_pairs"] for g in gained]
    for kind in HISTOGRAMS:
        counts = panel.histograms(kind, len(seen))
        assert list(counts.buckets) == sorted(counts.buckets)
        for side, expected in ((counts.gained, gained), (counts.before, [before[d] for d in here])):
            found = [{str(b): n for b, n in zip(counts.buckets, row, strict=True) if n} for row in side.tolist()]
            assert found == [{b: n for b, n in sorted(e[kind].items()) if n} for e in expected], kind
    assert panel.before["labelled"].tolist() == [before[d]["labelled"] for d in here]
    told = [gained_plainly([before[d], late[d]])["labelled"] if d in late else 0 for d in here]
    assert panel.late["labelled"][-1].tolist() == told
    kept = [look for look in seen if look is seen[-1] or any(d in look for d in here)]
    assert panel.present.tolist() == [[d in look for d in here] for look in kept]
    for name in ("silent", "failed", "heard"):
        assert getattr(panel, name).tolist() == [[bool(look.get(d, {}).get(name)) for d in here] for look in kept]
    assert panel.at_risk_s.tolist() == [[look.get(d, {}).get("at_risk_s", 0.0) for d in here] for look in kept]
    assert panel.silent_at_start.tolist() == [before[d]["silent"] for d in here]


def quietly(arms: dict[str, str], silent_at_start: set[str], silent: set[str]) -> Ledger:
    """A stage at its first look, an hour after all have begun."""
    subjects = {d: Subject(d, "m4", "s", arm, False, BEFORE, AFTER) for d, arm in arms.items()}
    ledger = Ledger(
        subjects,
        [
            page(arm, Kind.ACTIVATION, 0, AFTER, {d: nothing() | {"silent": d in silent_at_start, "failed": False}},
                 silent=1, failed=1)
            for d, arm in arms.items()
        ],
    )  # fmt: skip
    flags = {d: {"silent": d in silent, "failed": False, "heard": d not in silent, "at_risk_s": 3600.0} for d in arms}
    extra = dict.fromkeys(("silent", "failed", "heard", "at_risk_s"), 1)
    ledger.add_look(1, [page(arms[d], Kind.LOOK, 1, AFTER, {d: nothing() | flags[d]}, **extra) for d in arms])
    return ledger


def test_controls_that_were_silent_all_along_do_not_hide_bricked_canaries() -> None:
    controls, canaries = [f"control-{n}" for n in range(200)], [f"canary-{n}" for n in range(10)]
    dead = set(controls[:50])  # in a store room
    arms = dict.fromkeys(controls, CONTROL) | dict.fromkeys(canaries, CANARY)
    panel = quietly(arms, dead, {*dead, *canaries[:3]}).panel()
    spec = RolloutSpec(model="m", version="v")
    look = Look(spec, "canary", ("silence",), {"silence|canary|all": 0.00625}, 1, "salt", panel, {}, ())
    (result,) = judge_silence(look)
    assert result.outcome == Outcome.ROLLBACK
    assert result.numbers["control_devices"] == 150


def test_lost_is_who_was_gone_for_long_at_looks_between_which_it_was_not_heard() -> None:
    """Seconds gone at five looks a minute apart: for good, back in between, back and gone again, still downloading."""
    gone = {"dead": [5, 65, 125, 185, 245], "back": [5, 0, 0, 0, 0], "twice": [59, 0, 59, 10, 70]}
    loading = [1, 61, 121, 181, 241]
    subjects = {d: Subject(d, "m4", "s", CANARY, False, BEFORE, AFTER) for d in (*gone, "loading")}
    begun = {d: nothing() | {"silent": False, "failed": False} for d in gone}
    ledger = Ledger(subjects, [page(CANARY, Kind.ACTIVATION, 0, AFTER, begun, silent=1, failed=1)])
    found = []
    for look, (now_s, loading_s) in enumerate(zip(zip(*gone.values(), strict=True), loading, strict=True), 1):
        rows = {
            d: nothing() | {"silent": True, "failed": False, "heard": False, "at_risk_s": 60.0 * look} for d in gone
        }
        seen = page(CANARY, Kind.LOOK, look, AFTER, rows, silent=1, failed=1, heard=1, at_risk_s=1)
        seen.columns["gone_s"] = np.array([dict(zip(gone, now_s, strict=True))[d] for d in seen.devices])
        taken = {"silent": np.array([True]), "gone_s": np.array([loading_s])}
        ledger.add_look(look, [seen, StoredPage(CANARY, Kind.TAKEN, look, "-", ("loading",), taken)])
        found.append(set(ledger.lost))
        assert ledger.panel().lost[-1].tolist() == [d in ledger.lost for d in sorted(gone)]
    assert found == [set(), set(), *[{"dead", "loading"}] * 3]


def test_who_starts_later_changes_nothing_of_an_earlier_look() -> None:
    """`explain` knows all starts of a stage, the tick those that there were."""

    def begin(device: str, bucket: str) -> StoredPage:
        counted = nothing() | {"predicted": {bucket: 7}, "silent": False, "failed": False}
        return page(CANARY, Kind.ACTIVATION, 0, AFTER, {device: counted}, silent=1, failed=1)

    subjects = {d: Subject(d, "m4", "s", CANARY, False, None, AFTER) for d in ("early", "late")}
    row = nothing() | {"predicted": {"1": 9}, "silent": False, "failed": False, "heard": True, "at_risk_s": 5.0}
    seen = page(CANARY, Kind.LOOK, 1, AFTER, {"early": row}, silent=1, failed=1, heard=1, at_risk_s=1)
    found = []
    for starts in ([begin("early", "1")], [begin("early", "1"), begin("late", "2")]):
        ledger = Ledger(subjects, starts)
        ledger.add_look(1, [seen])
        found.append(ledger.panel().histograms("predicted", 1).buckets)
    assert found == [(1,), (1,)]


def test_counters_that_fell_count_from_zero() -> None:
    def row(labelled: int, correct: int, both_right: int, at_40: int, at_41: int = 0) -> list[int]:
        known = {"labelled": labelled, "correct": correct, PAIRS[0]: both_right}
        return [*(known.get(name, 0) for name in COUNTED), at_40, at_41]

    old = np.array([row(100, 90, 9, 5), row(100, 90, 9, 5)])
    new = np.array([row(10, 9, 1, 2), row(130, 115, 9, 7, 1)])
    assert gained_between(old, new).tolist() == [row(10, 9, 1, 2), row(30, 25, 0, 2, 1)]
