"""`fleetctl delta make | apply | info`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyfleet_compiler import ImageError, read_image
from tinyfleet_ota import make_delta, patch_info
from tinyfleet_service.cli.context import Context
from tinyfleet_service.cli.engines.delta import delta_apply
from tinyfleet_service.cli.output import console, print_document

delta_app = typer.Typer(help="Make, apply and look at patches between two files.", no_args_is_help=True)

OldFile = Annotated[Path, typer.Argument(help="file to start from", exists=True, dir_okay=False)]
NewFile = Annotated[Path, typer.Argument(help="file to arrive at", exists=True, dir_okay=False)]
PatchFile = Annotated[Path, typer.Argument(help="patch made by `delta make`", exists=True, dir_okay=False)]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(delta_app, name="delta")


@delta_app.command("make")
def make(
    context: typer.Context,
    old: OldFile,
    new: NewFile,
    out: Annotated[Path, typer.Option(help="patch file to write", dir_okay=False)],
) -> None:
    """Make a patch that turns OLD into NEW; model images are coded section by section, anything else as plain bytes."""
    old_bytes, new_bytes = old.read_bytes(), new.read_bytes()
    patch = make_delta(old_bytes, new_bytes, image_sections(old_bytes), image_sections(new_bytes))
    out.write_bytes(patch)
    figures = {"old_bytes": len(old_bytes), "new_bytes": len(new_bytes), "patch_bytes": len(patch)}
    text = f"{out}: {len(patch):,} B, {len(patch) / max(len(new_bytes), 1):.0%} of {new}"
    _print(context.obj, figures, text, out)


@delta_app.command("apply")
def apply(
    context: typer.Context,
    old: OldFile,
    patch: PatchFile,
    out: Annotated[Path, typer.Option(help="file to write", dir_okay=False)],
) -> None:
    """Apply a patch with the agent's own C decoder."""
    new = delta_apply(old.read_bytes(), patch.read_bytes())
    out.write_bytes(new)
    _print(context.obj, {"new_bytes": len(new)}, f"{out}: {len(new):,} B", out)


@delta_app.command("info")
def info(context: typer.Context, patch: PatchFile) -> None:
    """Say what a patch holds."""
    document = patch_info(patch.read_bytes())
    text = "\n".join(f"{key}: {'as the base' if value is None else value}" for key, value in document.items())
    _print(context.obj, document, text, patch)


def image_sections(data: bytes) -> list[dict[str, Any]]:
    """Sections of a model image as the delta coder takes them; an empty list for anything else."""
    try:
        return [asdict(section) for section in read_image(data).sections]
    except ImageError:
        return []


def _print(settings: Context, document: dict[str, Any], text: str, file: Path) -> None:
    if not print_document(settings, document, name=str(file)):
        console().print(text, markup=False)
