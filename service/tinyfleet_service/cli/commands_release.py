"""`fleetctl release make`: what a file is, signed with the release key; for firmware, which nobody builds here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tinyfleet_ota import make_release, parse_release
from tinyfleet_service.cli.context import Context
from tinyfleet_service.cli.output import console, print_document
from tinyfleet_service.data_dir import DataDir
from tinyfleet_service.errors import InvalidInputError
from tinyfleet_service.keys.folder import KeyFolder

release_app = typer.Typer(
    help="Make release manifests of images that the service does not build.", no_args_is_help=True
)

FIRMWARE = "firmware"
_MCUBOOT_MAGIC = bytes.fromhex("3db8f396")

ImageFile = Annotated[Path, typer.Argument(help="image as `imgtool sign` wrote it", exists=True, dir_okay=False)]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(release_app, name="release")


@release_app.command("make")
def make(
    context: typer.Context,
    file: ImageFile,
    device_class: Annotated[str, typer.Option(help="class of the devices that it is for")],
    version: Annotated[str, typer.Option(help="for people, 1 to 32 bytes")],
    counter: Annotated[int, typer.Option(min=1, help="release counter: higher than that of every release before")],
    abi: Annotated[int, typer.Option(min=0, help="runtime ABI that this firmware brings")],
    out: Annotated[Path, typer.Option(help="manifest to write", dir_okay=False)],
    floor: Annotated[int, typer.Option(min=0, help="security floor: lowest counter that may still run")] = 0,
    component: Annotated[str, typer.Option(help="what is updated")] = FIRMWARE,
    keys: Annotated[Path | None, typer.Option(help="folder of keys; default: `keys` in the data directory")] = None,
) -> None:
    """Write the signed release manifest of FILE, a firmware that MCUboot can boot, and show what it says."""
    image = file.read_bytes()
    _check_firmware(component, file, image)
    settings: Context = context.obj
    folder = KeyFolder(keys or DataDir(settings.data or Path("fleet-data")).keys)
    signer = folder.load("release")
    envelope = make_release(
        image,
        device_class=device_class,
        abi=abi,
        release_counter=counter,
        security_floor=floor,
        component=component,
        version=version,
        signer=signer,
    )
    said = parse_release(envelope, folder.newest().release_keys)
    out.write_bytes(envelope)
    figures: dict[str, Any] = {
        "component": said.component,
        "version": said.version,
        "device_class": device_class,
        "image_bytes": said.image_bytes,
        "image_digest": said.image_digest.hex(),
        "release_counter": said.release_counter,
        "security_floor": said.security_floor,
        "manifest_bytes": len(envelope),
    }
    if not print_document(context.obj, figures, name=str(out)):
        line = f"{out}: {component} {version}, counter {counter}, {len(image):,} B for {device_class}"
        console().print(line, markup=False)


def _check_firmware(component: str, file: Path, image: bytes) -> None:
    if component == FIRMWARE and not image.startswith(_MCUBOOT_MAGIC):
        raise InvalidInputError(f"{file} is not an image for MCUboot", next="make it with `imgtool sign` first")
