"""Printing: a table for people, JSON or YAML documents for programs, bare names for shell loops.

What is printed came from users and devices: tables take it as plain text, and where a line has markup of ours, `plain`
takes the markup and the control characters out of theirs. Nothing is cut: tables are as wide as their content, in a
narrow terminal and in a pipe alike.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from tinyfleet_service.cli.context import Context, Output

Column = tuple[str, Callable[[dict[str, Any]], object]]
GAP = "  "
PIPE_COLUMNS = 10_000
PROSE_COLUMNS = 100


def console(*, stderr: bool = False) -> Console:
    """A console that keeps plain text plain and whole when it is not a terminal."""
    screen = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not screen.is_terminal:
        screen.width = PIPE_COLUMNS
    return screen


def print_document(context: Context, document: Any, *, name: str = "") -> bool:
    """Print `document` when the user asked for JSON, YAML or a name; False when a table is wanted instead."""
    if context.output is Output.JSON:
        print(json.dumps(document, indent=2, default=str))
    elif context.output is Output.YAML:
        import yaml

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
    """Print rows as a table, or as whatever `-o` says; `wide` columns come with `-o wide`."""
    if context.output is Output.NAME:
        for row in rows:
            print(name(row))
        return
    if print_document(context, list(rows)):
        return
    if not rows:
        console().print(empty, markup=False)
        return
    shown = [*columns, *(wide if context.output is Output.WIDE else ())]
    console().print(
        make_table([title for title, _ in shown], [[cell(value(row)) for _, value in shown] for row in rows])
    )


def make_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Text:
    """A borderless table in kubectl's manner. Cells are plain text, never markup, and never cut."""
    lines = [[title.upper() for title in titles], *([visible(text) for text in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    table = Text(_table_line(lines[0], widths), style="bold")
    for line in lines[1:]:
        table.append("\n" + _table_line(line, widths), style="not bold")
    return table


def _table_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [text + " " * (width - cell_len(text)) for text, width in zip(cells, widths, strict=True)]
    return GAP.join(padded).rstrip()


def cell(value: object) -> str:
    """A value as a person reads it: no value is a dash."""
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def visible(text: object) -> str:
    """One line without control characters: data must not move the cursor or colour the terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


def plain(text: object) -> str:
    """Data for a line that has markup of ours."""
    return escape(visible(text))


def wrap(text: str, indent: str, first: str = "") -> str:
    """Prose in the width of the terminal (or of COLUMNS), later lines below `indent`; for lines without markup."""
    columns = max(60, shutil.get_terminal_size((PROSE_COLUMNS, 24)).columns)
    return textwrap.fill(
        visible(text),
        columns,
        initial_indent=first or indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f} %"


def moment(at: str | None) -> str:
    """A time of the service, to the second; every one is UTC and says so."""
    return f"{at[:19]}Z" if at else ""


def microseconds(value: float | None) -> str:
    """A latency."""
    return "-" if value is None else f"{value:,.0f} µs"


def size(count: int | float | None) -> str:
    """Bytes with thousands separated."""
    return "-" if count is None else f"{count:,.0f} B"
