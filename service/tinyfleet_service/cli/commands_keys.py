"""`fleetctl keys init | list | rotate | revoke | drop | export | sign | import`: the keys that devices trust."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyfleet_ota import Algorithm, OtaError, Pkcs11Key, Root, Signer, algorithm_of, key_id
from tinyfleet_service.cli.context import Context
from tinyfleet_service.cli.output import console, make_table, print_document
from tinyfleet_service.data_dir import DataDir
from tinyfleet_service.errors import ConflictError, FleetError, InvalidInputError, NotFoundError, StateConflictError
from tinyfleet_service.keys import ceremony
from tinyfleet_service.keys.ceremony import Ceremony
from tinyfleet_service.keys.external import ExternalKey
from tinyfleet_service.keys.folder import KeyFolder

app = typer.Typer(help="Make, replace and revoke the keys that devices trust.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Add this module's commands."""
    root.add_typer(app, name="keys")


class KeyAlgorithm(StrEnum):
    """Words for COSE algorithms."""

    ED25519 = "ed25519"
    ES256 = "es256"

    @property
    def cose(self) -> Algorithm:
        """The COSE algorithm."""
        return Algorithm.EDDSA if self is KeyAlgorithm.ED25519 else Algorithm.ES256


Keys = Annotated[Path | None, typer.Option("--keys", help="folder of keys; default: `keys` in the data directory")]
Name = Annotated[str, typer.Argument(help="root1, root2, ..., release, director or a key id")]
Kind = Annotated[KeyAlgorithm, typer.Option(help="what the new key is for")]
Carried = Annotated[Path, typer.Argument(help="file made by `keys export`", exists=True, dir_okay=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]


@app.command("init")
def init(context: typer.Context, keys: Keys = None, algorithm: Kind = KeyAlgorithm.ED25519) -> None:
    """Make root, release and director keys and root 1, as the first `serve` does; what is there stays."""
    folder = _folder(context, keys)
    with folder.alone():
        ceremony.make_first_root(folder, algorithm.cose)
    _print_list(context, folder)


@app.command("list")
def list_keys(context: typer.Context, keys: Keys = None) -> None:
    """Show the keys of the newest root, which of them are here, and what a change under way still needs."""
    _print_list(context, _folder(context, keys))


@app.command("rotate")
def rotate(
    context: typer.Context,
    name: Name,
    keys: Keys = None,
    algorithm: Kind = KeyAlgorithm.ED25519,
    pkcs11: Annotated[str | None, typer.Option(help="MODULE:TOKEN:LABEL: make the key in a PKCS#11 token")] = None,
    command: Annotated[
        str | None, typer.Option(help="program with its arguments that signs with a key it holds already, as for a KMS")
    ] = None,
) -> None:
    """Replace a key, also a lost one: root n + 1 names a new one. It holds as soon as enough root keys have signed."""
    folder, where = _folder(context, keys), _where(pkcs11, command)
    with folder.alone():
        number = ceremony.rotate(folder, name, algorithm.cose, where)
    _print_outcome(context, folder, number)


@app.command("revoke")
def revoke(context: typer.Context, name: Name, keys: Keys = None) -> None:
    """Leave a key out of root n + 1. Devices then install nothing that it signed, and do not go back to it."""
    folder = _folder(context, keys)
    with folder.alone():
        number = ceremony.revoke(folder, name)
    _print_outcome(context, folder, number)


@app.command("drop")
def drop(context: typer.Context, keys: Keys = None) -> None:
    """Give a change up that still lacks signatures; keys made for it are put aside."""
    folder = _folder(context, keys)
    with folder.alone():
        dropped = folder.drop()
    if not print_document(context.obj, {"dropped": dropped}, name="dropped" if dropped else ""):
        console().print("dropped" if dropped else "no change is under way")


@app.command("export")
def export(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="file to carry to the machine that holds the keys", dir_okay=False)],
    keys: Keys = None,
    releases: Annotated[bool, typer.Option(help="also release manifests that wait for a signature")] = True,
) -> None:
    """Write what is to be signed elsewhere: the change under way, and releases that wait. The file holds no secrets."""
    _check_replaceable(out)
    folder = _folder(context, keys)
    settings: Context = context.obj
    waiting = settings.client().waiting_manifests() if releases else {}
    Ceremony(folder.roots(), folder.draft(), waiting).write(out)
    drafted = folder.draft() is not None
    if not print_document(settings, {"file": str(out), "new_root": drafted, "releases": len(waiting)}, name=str(out)):
        console().print(f"{out}: {'a new root' if drafted else 'no new root'}, {len(waiting)} releases to sign")


@app.command("sign")
def sign(context: typer.Context, file: Carried, keys: Keys = None, yes: Yes = False) -> None:
    """Show what FILE asks for and sign it with the keys that are here; FILE then goes back. Needs no network."""
    folder, carried = _folder(context, keys), Ceremony.read(file)
    _check_same_fleet(folder, carried)
    wanted = ceremony.to_sign(carried, _loadable(folder))
    if not wanted:
        folder.signers()  # says so when there is one that cannot be used
        raise StateConflictError("no key here can sign anything of this file", next="take it to another key holder")
    settings: Context = context.obj
    signed = 0
    for item in wanted:
        shown = f"{item.text}\n  sign with {', '.join(item.keys)}"
        console(stderr=settings.wants_document).print(shown, markup=False)
        if yes or typer.confirm("Sign?", default=False, err=True):
            item.sign()
            signed += 1
    carried.write(file)
    if not print_document(settings, {"file": str(file), "signed": signed, "of": len(wanted)}, name=str(file)):
        console().print(f"{file}: take it to the next key holder, or `fleetctl keys import` it")


