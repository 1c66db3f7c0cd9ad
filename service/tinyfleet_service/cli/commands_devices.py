"""`fleetctl device list | show | tag | reset | revoke | command | commands`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from tinyfleet_service.cli.ask import ask
from tinyfleet_service.cli.context import Context, Output
from tinyfleet_service.cli.errors import EXIT_ERROR, EXIT_TIMEOUT
from tinyfleet_service.cli.output import (
    Column,
    cell,
    console,
    make_table,
    microseconds,
    moment,
    percent,
    plain,
    print_document,
    print_rows,
    size,
)
from tinyfleet_service.errors import InvalidInputError

app = typer.Typer(help="Look at devices.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Add this module's commands."""
    root.add_typer(app, name="device")


COLUMNS: list[Column] = [
    ("device", lambda device: device["id"]),
    ("class", lambda device: device["device_class"]),
    ("state", lambda device: device["state"]),
    ("runs", lambda device: device.get("active_version")),
    ("tags", lambda device: ",".join(f"{key}={value}" for key, value in sorted(device["tags"].items()))),
    ("groups", lambda device: ",".join(device["groups"])),
    ("seen", lambda device: moment(device.get("last_seen_at"))),
]
WIDE_COLUMNS: list[Column] = [
    ("image", lambda device: device.get("active_image")),
    ("enrolled", lambda device: moment(device["enrolled_at"])),
    ("certificate ends", lambda device: moment(device.get("certificate_not_after"))),
    ("reports every", lambda device: f"{device['report_interval_s']} s"),
]


COUNTED_COLUMNS: list[Column] = [
    ("version", lambda row: row["version"] or row["image"][:12]),
    ("inferences", lambda row: f"{row['inferences']:,}"),
    ("labelled", lambda row: f"{row['labelled']:,}"),
    ("accuracy", lambda row: percent(row["accuracy"])),
    ("agreed in shadow", lambda row: f"{row['shadow_agree']:,} of {row['shadow_inferences']:,}"),
    ("latency p50", lambda row: microseconds(row["latency_p50_us"])),
    ("p95", lambda row: microseconds(row["latency_p95_us"])),
    ("faults", lambda row: f"{row['faults']:,}"),
]
COMMAND_COLUMNS: list[Column] = [
    ("id", lambda row: row["id"]),
    ("command", lambda row: row["action"]),
    ("state", lambda row: row["state"]),
    ("reason", lambda row: row["reason"]),
    ("by", lambda row: row["created_by"]),
    ("asked", lambda row: moment(row["created_at"])),
    ("answered", lambda row: moment(row["finished_at"])),
]


@app.command("list")
def list_devices(
    context: typer.Context,
    where: Annotated[str | None, typer.Option(help="selector, e.g. 'class=cortex-m4 and site=lyon'")] = None,
) -> None:
    """List devices."""
    settings: Context = context.obj
    devices = settings.client().devices(where=where)
    empty = "no devices match" if where else "no devices yet: `fleetctl claim create` makes what they enrol with"
    print_rows(settings, devices, COLUMNS, wide=WIDE_COLUMNS, name=lambda device: str(device["id"]), empty=empty)


@app.command("show")
def show_device(context: typer.Context, device: Annotated[str, typer.Argument(help="device id")]) -> None:
    """Show one device: tags, what it runs, its slots as it last reported them, what it counted of each image."""
    settings: Context = context.obj
    client = settings.client()
    shown, counted = client.device(device), client.device_telemetry(device)
    if print_document(settings, {**shown, "telemetry": counted}, name=device):
        return
    columns = [*COLUMNS, *(WIDE_COLUMNS if settings.output is Output.WIDE else ())]
    console().print(make_table([title for title, _ in columns], [[cell(value(shown)) for _, value in columns]]))
    names = {row["image"]: row["version"] for row in counted}
    for component in (shown.get("reported") or {}).get("components", []):
        console().print(f"\n[bold]{plain(component['component'])}[/]  floor {plain(component['floor'])}")
        rows = [_slot_row(number, slot, component, names) for number, slot in enumerate(component["slots"])]
        console().print(make_table(["slot", "state", "image", "bytes", "release", "reason"], rows))
    if counted:
        rows = [[cell(value(row)) for _, value in COUNTED_COLUMNS] for row in counted]
        console().print("\n[bold]counted[/]")
        console().print(make_table([title for title, _ in COUNTED_COLUMNS], rows))


