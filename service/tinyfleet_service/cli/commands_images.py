"""`fleetctl run | emit | inspect`: what an image answers, its C source, what is in a file, without a service."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyfleet_compiler import Image, ImageError, load_device_class, read_image
from tinyfleet_service.cli.arrays import read_inputs, write_outputs
from tinyfleet_service.cli.context import Context, Output
from tinyfleet_service.cli.engines import ENGINES, run_image
from tinyfleet_service.cli.engines.programs import source_folder
from tinyfleet_service.cli.inspect import inspect_file
from tinyfleet_service.cli.output import console, plain, print_document
from tinyfleet_service.cli.profile import print_profile, profile_rows, write_profile
from tinyfleet_service.cli.standalone import c_names, write_standalone
from tinyfleet_service.cli.standalone_layouts import LAYOUTS
from tinyfleet_service.errors import InvalidInputError


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("run")(run)
    app.command("emit")(emit)
    app.command("inspect")(inspect)


def run(
    context: typer.Context,
    image: Annotated[Path, typer.Argument(help="model image (.tfm)", exists=True, dir_okay=False)],
    inputs: Annotated[
        Path,
        typer.Option("--input", help="NPZ with x, or one array x_<name> per input", exists=True, dir_okay=False),
    ],
    out: Annotated[Path, typer.Option(help="NPZ for the outputs", dir_okay=False)],
    on: Annotated[str, typer.Option(help=", ".join(ENGINES))] = "host",
    reset_state: Annotated[
        bool, typer.Option("--reset-state", help="begin every sample anew; else they are one stream, in order")
    ] = False,
    profile: Annotated[
        Path | None,
        typer.Option(help="JSON file for instructions by operator; the table goes to stderr", dir_okay=False),
    ] = None,
) -> None:
    """Run an image on one of our engines; every engine gives the same bytes."""
    settings: Context = context.obj
    result = run_image(image.read_bytes(), read_inputs(inputs), on, reset_state=reset_state)
    write_outputs(out, result.outputs)
    keys = ("instructions", "arena_bytes", "state_bytes", "stack_bytes", "runtime_flash_bytes")
    figures: dict[str, Any] = {key: getattr(result, key) for key in keys}
    if profile is not None:
        rows = profile_rows(read_image(image.read_bytes()), result, on)
        write_profile(profile, rows, on)
        print_profile(rows)
        figures["layers"] = rows
    if print_document(settings, figures, name=str(out)):
        return
    count = len(next(iter(result.outputs.values())))
    console().print(f"{count} inferences on {on}, outputs in {out}", markup=False)
    for key in keys:
        value = figures[key]
        console().print(f"  {key:20} {'-' if value is None else f'{value:,}'}")


def emit(
    context: typer.Context,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="model images (.tfm)", exists=True, dir_okay=False)
    ],
    out: Annotated[Path, typer.Option(help="folder for the source", file_okay=False)],
    device_class: Annotated[
        str | None,
        typer.Option("--device-class", help="TOML file, where the images are for a class that is not shipped"),
    ] = None,
    layout: Annotated[str, typer.Option(help=", ".join(LAYOUTS))] = "flat",
) -> None:
    """Write C source of one program that runs all the images and needs nothing else."""
    settings: Context = context.obj
    found = c_names(map(_read, images))
    compiled_for = next(iter(found.values())).device_class
    device = load_device_class(device_class or compiled_for)
    if device.name != compiled_for:
        raise InvalidInputError(
            f"the images are for device class {compiled_for}, not {device.name}", next="give the class they are for"
        )
    files = write_standalone(found, source_folder(), out, layout, device.kernels)
    if not print_document(settings, {"models": list(found), "files": files}, name=str(out)):
        console().print(f"{', '.join(found)} and the runtime: {len(files)} files in {out}", markup=False)


def _read(path: Path) -> Image:
    """The image in a file. Raises ImageError, with the file's name."""
    try:
        return read_image(path.read_bytes())
    except ImageError as error:
        raise ImageError(f"{path}: {error.message}") from error


def inspect(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(help="model image, release manifest, assignment, root or patch", exists=True, dir_okay=False),
    ],
) -> None:
    """Say what a file is and what is in it; a JSON document where no person is looking."""
    settings: Context = context.obj
    if not (settings.wants_document or sys.stdout.isatty()):
        settings = replace(settings, output=Output.JSON)
    document = inspect_file(file.read_bytes())
    if not print_document(settings, document, name=document["kind"]):
        _print_tree(document)


def _print_tree(document: Any, indent: int = 0) -> None:
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in pairs:
        if isinstance(value, dict | list) and value:
            console().print(f"{'  ' * indent}[bold]{plain(key)}[/]")
            _print_tree(value, indent + 1)
        else:
            console().print(f"{'  ' * indent}{plain(key)}: {plain(value)}")
