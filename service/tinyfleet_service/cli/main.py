"""`fleetctl`: one typer application put together from one module per noun."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyfleet_service.cli.context import Context, Output
from tinyfleet_service.cli.errors import EXIT_CODES, EXIT_ERROR, describe_error, known_errors

MODULES = {
    "model": "models",
    "firmware": "firmware",
    "build": "builds",
    "device": "devices",
    "device-class": "classes",
    "claim": "claims",
    "group": "groups",
    "rollout": "rollout",
    "freeze": "rollout",
    "thaw": "rollout",
    "keys": "keys",
    "pki": "pki",
    "release": "release",
    "audit": "audit",
    "webhook": "webhooks",
    "token": "tokens",
    "doctor": "maintenance",
    "backup": "maintenance",
    "restore": "maintenance",
    "migrate": "maintenance",
    "serve": "serve",
    "demo": "serve",
    "check": "compiler",
    "compile": "compiler",
    "run": "images",
    "emit": "images",
    "inspect": "images",
    "delta": "delta",
}
"""Command -> the `commands_` module that registers it. Only that one is imported, so that a command answers at once."""
VERSION = "--version"
JSON = "--json"
TAKES_VALUE = ("-o", "--output", "--data", "--url", "--token")


def make_app(command: str | None = None) -> typer.Typer:
    """The application with the module of `command`, or with every command where that is none of ours."""
    app = typer.Typer(
        name="fleetctl",
        help="Put machine-learning models on fleets of microcontrollers, and keep them good.",
        epilog=f"These options may stand after a command, too, as in `fleetctl model list -o json`. {EXIT_CODES}",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(main_options)
    if command == VERSION:
        wanted = []
    else:
        wanted = [MODULES[command]] if command in MODULES else list(dict.fromkeys(MODULES.values()))
    for name in wanted:
        import_module(f"tinyfleet_service.cli.commands_{name}").register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"fleetctl {version('tinyfleet')}")
        raise typer.Exit


def main_options(
    context: typer.Context,
    output: Annotated[Output, typer.Option("-o", "--output", help="table, wide, json, yaml or name")] = Output.TABLE,
    as_json: Annotated[bool, typer.Option(JSON, help="the same as `-o json`")] = False,
    data: Annotated[
        Path | None, typer.Option(envvar="TINYFLEET_DATA", help="data directory of a `fleetctl serve` on this machine")
    ] = None,
    url: Annotated[str | None, typer.Option(envvar="TINYFLEET_URL", help="address of the service")] = None,
    token: Annotated[str | None, typer.Option(envvar="TINYFLEET_TOKEN", help="API token")] = None,
    version: Annotated[
        bool, typer.Option(VERSION, help="print the version and stop", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Options that every command takes, wherever they stand."""
    context.obj = Context(output=Output.JSON if as_json else output, data=data, url=url, token=token)


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the console script: known errors become one line on stderr and an exit code, never a traceback."""
    words = _options_anywhere(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # names and lines of trees that a terminal's encoding has not
    try:
        return make_app(_command(_words_before_cursor() or words))(args=words, prog_name="fleetctl")
    except SystemExit:
        raise  # before `known_errors` looks the others up
    except known_errors() as error:
        print(describe_error(error), file=sys.stderr)
        raise SystemExit(EXIT_ERROR) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _command(words: Sequence[str]) -> str | None:
    """The command's word, or VERSION; None where the whole application is asked for, as for its help."""
    left = iter(words)
    for word in left:
        if word in ("-h", "--help"):
            return None
        if word == VERSION:
            return word
        if word in TAKES_VALUE:
            next(left, None)
        elif not word.startswith("-"):
            return word
    return None


def _words_before_cursor() -> list[str]:
    """Those that stand already where a shell asks how the next one may go on, by the variables that typer reads."""
    if "_FLEETCTL_COMPLETE" not in os.environ:
        return []
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    return re.split(r"\s", line)[1:-1]


def _options_anywhere(arguments: list[str]) -> list[str]:
    """Accept `-o json` and `--data DIR` after the command too, as kubectl does: they are moved to the front."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in TAKES_VALUE:
            value = next(words, None)
            if value is None:
                return [*front, word]  # the parser says what is missing
            front += [word, value]
        elif word.startswith(tuple(f"{option}=" for option in TAKES_VALUE[1:])):
            front.append(word)
        elif word.startswith("-o") and word[2:] in {choice.value for choice in Output}:
            front += ["-o", word[2:]]
        elif word == JSON:
            front.append(word)
        elif word == "--":
            rest += [word, *words]
        else:
            rest.append(word)
    return front + rest


if __name__ == "__main__":
    main()
