"""`fleetctl device-class`: shipped classes and one's own, without a service; those of its project with it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyfleet_compiler import DeviceClass, device_class_names, device_class_text, load_device_class
from tinyfleet_service.cli.context import Context
from tinyfleet_service.cli.output import Column, console, print_document, print_rows, size

app = typer.Typer(help="Look at device classes and write your own.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Add this module's commands."""
    root.add_typer(app, name="device-class")


COLUMNS: list[Column] = [
    ("class", lambda row: row["name"]),
    ("kernels", lambda row: row["kernels"]),
    ("features", lambda row: ", ".join(row["features"]) or "-"),
    ("clock", lambda row: f"{row['clock_hz'] / 1e6:g} MHz"),
    ("flash slot", lambda row: size(row["flash_slot_bytes"])),
    ("arena", lambda row: size(row["arena_bytes"])),
]
WIDE_COLUMNS: list[Column] = [("description", lambda row: row["description"]), ("abi", lambda row: row["abi"])]


@app.command("list")
def list_classes(
    context: typer.Context,
    project: Annotated[bool, typer.Option("--project", help="those that the service's project builds for")] = False,
) -> None:
    """List the classes that ship with the compiler, or those of the service's project."""
    settings: Context = context.obj
    rows: list[dict[str, Any]] = [asdict(load_device_class(name)) for name in device_class_names()]
    columns = COLUMNS
    if project:
        found = settings.client().device_classes()
        rows = [asdict(DeviceClass.from_toml(row["toml"])) | {"encrypted": row["encrypted"]} for row in found]
        columns = [*COLUMNS, ("images travel", lambda row: "encrypted" if row["encrypted"] else "in the clear")]
    empty = "no classes yet: `fleetctl device-class add NAME`"
    print_rows(settings, rows, columns, name=lambda row: str(row["name"]), wide=WIDE_COLUMNS, empty=empty)


@app.command("add")
def add_class(
    context: typer.Context, name: Annotated[str, typer.Argument(help="a shipped class, or a TOML file of one's own")]
) -> None:
    """Have the service's project build for a class: the newest version of each model now, later ones when pushed."""
    settings: Context = context.obj
    found = load_device_class(name)
    shipped = name in device_class_names()
    client = settings.client()
    added = client.add_device_class(name) if shipped else client.add_device_class(toml=Path(name).read_text("utf-8"))
    if not print_document(settings, added, name=found.name):
        console().print(f"the project builds for {found.name}; `fleetctl build list` shows what for", markup=False)


@app.command("show")
def show_class(context: typer.Context, name: Annotated[str, typer.Argument(help="a shipped class")]) -> None:
    """Print the TOML of a shipped class: save it, change it, give the file wherever a class name goes."""
    settings: Context = context.obj
    text = device_class_text(name)
    if not print_document(settings, asdict(DeviceClass.from_toml(text)), name=name):
        typer.echo(text, nl=False)


@app.command("check")
def check_class(
    context: typer.Context, file: Annotated[Path, typer.Argument(help="TOML file", exists=True, dir_okay=False)]
) -> None:
    """Check a class of one's own; every wrong key is named at once."""
    settings: Context = context.obj
    found = load_device_class(file)
    if not print_document(settings, asdict(found), name=found.name):
        console().print(f"{file} is the device class {found.name}", markup=False)


@app.command("encrypt")
def encrypt_class(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="a class of the project")],
    off: Annotated[bool, typer.Option("--off", help="in the clear again, for new assignments")] = False,
) -> None:
    """Have images for a class of the service's project travel encrypted, each device with a key of its own."""
    settings: Context = context.obj
    changed = settings.client().encrypt_class(name, not off)
    if not print_document(settings, changed, name=name):
        how = "encrypted" if changed["encrypted"] else "in the clear"
        console().print(f"images for {name} travel {how}", markup=False)
