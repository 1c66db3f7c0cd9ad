"""`fleetctl group create | list | show | add | remove | delete`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tinyfleet_service.cli.context import Context
from tinyfleet_service.cli.output import Column, console, moment, plain, print_document, print_rows
from tinyfleet_service.errors import InvalidInputError
from tinyfleet_service.words import quantity

app = typer.Typer(help="Put devices into named groups, for selectors: group=NAME.", no_args_is_help=True)
COLUMNS: list[Column] = [
    ("group", lambda group: group["name"]),
    ("devices", lambda group: group["devices"]),
    ("description", lambda group: group["description"]),
    ("by", lambda group: group["created_by"]),
    ("made", lambda group: moment(group["created_at"])),
]
COUNT_COLUMNS: list[Column] = [
    ("classes", lambda group: _counts(group["by_class"])),
    ("states", lambda group: _counts(group["by_state"])),
]
Name = Annotated[str, typer.Argument(help="name of the group")]
Devices = Annotated[list[str] | None, typer.Argument(help="device ids")]
Where = Annotated[str | None, typer.Option(help="selector instead of ids, e.g. 'class=cortex-m4 and site=lyon'")]


def register(root: typer.Typer) -> None:
    """Add this module's commands."""
    root.add_typer(app, name="group")


@app.command("create")
def create_group(
    context: typer.Context, name: Name, description: Annotated[str, typer.Option(help="what it is for")] = ""
) -> None:
    """Make a group without devices."""
    settings: Context = context.obj
    made = settings.client().create_group(name, description)
    if not print_document(settings, made, name=name):
        console().print(plain(f"group {name}; `fleetctl group add {name} DEVICE...` puts devices in"))


@app.command("list")
def list_groups(context: typer.Context) -> None:
    """List groups."""
    settings: Context = context.obj
    empty = "no groups yet: `fleetctl group create NAME` makes one"
    print_rows(settings, settings.client().groups(), COLUMNS, name=lambda group: str(group["name"]), empty=empty)


@app.command("show")
def show_group(context: typer.Context, name: Name) -> None:
    """Show a group; `fleetctl device list --where group=NAME` lists its devices."""
    settings: Context = context.obj
    shown = settings.client().group(name)
    if not print_document(settings, shown, name=name):
        print_rows(
            settings, [shown], [*COLUMNS[:2], *COUNT_COLUMNS, *COLUMNS[2:]], name=lambda group: str(group["name"])
        )


@app.command("add")
def add_devices(context: typer.Context, name: Name, devices: Devices = None, where: Where = None) -> None:
    """Put devices into a group, by id or by a selector. Those that are in stay."""
    settings: Context = context.obj
    _check_one_way(devices, where)
    _print_change(settings, name, settings.client().add_to_group(name, devices or [], where=where), "added")


@app.command("remove")
def remove_devices(context: typer.Context, name: Name, devices: Devices = None, where: Where = None) -> None:
    """Take devices out of a group, by id or by a selector."""
    settings: Context = context.obj
    _check_one_way(devices, where)
    _print_change(settings, name, settings.client().remove_from_group(name, devices or [], where=where), "removed")


@app.command("delete")
def delete_group(context: typer.Context, name: Name) -> None:
    """Forget a group; its devices stay. Refused while an open rollout selects by it."""
    settings: Context = context.obj
    settings.client().delete_group(name)
    if not print_document(settings, {"name": name}, name=name):
        console().print(plain(f"group {name} is gone"))


def _check_one_way(devices: list[str] | None, where: str | None) -> None:
    if bool(devices) == (where is not None):
        raise InvalidInputError("which devices?", next="give device ids, or --where with a selector")


def _print_change(settings: Context, name: str, answer: dict[str, Any], what: str) -> None:
    if not print_document(settings, answer, name=name):
        console().print(plain(f"{what} {answer['changed']}; group {name} has {quantity(answer['devices'], 'device')}"))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{key} {number}" for key, number in counts.items())
