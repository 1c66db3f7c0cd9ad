"""`fleetctl webhook add | list | remove | deliveries | retry`."""

from __future__ import annotations

from typing import Annotated

import typer

from tinyfleet_service.cli.context import Context
from tinyfleet_service.cli.output import Column, console, moment, plain, print_document, print_rows

app = typer.Typer(help="Tell your own systems what happens.", no_args_is_help=True)
COLUMNS: list[Column] = [
    ("id", lambda hook: hook["id"]),
    ("url", lambda hook: hook["url"]),
    ("events", lambda hook: ", ".join(hook["events"]) or "all"),
]
DELIVERY_COLUMNS: list[Column] = [
    ("id", lambda row: row["id"]),
    ("event", lambda row: row["event"]),
    ("state", lambda row: row["state"]),
    ("attempts", lambda row: row["attempt"]),
    ("answer", lambda row: row["last_status"] or row["last_error"]),
    ("next", lambda row: moment(row["next_at"]) if row["state"] == "waiting" else ""),
]


def register(root: typer.Typer) -> None:
    """Add this module's commands."""
    root.add_typer(app, name="webhook")


@app.command("add")
def add_webhook(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="https URL that takes the events")],
    event: Annotated[
        list[str] | None, typer.Option(help="an event to send, may be repeated; all when left out")
    ] = None,
) -> None:
    """Add a webhook and show its secret, this once."""
    settings: Context = context.obj
    made = settings.client().create_webhook(url, event or [])
    if not print_document(settings, made, name=str(made["id"])):
        console().print(f"webhook {made['id']}; secret, shown this once: {plain(made['secret'])}")


@app.command("list")
def list_webhooks(context: typer.Context) -> None:
    """List webhooks."""
    settings: Context = context.obj
    print_rows(settings, settings.client().webhooks(), COLUMNS, name=lambda hook: str(hook["id"]), empty="no webhooks")


@app.command("remove")
def remove_webhook(context: typer.Context, webhook: Annotated[int, typer.Argument(help="its id")]) -> None:
    """Remove a webhook and its deliveries."""
    settings: Context = context.obj
    settings.client().remove_webhook(webhook)
    if not print_document(settings, {"id": webhook}, name=str(webhook)):
        console().print(f"webhook {webhook} is gone")


@app.command("deliveries")
def list_deliveries(
    context: typer.Context,
    webhook: Annotated[int, typer.Argument(help="its id")],
    state: Annotated[str | None, typer.Option(help="waiting, delivered or dead")] = None,
) -> None:
    """List deliveries, the newest first."""
    settings: Context = context.obj
    rows = settings.client().webhook_deliveries(webhook, state)
    print_rows(settings, rows, DELIVERY_COLUMNS, name=lambda row: str(row["id"]), empty="no deliveries")


@app.command("retry")
def retry_delivery(
    context: typer.Context,
    webhook: Annotated[int, typer.Argument(help="its id")],
    delivery: Annotated[int, typer.Argument(help="a dead delivery")],
) -> None:
    """Send a dead delivery again."""
    settings: Context = context.obj
    again = settings.client().retry_delivery(webhook, delivery)
    if not print_document(settings, again, name=str(delivery)):
        console().print(f"delivery {delivery} is sent again")
