"""`fleetctl doctor | backup | restore | migrate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tinyfleet_service.cli.context import Context
from tinyfleet_service.cli.errors import EXIT_ERROR
from tinyfleet_service.cli.output import Column, console, plain, print_document, print_rows
from tinyfleet_service.errors import InvalidInputError
from tinyfleet_service.settings import Settings, load_settings

COLUMNS: list[Column] = [
    ("", lambda row: row["verdict"]),
    ("check", lambda row: row["check"]),
    ("found", lambda row: row["found"]),
    ("what to do", lambda row: row["next"]),
]


def register(root: typer.Typer) -> None:
    """Add this module's commands."""
    root.command("doctor")(doctor)
    root.command("backup")(backup)
    root.command("restore")(restore)
    root.command("migrate")(migrate)


def doctor(context: typer.Context) -> None:
    """Look the installation in --data over and say what to do; exit 1 when something fails."""
    from tinyfleet_service.maintenance import examine

    settings: Context = context.obj
    findings = [asdict(finding) for finding in examine(_here(settings))]
    print_rows(settings, findings, COLUMNS, name=lambda row: f"{row['verdict']} {row['check']}")
    if any(row["verdict"] == "fail" for row in findings):
        raise typer.Exit(EXIT_ERROR)


def backup(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="file to write; it holds every secret")],
    database: Annotated[
        bool, typer.Option("--with-database/--without-database", help="leave a PostgreSQL database to pg_dump")
    ] = True,
    blobs: Annotated[
        bool | None, typer.Option("--with-blobs/--without-blobs", help="copy blobs that are in a bucket, or leave them")
    ] = None,
) -> None:
    """Write database, authority, signing keys, blobs and settings of --data to one file, while the service runs."""
    from tinyfleet_service import maintenance

    settings: Context = context.obj
    count = maintenance.backup(_here(settings), out, database=database, blobs=blobs)
    if not print_document(settings, {"file": str(out), "files": count}, name=str(out)):
        console().print(f"{count} files in {plain(str(out))}; it holds every secret: keep it as safe as the service")


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="what `backup` wrote", exists=True)],
    database: Annotated[
        bool, typer.Option("--with-database", help="TINYFLEET_DATABASE_URL was restored by pg_restore: freeze it too")
    ] = False,
) -> None:
    """Unpack a backup as --data, which must not be there yet; every project is frozen until you thaw it."""
    from tinyfleet_service import maintenance

    settings: Context = context.obj
    if settings.data is None:
        raise InvalidInputError("restore to where?", next="give --data DIR, a directory that is not there yet")
    found = maintenance.restore(file, settings.data, database=database)
    if not print_document(settings, found, name=str(settings.data)):
        console().print(
            f"restored {found['files']} files of {plain(found['made_at'])} to {plain(str(settings.data))}; start "
            "`fleetctl serve` there, look with `fleetctl doctor`, then `fleetctl thaw`"
        )
        if found["blobs_left_in"]:
            console().print(plain(f"blobs were left in {found['blobs_left_in']}: `fleetctl doctor` looks there"))


def migrate(context: typer.Context) -> None:
    """Bring the databases of --data to this version, as `serve` does at its start; every process must stand still."""
    from tinyfleet_service.schema import upgrade

    settings: Context = context.obj
    found = load_settings(settings.data)
    found.dirs.create()
    upgrade(found)
    if not print_document(settings, {"data": str(found.dirs.path)}, name=str(found.dirs.path)):
        console().print(f"the databases of {plain(str(found.dirs.path))} are those of this version")


def _here(settings: Context) -> Settings:
    """Settings of the installation on this machine, with the ports that its `serve` took, by option or by itself."""
    from tinyfleet_service.serve.ports import PORTS, read_serve_json, resolve_ports

    found = load_settings(settings.data)
    taken = read_serve_json(found).get("ports", {})
    return resolve_ports(found.model_copy(update={name: taken[name] for name in PORTS if name in taken}))
