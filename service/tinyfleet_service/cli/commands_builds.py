"""`fleetctl build list | status | logs`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from tinyfleet_service.cli.context import Context
from tinyfleet_service.cli.output import Column, console, moment, print_document, print_rows

app = typer.Typer(help="What builds are doing.", no_args_is_help=True)
UNDER_WAY = ("queued", "running")
FOLLOW_S = 0.5
COLUMNS: list[Column] = [
    ("id", lambda row: row["id"]),
    ("model", lambda row: row["version"]),
    ("class", lambda row: row["device_class"]),
    ("state", lambda row: row["state"]),
    ("step", lambda row: row["step"]),
]
WIDE_COLUMNS: list[Column] = [
    ("attempt", lambda row: row["attempt"]),
    ("builder", lambda row: row["builder"]),
    ("queued", lambda row: moment(row["created_at"])),
    ("finished", lambda row: moment(row["finished_at"])),
]
BuildId = Annotated[int, typer.Argument(help="its id, from `build list`")]


def register(root: typer.Typer) -> None:
    """Add this module's commands."""
    root.add_typer(app, name="build")


@app.command("list")
def list_builds(context: typer.Context, limit: Annotated[int, typer.Option(help="how many")] = 50) -> None:
    """List the newest builds and the step each is at."""
    settings: Context = context.obj
    empty = "no builds yet: `fleetctl model push NAME:v1 FILE`"
    rows = settings.client().builds(limit)
    print_rows(settings, rows, COLUMNS, wide=WIDE_COLUMNS, name=lambda row: str(row["id"]), empty=empty)


@app.command("status")
def show_status(context: typer.Context, build: BuildId) -> None:
    """Show where one build stands."""
    settings: Context = context.obj
    client = settings.client()
    found = client.build(build)
    lines = client.build_log(build)
    found["step"] = lines[-1]["text"] if lines else ""
    if not print_document(settings, found, name=str(build)):
        text = (
            f"build {build} for {found['device_class']}: {found['state']}, attempt {found['attempt']}; {found['step']}"
        )
        console().print(text, markup=False)


@app.command("logs")
def show_logs(
    context: typer.Context,
    build: BuildId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the build ends")] = False,
) -> None:
    """Print the log of a build."""
    settings: Context = context.obj
    client = settings.client()
    lines = client.build_log(build)
    if print_document(settings, {"items": lines}, name=str(build)):
        return
    after = _print_lines(lines, 0)
    while follow and client.build(build)["state"] in UNDER_WAY:
        time.sleep(FOLLOW_S)
        after = _print_lines(client.build_log(build, after), after)
    _print_lines(client.build_log(build, after), after)


def _print_lines(lines: list[dict[str, Any]], after: int) -> int:
    """Print lines; the number of the last one."""
    for line in lines:
        console().print(f"{moment(line['at'])}  {line['attempt']}  {line['text']}", markup=False, highlight=False)
        after = line["id"]
    return after
