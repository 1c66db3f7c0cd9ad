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
    }  # fmt: skip
    return row | changes


def shown(capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], **options: bool) -> str:
    equal = all(row["equal"] for row in rows)
    document = {
        "id": 7,
        "version": "m:v2",
        "state": "rolled_back",
        "reason": "worse",
        "equal": equal,
        "decisions": rows,
    }
    print_decisions(document, **options)
    return " ".join(capsys.readouterr().out.split())  # whatever the width


def test_looks_that_say_the_same_are_shown_once(capsys):
    out = shown(capsys, [decision(1, "hold"), decision(2, "hold"), decision(3, "rollback")])
    assert "summary of look 1" in out
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
