"""Printing: whole tables, plain data, one document on stdout."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import yaml
from rich.console import Console
from rich.text import Text

from tinyfleet_compiler import CompilerError, Problem
from tinyfleet_service.cli import rollout_view
from tinyfleet_service.cli.context import Context, Output
from tinyfleet_service.cli.errors import describe_error
from tinyfleet_service.cli.output import Column, cell, console, make_table, moment, plain, print_rows, visible, wrap
from tinyfleet_service.errors import ModelInvalidError, PlanError

HOSTILE = "[red]x[/] \x1b[2J\x07 [/nope] two\nlines"
COLUMNS: list[Column] = [("name", lambda row: row["name"]), ("size", lambda row: row["size"])]
WIDE: list[Column] = [("note", lambda row: row["note"])]
ROWS = [{"name": "a", "size": 1.23456, "note": HOSTILE}, {"name": "b", "size": None, "note": ""}]


def printed(output: Output, capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]] = ROWS) -> str:
    print_rows(Context(output=output), rows, COLUMNS, wide=WIDE, name=lambda row: row["name"], empty="none")
    return capsys.readouterr().out


def test_each_output_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(Output.TABLE, capsys).splitlines() == ["NAME  SIZE", "a     1.23", "b     -"]
    assert "NOTE" in printed(Output.WIDE, capsys).splitlines()[0]
    assert printed(Output.NAME, capsys) == "a\nb\n"
    assert json.loads(printed(Output.JSON, capsys)) == ROWS
    assert yaml.safe_load(printed(Output.YAML, capsys)) == ROWS


def test_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(Output.TABLE, capsys, []) == "none\n"
    assert printed(Output.NAME, capsys, []) == ""
    assert json.loads(printed(Output.JSON, capsys, [])) == []


def test_tables_are_as_wide_as_their_content(capsys: pytest.CaptureFixture[str]) -> None:
    console().print(make_table(["a", "b"], [["x" * 300, "y" * 300]]))
    assert capsys.readouterr().out.splitlines()[1] == "x" * 300 + "  " + "y" * 300


def test_wide_letters_keep_columns_straight() -> None:
    lines = make_table(["name", "n"], [["漢字", "1"], ["abcd", "2"]]).plain.splitlines()
    assert lines == ["NAME  N", "漢字  1", "abcd  2"]


def test_data_is_text_and_never_markup(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(Output.WIDE, capsys)
    assert "[red]x[/]" in out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 3
    assert Text.from_markup(plain(HOSTILE)).plain == visible(HOSTILE)


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), ("", "-"), (0, "0"), (0.25, "0.25"), (False, "False")])
def test_cells(value: object, shown: str) -> None:
    assert cell(value) == shown


def test_prose_is_wrapped_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    text = "word " * 60 + "https://example.org/" + "long" * 30
    wrapped = wrap(text, "    ", "note: ")
    assert wrapped.split() == ["note:", *text.split()]
    assert all(len(line) <= 70 for line in wrapped.splitlines()[:-1])


PLAN = {
    "version": "m:v[2]",
    "devices": 4,
    "canary_devices": 1,
    "bytes_expected": 400,
    "bytes_full": 4000,
    "classes": [
        {
            "device_class": "cortex-m4",
            "devices": 4,
            "canary_devices": 1,
            "image_bytes": 1000,
            "transfers": [{"devices": 3, "form": "delta", "bytes": 100}, {"devices": 1, "form": "full", "bytes": 1000}],
        }
    ],
    "stages": [
        {
            "key": "shadow",
            "devices": 0,
            "holdout": False,
            "gates": [],
            "skipped": "no canary runs [an] earlier version",
        },
        {"key": "canary", "devices": 1, "holdout": False, "gates": ["accuracy", "latency"], "skipped": ""},
        {"key": "waves/1", "devices": 3, "holdout": True, "gates": ["faults"], "skipped": ""},
    ],
    "gates": {"accuracy": "required", "latency": "advisory", "faults": "required"},
    "gates_from": {"accuracy": "rollout", "latency": "model", "faults": "default"},
    "margin": 0.02,
    "min_labels": 100,
    "soak_s": 4.0,
    "deadline_s": 120.0,
    "decidable": [
        {"stage": "canary", "gate": "accuracy", "can": True, "text": "1 canary, smallest p 0.01"},
        {"stage": "waves/1", "gate": "accuracy", "can": False, "text": "no control is left"},
    ],
    "undo": "devices go back",
    "warnings": ["no canary in stratum [lyon]"],
}


def test_a_plan_hides_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    rollout_view.print_plan(PLAN)
    out = capsys.readouterr().out
    for text in (
        "Plan for m:v[2]: 4 devices, 1 canary, 400 B of 4,000 B",
        "3 x delta 100 B, 1 x full 1,000 B",
        "skipped: no canary runs [an] earlier version",
        "accuracy, latency (advisory)",
        "gates: accuracy=required (asked for), latency=advisory (the model's own)",
        "wave 1 (holdout)  3        faults",
        "margin 2.0 %, at least 100 labels a device, soak 4 s a stage, undecided after 120 s: held",
        "can decide: accuracy in canary: 1 canary, smallest p 0.01",
        "CANNOT DECIDE: accuracy in wave 1: no control is left",
        "undo: devices go back",
        "note: no canary in stratum [lyon]",
    ):
        assert text in out


GATE = {"required": True, "outcome": "hold", "summary": "0 of 3 canaries have 100 labels before and after " * 2}
STAGE = {"skipped": "", "devices": 3}
ROLLOUT = {
    "id": 7,
    "version": "m:v2",
    "state": "running",
    "reason": "",
    "members": {"planned": 57, "testing": 3},
    "bytes_sent": 1000,
    "bytes_full": 4000,
    "silent_devices": [],
    "stages": [
        STAGE | {"name": name, "status": status, "gates": [GATE | {"name": f"{name} {n}"} for n in range(5)]}
        for name, status in (("shadow", "done"), ("canary", "current"))
    ],
}


@pytest.mark.parametrize(
    ("lines", "shown", "left_out"),
    [
        (60, ["shadow 4", "canary 4", "labels"], []),
        (22, ["✓ shadow", "canary 4", "labels"], ["shadow 4"]),
        (12, ["✓ shadow", "canary 4", "25% of full images"], ["shadow 4", "labels"]),
    ],
)
def test_a_rollout_that_is_followed_fits_the_screen(lines: int, shown: list[str], left_out: list[str]) -> None:
    screen = Console(width=70, height=lines, record=True, file=io.StringIO())
    screen.print(rollout_view.fit_rollout(ROLLOUT, screen))
    text = screen.export_text()
    assert len(text.splitlines()) < lines
    assert all(word in text for word in shown)
    assert not any(word in text for word in left_out)


def test_errors_are_one_line_each() -> None:
    here = CompilerError("m.onnx cannot be compiled:", [Problem("n1", "Loop", "has a body", "unroll it")])
    assert describe_error(here) == "error: m.onnx cannot be compiled:\n  - Loop 'n1': has a body; unroll it"
    assert describe_error(CompilerError("no such class; use one of a, b")).count("no such class") == 1
    there = ModelInvalidError(
        "refused", next="fix it", problems=[{"operator": "Loop", "node": "n1", "reason": "r", "help": "h"}]
    )
    assert describe_error(there) == "error: refused\n  - Loop 'n1': r; h\nnext:  fix it"
    plan = PlanError("this makes no sense: a: b", next="correct it", problems=["a: b"])
    assert describe_error(plan) == "error: this makes no sense: a: b\nnext:  correct it"
    assert describe_error(FileNotFoundError(2, "No such file", "x.npz")) == "error: x.npz: No such file"


def test_times_say_that_they_are_utc() -> None:
    assert moment("2026-11-28T09:58:46.123+00:00") == "2026-11-28T09:58:46Z"
    assert moment(None) == ""
