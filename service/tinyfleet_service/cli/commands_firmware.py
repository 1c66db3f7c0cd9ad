"""`fleetctl firmware push`: a firmware version, one image for each device class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyfleet_service.cli.commands_models import show_pushed
from tinyfleet_service.cli.context import Context
from tinyfleet_service.errors import InvalidInputError
from tinyfleet_service.fleet import split_reference

app = typer.Typer(help="Register firmware that MCUboot boots, for component `firmware`.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Add this module's commands."""
    root.add_typer(app, name="firmware")


@app.command("push")
def push_firmware(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(help="NAME:VERSION, e.g. app:v3")],
    image: Annotated[
        list[str], typer.Option(metavar="CLASS=FILE", help="image of a device class, as `imgtool sign` made it")
    ],
    abi: Annotated[int | None, typer.Option(min=0, help="runtime ABI that it brings; else that of each class")] = None,
    wait: Annotated[bool, typer.Option(help="wait for the release key")] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", help="seconds to wait")] = 60.0,
) -> None:
    """Register a firmware version. Nothing is compiled: the images go out as they are, once the release key signed."""
    settings: Context = context.obj
    name, version = split_reference(reference)
    client = settings.client()
    pushed = client.push_firmware(name, version, dict(map(_image, image)), abi=abi)
    show_pushed(settings, client, pushed, reference, timeout_s if wait else None)


def _image(text: str) -> tuple[str, Path]:
    device_class, _, file = text.partition("=")
    if not device_class or not Path(file).is_file():
        raise InvalidInputError(f"--image {text}: no such file", next="write CLASS=FILE, e.g. cortex-m4=app-signed.bin")
    return device_class, Path(file)
