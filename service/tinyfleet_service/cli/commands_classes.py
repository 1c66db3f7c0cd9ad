"""`fleetctl device-class list | show | check`, shipped classes and one's own, without a service; `encrypt` with one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyfleet_compiler import device_class_names, device_class_text, load_device_class
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
def list_classes(context: typer.Context) -> None:
    """List the classes that ship with the compiler."""
    rows: list[dict[str, Any]] = [asdict(load_device_class(name)) for name in device_class_names()]
    print_rows(context.obj, rows, COLUMNS, name=lambda row: str(row["name"]), wide=WIDE_COLUMNS)


@app.command("show")
def show_class(name: Annotated[str, typer.Argument(help="a shipped class")]) -> None:
    """Print the TOML of a shipped class: save it, change it, give the file wherever a class name goes."""
    typer.echo(device_class_text(name), nl=False)


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
