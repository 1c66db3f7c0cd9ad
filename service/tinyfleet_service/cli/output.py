"""Printing: a table for people, JSON or YAML documents for programs, bare names for shell loops."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from tinyfleet_service.cli.context import Context, Output

Column = tuple[str, Callable[[dict[str, Any]], object]]


def console(*, stderr: bool = False) -> Console:
    """A console that keeps plain text plain when it is not a terminal."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def print_document(context: Context, document: Any, *, name: str = "") -> bool:
    """Print `document` when the user asked for JSON, YAML or a name; False when a table is wanted instead."""
    if context.output is Output.JSON:
        print(json.dumps(document, indent=2, default=str))
    elif context.output is Output.YAML:
        yaml.safe_dump(json.loads(json.dumps(document, default=str)), sys.stdout, sort_keys=False)
    elif context.output is Output.NAME:
        print(name)
    else:
        return False
    return True


def print_rows(
    context: Context,
    rows: Sequence[dict[str, Any]],
    columns: Sequence[Column],
    *,
    name: Callable[[dict[str, Any]], str],
    wide: Sequence[Column] = (),
    empty: str = "nothing yet",
) -> None:
    """Print rows as a table, or as whatever `-o` says."""
    if context.output is Output.NAME:
        for row in rows:
            print(name(row))
        return
    if print_document(context, list(rows)):
        return
    if not rows:
        console().print(empty)
        return
    shown = [*columns, *(wide if context.output is Output.WIDE else ())]
    console().print(
        make_table([title for title, _ in shown], [[cell(value(row)) for _, value in shown] for row in rows])
    )


def make_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A borderless table in kubectl's manner."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title.upper(), no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def cell(value: object) -> str:
    """A value as a person reads it: no value is a dash."""
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f} %"


def size(count: int | float | None) -> str:
    """Bytes with thousands separated."""
    return "-" if count is None else f"{count:,.0f} B"
