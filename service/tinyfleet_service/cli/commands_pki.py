"""`fleetctl pki csr | install | status | finish`: put the devices' authority below a root of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tinyfleet_service.cli.context import Context
from tinyfleet_service.cli.output import Column, console, plain, print_document, print_rows
from tinyfleet_service.settings import Settings, load_settings
from tinyfleet_service.words import quantity

app = typer.Typer(
    help="Put the authority that signs device certificates below a root of your own.", no_args_is_help=True
)
COLUMNS: list[Column] = [
    ("authority", lambda row: row["name"]),
    ("below", lambda row: " below ".join(row["below"]) or "nobody: it signs itself"),
    ("ends", lambda row: row["ends"][:10]),
]


def register(root: typer.Typer) -> None:
    """Add this module's commands."""
    root.add_typer(app, name="pki")


@app.command("csr")
def make_csr(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="file to write the request to, PEM")],
    name: Annotated[str, typer.Option(help="common name of the authority; must differ from the one in use")],
    organization: Annotated[str, typer.Option(help="organization in its subject")] = "",
) -> None:
    """Make a key for an issuing authority, and the request that your root is to sign; the key stays in --data."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    from tinyfleet_service.broker.change_authority import make_request

    settings = _settings(context)
    settings.dirs.create()
    parts = [(NameOID.ORGANIZATION_NAME, organization), (NameOID.COMMON_NAME, name)]
    subject = x509.Name([x509.NameAttribute(kind, text) for kind, text in parts if text])
    out.write_bytes(make_request(settings.dirs.pki, subject))
    if not print_document(context.obj, {"file": str(out)}, name=str(out)):
        console().print(
            plain(f"{out}: have it signed as an authority (CA:TRUE, keyCertSign, cRLSign), then `fleetctl pki install`")
        )


@app.command("install")
def install(
    context: typer.Context,
    certificate: Annotated[Path, typer.Argument(help="the signed certificate, PEM", exists=True, dir_okay=False)],
    chain: Annotated[
        Path | None, typer.Argument(help="those above it up to the root, PEM", exists=True, dir_okay=False)
    ] = None,
) -> None:
    """Put the signed authority in place, while `fleetctl serve` is stopped. Devices that are enrolled stay trusted."""
    from tinyfleet_service.maintenance.authority import install_authority

    with _standing_still(context) as settings:
        found = install_authority(settings, certificate.read_bytes(), chain.read_bytes() if chain else b"")
    _print_status(context, found)


@app.command("status")
def status(context: typer.Context) -> None:
    """Show the authorities that are trusted, and how many devices still hold a certificate of a replaced one."""
    from tinyfleet_service.maintenance.authority import pki_status

    _print_status(context, pki_status(_settings(context)))


@app.command("finish")
def finish(
    context: typer.Context,
    leave_behind: Annotated[
        bool, typer.Option("--leave-behind", help="lock out devices that have not renewed")
    ] = False,
) -> None:
    """Trust the replaced authority no longer, while `fleetctl serve` is stopped."""
    from tinyfleet_service.maintenance.authority import finish_authority

    with _standing_still(context) as settings:
        found = finish_authority(settings, leave_behind=leave_behind)
    _print_status(context, found)


def _print_status(context: typer.Context, found: dict[str, Any]) -> None:
    settings: Context = context.obj
    if print_document(settings, found, name=found["authorities"][0]["name"]):
        return
    print_rows(settings, found["authorities"], COLUMNS, name=lambda row: str(row["name"]))
    if found["replaced_at"]:
        console().print(
            f"certificates of the second are held by {quantity(found['devices_on_previous'], 'device')}; "
            "`fleetctl pki finish` when none is left and all know the new root"
        )


def _settings(context: typer.Context) -> Settings:
    asked: Context = context.obj
    return load_settings(asked.data)


def _standing_still(context: typer.Context) -> Any:
    from tinyfleet_service.serve.data_lock import standing_still

    return standing_still(_settings(context))
