"""`fleetctl claim create | list | revoke`: what a production batch enrols with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tinyfleet_service.cli.ask import ask
from tinyfleet_service.cli.context import Context
from tinyfleet_service.cli.new_files import NewFiles
from tinyfleet_service.cli.output import Column, console, moment, plain, print_document, print_rows
from tinyfleet_service.errors import InvalidInputError, StorageError
from tinyfleet_service.words import quantity

app = typer.Typer(help="Make what devices enrol with.", no_args_is_help=True)
FILES = ("claim.pem", "claim.key", "ca.pem", "root1.cbor")


def register(root: typer.Typer) -> None:
    """Add this module's commands."""
    root.add_typer(app, name="claim")


COLUMNS: list[Column] = [
    ("id", lambda claim: claim["id"]),
    ("name", lambda claim: claim["name"]),
    ("class", lambda claim: claim["device_class"]),
    ("state", lambda claim: claim["state"]),
    ("enrolled", lambda claim: f"{claim['used']}/{claim['quota']}"),
    ("tags", lambda claim: ",".join(f"{key}={value}" for key, value in sorted(claim["tags"].items()))),
    ("ends", lambda claim: str(claim["not_after"] or "")[:10]),
]
WIDE_COLUMNS: list[Column] = [
    ("serial", lambda claim: claim["serial"]),
    ("made", lambda claim: moment(claim["created_at"])),
    ("revoked", lambda claim: moment(claim["revoked_at"])),
]


@app.command("create")
def create_claim(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="what people call this batch")],
    device_class: Annotated[str, typer.Option("--class", help="class of every device that enrols with it")],
    out: Annotated[Path, typer.Option(help="new folder, or one without such files", file_okay=False)],
    quota: Annotated[int, typer.Option(help="how many devices may enrol with it")] = 1000,
    days: Annotated[float, typer.Option(help="days until it ends")] = 365.0,
    tag: Annotated[list[str] | None, typer.Option(help="KEY=VALUE that its devices get, may be repeated")] = None,
) -> None:
    """Make a claim certificate and write what goes into the firmware: claim.pem, claim.key, ca.pem, root1.cbor."""
    settings: Context = context.obj
    client, tags = settings.client(), _tags(tag or [])
    with NewFiles(out, FILES) as files:
        trust = [client.ca(), client.root()]
        made = client.create_claim(name, device_class, tags=tags, quota=quota, days=days)
        try:
            files.write([made.pop("certificate_pem").encode(), made.pop("key_pem").encode(), *trust])
        except StorageError:
            client.revoke_claim(made["id"])
            raise
    if not print_document(settings, {**made, "files": [str(out / file) for file in FILES]}, name=str(made["id"])):
        console().print(
            plain(f"claim {made['id']}: {quantity(made['quota'], 'device')} ({device_class}) until {_day(made)}")
        )
        console().print(plain(f"{out}: {', '.join(FILES)}; claim.key is kept nowhere else"))


@app.command("list")
def list_claims(context: typer.Context) -> None:
    """List claim certificates and how many devices enrolled with each."""
    settings: Context = context.obj
    rows = settings.client().claims()
    print_rows(settings, rows, COLUMNS, wide=WIDE_COLUMNS, name=lambda claim: str(claim["id"]), empty="no claims yet")


@app.command("revoke")
def revoke_claim(
    context: typer.Context,
    claim: Annotated[int, typer.Argument(help="its id")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
) -> None:
    """Let nobody enrol with a claim any more; devices that did stay as they are."""
    settings: Context = context.obj
    ask(yes, f"Revoke claim {claim} for good?")
    revoked = settings.client().revoke_claim(claim)
    if not print_document(settings, revoked, name=str(claim)):
        console().print(
            plain(f"claim {claim} ({revoked['name']}) is revoked; {quantity(revoked['used'], 'device')} enrolled")
        )


def _tags(given: list[str]) -> dict[str, str]:
    for tag in given:
        if "=" not in tag:
            raise InvalidInputError(f"{tag!r} is no tag", next="write --tag KEY=VALUE")
    return dict(tag.split("=", 1) for tag in given)


def _day(made: dict[str, Any]) -> str:
    return str(made["not_after"])[:10]
