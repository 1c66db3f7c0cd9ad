"""`rollout explain` on a terminal: what it says of decisions that recompute, and of one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from tinyfleet_service.cli.rollout_view import print_decisions


def decision(look: int, outcome: str, **changes: Any) -> dict[str, Any]:
    numbers = {"scope": "all", "difference": -0.0512345, "alpha_harm": 0.0125, "labels": 1200, "lower": None}
    row = {
        "stage": "canary", "look": look, "gate": "accuracy", "scope": "all", "required": True, "outcome": outcome,
        "summary": f"summary of look {look}", "numbers": numbers, "recomputed": dict(numbers), "equal": True,
        "turned": True,
    }  # fmt: skip
    return row | changes


def shown(
    capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], removed_at: str | None = None, **options: bool
) -> str:
    compared = [row["equal"] for row in rows if row["equal"] is not None]
    equal = None if removed_at else all(compared) if compared else None
    document = {
        "id": 7,
        "version": "m:v2",
        "state": "rolled_back",
        "reason": "worse",
        "equal": equal,
        "earlier_rules": sum(row["equal"] is None for row in rows) if removed_at is None else 0,
        "counters_removed_at": removed_at,
        "decisions": rows,
    }
    print_decisions(document, **options)
    return " ".join(capsys.readouterr().out.split())  # whatever the width


def test_looks_that_say_the_same_are_shown_once_and_the_class_is_named(capsys):
    rows = [decision(1, "hold", scope="m4"), decision(2, "hold", turned=False), decision(3, "rollback")]
    out = shown(capsys, rows)
    assert "look 1 accuracy (m4) required hold summary of look 1" in out
    assert "summary of look 2" not in out
    assert "recomputing them from the stored snapshots agrees" in out


def test_numbers_shows_every_look_and_what_it_rests_on(capsys):
    out = shown(capsys, [decision(1, "hold"), decision(2, "hold")], numbers=True)
    assert "summary of look 2" in out
    assert "difference -0.05123, alpha harm 0.0125, labels 1200, lower none" in out


def test_a_number_that_recomputes_to_something_else_is_shown_with_both_values(capsys):
    wrong = decision(2, "hold", equal=False)
    wrong["recomputed"] = wrong["numbers"] | {"labels": 1100}
    out = shown(capsys, [decision(1, "hold"), wrong, decision(3, "hold")])
    assert "DIFFERS" in out
    assert "labels: stored 1200, recomputed 1100" in out


@pytest.mark.parametrize("numbers", [False, True])
def test_removed_counters_are_said_and_nothing_is_called_different(capsys, numbers):
    gone = {"equal": None, "recomputed": None}
    rows = [decision(1, "hold", **gone), decision(2, "hold", turned=False, **gone), decision(3, "rollback", **gone)]
    out = shown(capsys, rows, "2027-02-25T01:02:03+00:00", numbers=numbers)
    assert "the counters behind them were removed on 2027-02-25 (TINYFLEET_SNAPSHOT_DAYS)" in out
    assert "summary of look 3" in out
    assert ("summary of look 2" in out) == numbers
    assert ("labels 1200" in out) == numbers
    assert "DIFFERS" not in out
    assert "agrees" not in out
    assert "recomputed" not in out


def test_decisions_by_rules_of_before_are_told_apart(capsys):
    old = decision(1, "hold", equal=None, recomputed=None)
    out = shown(capsys, [old, decision(2, "rollback")], numbers=True)
    assert "recomputing all but 1, by rules of an earlier tinyfleet, from the stored snapshots agrees" in out
    assert out.count("labels 1200") == 2
    assert "DIFFERS" not in out
    alone = shown(capsys, [old])
    assert "as they were stored: an earlier tinyfleet decided, by rules of its own" in alone
    assert "agrees" not in alone