@app.command("import")
def import_file(context: typer.Context, file: Carried, keys: Keys = None) -> None:
    """Take back what was signed elsewhere: roots hold from now on, releases are handed to the service."""
    folder, carried = _folder(context, keys), Ceremony.read(file)
    settings: Context = context.obj
    outcome: dict[str, Any] = {"root": None, "missing": []}
    with folder.alone():
        for data in carried.roots if folder.count_roots() else []:
            folder.add_root(data)
        ceremony.take_up(folder)
        if carried.draft is not None:
            outcome = _outcome(folder, ceremony.take_draft(folder, carried.draft))
    if carried.draft is not None and not settings.wants_document:
        _print_lines(outcome)
    taken, refused = _hand_in(settings, carried.signed) if carried.signed else ([], [])
    print_document(settings, {**outcome, "builds": taken}, name=str(file))
    if refused:
        raise refused[0]


def _check_replaceable(out: Path) -> None:
    """A file of an earlier ceremony may be written anew; another one, which may be a key, may not."""
    try:
        if out.exists():
            Ceremony.read(out)
    except InvalidInputError as error:
        raise ConflictError(f"{out} is there already, and no ceremony file", next="choose another name") from error


def _hand_in(settings: Context, signed: dict[int, bytes]) -> tuple[list[dict[str, Any]], list[FleetError]]:
    """Builds that took their signature, and refusals: one that has it already, or is gone, keeps no other waiting."""
    client = settings.client()
    taken: list[dict[str, Any]] = []
    refused: list[FleetError] = []
    for build, envelope in signed.items():
        try:
            taken.append(client.sign_build(build, envelope))
        except (ConflictError, InvalidInputError, NotFoundError) as error:
            refused.append(error)
            continue
        if not settings.wants_document:
            console().print(f"build {build}: {taken[-1]['state']}")
    return taken, refused


def _check_same_fleet(folder: KeyFolder, carried: Ceremony) -> None:
    """Signing for another fleet, or from roots somebody made up, is not what a key holder wants."""
    known = folder.roots() if folder.count_roots() else []
    if not known:
        next_step = f"put root-1.cbor and those after it into {folder.path}, not from where this file comes from"
        raise InvalidInputError("no root is known here to compare this file with", next=next_step)
    if carried.newest() and known != carried.roots[: len(known)]:
        raise InvalidInputError("the roots in this file are not those known here", next="ask where the file comes from")


def _folder(context: typer.Context, keys: Path | None) -> KeyFolder:
    settings: Context = context.obj
    return KeyFolder(keys or DataDir(settings.data or Path("fleet-data")).keys)


def _where(pkcs11: str | None, command: str | None) -> Pkcs11Key | ExternalKey | None:
    if pkcs11 is not None and command is not None:
        raise InvalidInputError("a key is in one place", next="give --pkcs11 or --command")
    if command is not None:
        return ExternalKey(_words(command))
    return _token(pkcs11) if pkcs11 is not None else None


def _words(command: str) -> tuple[str, ...]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InvalidInputError(f"{command!r} is no command: {error}", next="quote it as in a shell") from error
    if not words:
        raise InvalidInputError("the command is empty", next="name the program that signs")
    return tuple(words)


def _token(text: str) -> Pkcs11Key:
    parts = text.split(":")
    if len(parts) != 3 or not all(parts):
        raise InvalidInputError(f"{text!r} names no key in a token", next="write MODULE:TOKEN:LABEL")
    return Pkcs11Key(*parts)


def _outcome(folder: KeyFolder, number: int | None) -> dict[str, Any]:
    """The root that holds now, or what a drafted one still lacks."""
    return {"root": number, "missing": ceremony.missing(folder) if number is None else []}


def _print_outcome(context: typer.Context, folder: KeyFolder, number: int | None) -> None:
    outcome = _outcome(folder, number)
    if not print_document(context.obj, outcome, name=str(number or "")):
        _print_lines(outcome)


def _print_lines(outcome: dict[str, Any]) -> None:
    if outcome["root"] is not None:
        console().print(f"root {outcome['root']} holds: devices take it when they next connect")
        return
    console().print("root drafted; signatures missing:")
    for line in outcome["missing"]:
        console().print(f"  {line}")
    console().print("next: `fleetctl keys export --out FILE`, `keys sign FILE` where the keys are, `keys import FILE`")


def _print_list(context: typer.Context, folder: KeyFolder) -> None:
    root = folder.newest()
    here = {signer.public_key: name for name, signer in _loadable(folder).items()}
    rows = [
        {
            "role": role,
            "id": key_id(key).hex(),
            "algorithm": "ed25519" if algorithm_of(key) == Algorithm.EDDSA else "es256",
            "here": here.get(key),
        }
        for role, field in ceremony.ROLES.items()
        for key in getattr(root, field)
    ]
    missing = ceremony.missing(folder)
    if print_document(context.obj, {**_head(root), "keys": rows, "missing": missing}, name=str(root.number)):
        return
    share = f"{root.threshold} of {len(root.root_keys)} root keys"
    console().print(f"root {root.number}: {share}, director epoch {root.director_epoch}")
    table = [[str(row[name] or "elsewhere") for name in ("role", "id", "algorithm", "here")] for row in rows]
    console().print(make_table(["role", "key id", "algorithm", "private key"], table))
    for line in missing:
        console().print(f"change under way, missing: {line}")


def _head(root: Root) -> dict[str, int]:
    return {"root": root.number, "threshold": root.threshold, "director_epoch": root.director_epoch}


def _loadable(folder: KeyFolder) -> dict[str, Signer]:
    found: dict[str, Signer] = {}
    for name in folder.names():
        try:
            found[name] = folder.load(name)
        except (FleetError, OtaError):
            continue  # a token that is not plugged in: its key is elsewhere
    return found