@app.command("tag")
def tag_device(
    context: typer.Context,
    device: Annotated[str, typer.Argument(help="device id")],
    changes: Annotated[list[str], typer.Argument(help="KEY=VALUE to set, KEY- to remove")],
) -> None:
    """Change a device's tags; the others stay."""
    settings: Context = context.obj
    client = settings.client()
    tags = dict(client.device(device)["tags"])
    for change in changes:
        key, equals, value = change.partition("=")
        if equals:
            tags[key] = value
        elif change.endswith("-"):
            tags.pop(change[:-1], None)
        else:
            raise InvalidInputError(f"{change!r} changes no tag", next="write KEY=VALUE, or KEY- to remove it")
    shown = client.set_tags(device, tags)
    if not print_document(settings, shown, name=device):
        console().print(plain(f"{device}: " + (", ".join(f"{k}={v}" for k, v in sorted(tags.items())) or "no tags")))


@app.command("reset")
def reset_device(context: typer.Context, device: Annotated[str, typer.Argument(help="device id")]) -> None:
    """Let a device enrol again under its id, with a claim of its class; its certificates end, a quarantine too."""
    settings: Context = context.obj
    shown = settings.client().reset_device(device)
    if not print_document(settings, shown, name=device):
        console().print(plain(f"{device}: its certificates have ended; it may enrol again under this id"))


@app.command("revoke")
def revoke_device(
    context: typer.Context,
    device: Annotated[str, typer.Argument(help="device id")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
) -> None:
    """End a device's certificates and its live connection, for good."""
    settings: Context = context.obj
    ask(yes, f"Revoke {device} for good?")
    shown = settings.client().revoke_device(device)
    if not print_document(settings, shown, name=device):
        console().print(plain(f"{device}: revoked"))


@app.command("command")
def command_device(
    context: typer.Context,
    device: Annotated[str, typer.Argument(help="device id")],
    action: Annotated[str, typer.Argument(help="reboot or diagnostics (report state and counters now)")],
    expires_s: Annotated[int, typer.Option("--expires", help="seconds until it is given up")] = 3600,
    wait: Annotated[bool, typer.Option(help="wait for the device's answer")] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", help="seconds to wait")] = 60.0,
) -> None:
    """Send a device a signed command, which it carries out once; exit 0 when it did."""
    settings: Context = context.obj
    client = settings.client()
    asked = client.command_device(device, action, expires_s)
    until = time.monotonic() + timeout_s
    while wait and asked["state"] in ("waiting", "sent") and time.monotonic() < until:
        time.sleep(0.3)
        asked = next(row for row in client.device_commands(device) if row["id"] == asked["id"])
    if not print_document(settings, asked, name=str(asked["id"])):
        reason = f" ({asked['reason']})" if asked["reason"] else ""
        console().print(plain(f"{device}: {action} {asked['state']}{reason}"))
    if asked["state"] in ("refused", "expired"):
        raise typer.Exit(EXIT_ERROR)
    if wait and asked["state"] != "done":
        console(stderr=True).print(f"no answer yet; `fleetctl device commands {device}`", markup=False)
        raise typer.Exit(EXIT_TIMEOUT)


@app.command("commands")
def list_commands(context: typer.Context, device: Annotated[str, typer.Argument(help="device id")]) -> None:
    """List a device's commands and what became of them."""
    settings: Context = context.obj
    rows = settings.client().device_commands(device)
    print_rows(settings, rows, COMMAND_COLUMNS, name=lambda row: str(row["id"]), empty="no command was sent")


def _slot_row(number: int, slot: dict[str, Any], component: dict[str, Any], names: dict[str, str | None]) -> list[str]:
    mark = " (active)" if component["active"] == number else " (fallback)" if component["fallback"] == number else ""
    return [
        f"{number}{mark}",
        str(slot["state"]),
        names.get(slot["image"]) or str(slot["image"] or "-")[:12],
        size(slot["image_bytes"]),
        str(slot["release_counter"]),
        str(slot["reason"]),
    ]
