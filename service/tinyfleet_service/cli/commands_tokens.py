"""`fleetctl token create | list | revoke`: one for each person and program."""

from __future__ import annotations

from typing import Annotated

import typer

from tinyfleet_service.cli.ask import ask
from tinyfleet_service.cli.context import Context
from tinyfleet_service.cli.output import Column, console, moment, plain, print_document, print_rows

app = typer.Typer(help="Let people and programs in, each with a token of its own.", no_args_is_help=True)
COLUMNS: list[Column] = [
    ("id", lambda token: token["id"]),
    ("name", lambda token: token["name"]),
    ("role", lambda token: token["role"]),
    ("scopes", lambda token: ", ".join(token["scopes"]) or "all of its role"),
    ("made", lambda token: moment(token["created_at"])),
    ("ends", lambda token: moment(token["expires_at"]) or "never"),
]


def register(root: typer.Typer) -> None:
    """Add this module's commands."""
    root.add_typer(app, name="token")


@app.command("create")
def create_token(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="whose it is; stands in history and audit log")],
    role: Annotated[str, typer.Option(help="viewer, operator, approver or admin")] = "viewer",
    scope: Annotated[
        list[str] | None, typer.Option(help="nothing but this, e.g. models:write; may be repeated; all when left out")
    ] = None,
    hours: Annotated[float | None, typer.Option(help="hours until it ends; never when left out")] = None,
) -> None:
    """Make a token and show its text, this once; on its own on stdout with `-o name`."""
    settings: Context = context.obj
    made = settings.client().create_token(name, role, hours, scope or [])
    if not print_document(settings, made, name=made["token"]):
        console().print(plain(f"token {made['id']} of {name}, {made['role']}; shown this once: {made['token']}"))


@app.command("list")
def list_tokens(context: typer.Context) -> None:
    """List tokens, without their texts."""
    settings: Context = context.obj
    print_rows(settings, settings.client().tokens(), COLUMNS, name=lambda token: str(token["id"]))


@app.command("revoke")
def revoke_token(
    context: typer.Context,
    token: Annotated[int, typer.Argument(help="its id")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
) -> None:
    """End a token, the sessions begun with it and its open event streams."""
    settings: Context = context.obj
    ask(yes, f"Revoke token {token} for good?")
    settings.client().revoke_token(token)
    if not print_document(settings, {"id": token}, name=str(token)):
        console().print(f"token {token} is revoked")
