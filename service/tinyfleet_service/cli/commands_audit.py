"""`fleetctl audit list | export | verify`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyfleet_service.cli.context import Context
from tinyfleet_service.cli.output import Column, console, moment, print_document, print_rows
from tinyfleet_service.client import Client
from tinyfleet_service.errors import CorruptError, InvalidInputError
from tinyfleet_service.words import quantity

app = typer.Typer(help="Who changed what: list, export, verify.", no_args_is_help=True)
PAGE = 1000
SHOWN_PROBLEMS = 20
COLUMNS: list[Column] = [
    ("number", lambda entry: entry["number"]),
    ("at", lambda entry: moment(entry["at"])),
    ("who", lambda entry: entry["actor"]),
    ("what", lambda entry: entry["action"]),
    ("outcome", lambda entry: outcome(entry)),
]
WIDE_COLUMNS: list[Column] = [
    ("from", lambda entry: entry["detail"].get("address")),
    ("digest", lambda entry: entry["entry_sha256"]),
]


def register(root: typer.Typer) -> None:
    """Add this module's commands."""
    root.add_typer(app, name="audit")


def outcome(entry: dict[str, Any]) -> str:
    """What an entry changed, in a few words."""
    detail = entry["detail"]
    if "status" in detail:
        return f"answered {detail['status']}" + (", nothing changed" if detail["status"] >= 400 else "")
    first = [_change(change) for change in detail["changes"][:2]]
    more = detail["changed_rows"] - len(first)
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


def _change(change: dict[str, Any]) -> str:
    fields = f" ({', '.join(change['fields'])})" if change["fields"] else ""
    return f"{change['verb']} {change['table']} {change['key']}{fields}"


@app.command("list")
def list_entries(
    context: typer.Context,
    after: Annotated[int, typer.Option(help="number of the last entry seen")] = 0,
    limit: Annotated[int, typer.Option(help="how many")] = 100,
) -> None:
    """List entries, oldest first."""
    settings: Context = context.obj
    entries = settings.client().audit(after, limit)
    print_rows(settings, entries, COLUMNS, wide=WIDE_COLUMNS, name=lambda e: str(e["number"]), empty="nothing yet")


@app.command("export")
def export_entries(context: typer.Context, out: Annotated[Path, typer.Option(help="file to write")]) -> None:
    """Write the whole log as JSON lines, for `verify` on another machine."""
    from tinyfleet_service.audit.chain import START

    settings: Context = context.obj
    count, digest = 0, START
    with out.open("w", encoding="utf-8") as file:
        for entry in _from_server(settings.client()):
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            count, digest = entry["number"], entry["entry_sha256"]
    if not print_document(settings, {"file": str(out), "entries": count, "last": digest}, name=str(out)):
        console().print(f"{quantity(count, 'entry', 'entries')} in {out}, the last is {digest}")


@app.command("verify")
def verify_entries(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="file that `export` wrote")] = None,
    server: Annotated[bool, typer.Option("--server", help="the service's own log instead of a file")] = False,
    after: Annotated[Path | None, typer.Option(help="an older export that this log must continue")] = None,
) -> None:
    """Check the chain: exit 0 when nothing was changed, removed, added or reordered, else 1 with each problem.

    A log cut off at its end, or written anew as a whole, is only found with --after and an older export.
    """
    from tinyfleet_service.audit.chain import START, check_entries

    if (file is None) != server:
        raise InvalidInputError("say which log", next="name a file, or --server")
    settings: Context = context.obj
    passed = _Passed({str(e.get("entry_sha256")): e.get("number") for e in _from_file(after)} if after else {})
    entries = _from_server(settings.client()) if file is None else _from_file(file)
    problems = check_entries(passed.through(entries))
    problems += [f"entry {number} of the older export is gone or different" for number in passed.awaited.values()]
    if problems:
        shown = "; ".join(problems[:SHOWN_PROBLEMS])
        raise CorruptError(
            f"the audit log does not hold: {shown}", next="compare it with an older export", problems=problems
        )
    last = passed.last or START
    if not print_document(settings, {"entries": passed.count, "last": last}, name=last):
        console().print(f"{quantity(passed.count, 'entry holds', 'entries hold')}; the last is {last}")


@dataclass
class _Passed:
    """What went by of a log that is read as a stream, since it never gets shorter."""

    awaited: dict[str, Any]
    """Digest -> number, of an older export."""
    count: int = 0
    last: str = ""

    def through(self, entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for entry in entries:
            self.count, self.last = self.count + 1, str(entry.get("entry_sha256"))
            self.awaited.pop(self.last, None)
            yield entry


def _from_server(client: Client) -> Iterator[dict[str, Any]]:
    after = 0
    while page := client.audit(after, PAGE):
        yield from page
        after = page[-1]["number"]


def _from_file(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", newline="\n") as file:  # and at no other mark that Unicode knows
            for number, line in enumerate(file, 1):
                yield _entry(line, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read {path}: {error}", next="name a file that `audit export` wrote") from error


def _entry(line: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{where} is not JSON", next="export it again") from error
    if not isinstance(entry, dict):
        raise InvalidInputError(f"{where} is no entry", next="export it again")
    return entry
