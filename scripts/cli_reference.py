"""The command line described by itself: every command with its options, and docs/cli.md made from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from tinyfleet_service.cli.errors import EXIT_CODES
from tinyfleet_service.cli.main import make_app

IMPLIED = {"rollout start": "rollout"}
"""Commands that are typed without their last word."""


def commands() -> Iterator[tuple[str, Any]]:
    """(words after `fleetctl`, command) of every command that does something, in the order of `--help`."""
    yield from _walk(typer.main.get_command(make_app()), "")


def flags(command: Any) -> set[str]:
    """Every option of a command, long and short, as typed."""
    return {
        flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts) if flag[0] == "-"
    }


def render_cli() -> str:
    """docs/cli.md."""
    top = typer.main.get_command(make_app())
    parts = [
        "# fleetctl",
        "",
        "<!-- made from the commands themselves by scripts/make_reference.py -->",
        "",
        f"{top.help} `fleetctl COMMAND --help` says the same in a terminal.",
        "",
        EXIT_CODES,
        "An error is a line on stderr, and one more with what to do next.",
        "",
        "## Options of every command",
        "",
        "They stand before the command or after it.",
        "",
        *_parameter_table(top.params),
    ]
    for name, command in commands():
        parts += ["", *_section(name, command)]
    return "\n".join(parts) + "\n"


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield name, command
        return
    for word, child in children.items():
        yield from _walk(child, f"{name} {word}".strip())


def _section(name: str, command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join(
        ["fleetctl", IMPLIED.get(name, name), *map(_metavar, arguments), *(["[OPTIONS]"] if options else [])]
    )
    table = _parameter_table([*arguments, *options])
    return [
        f"## {IMPLIED.get(name, name)}",
        "",
        f"`{usage}`",
        "",
        _text(command.help),
        *([""] if table else []),
        *table,
    ]


def _metavar(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper()
    return name if argument.required else f"[{name}]"


def _parameter_table(parameters: list[Any]) -> list[str]:
    rows = [f"| {_typed(p)} | {_help(p)} |" for p in parameters if p.name != "help" and not _is_completion(p)]
    return ["| | |", "| --- | --- |", *rows] if rows else []


def _is_completion(parameter: Any) -> bool:
    return parameter.name in ("install_completion", "show_completion")


def _typed(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_metavar(parameter)}`"
    return ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))


def _help(parameter: Any) -> str:
    """The help text, with whether it must be given, its default and its environment variable."""
    notes = []
    if parameter.required and parameter.param_type_name == "option":
        notes.append("required")
    default = getattr(parameter.default, "value", parameter.default)
    if default not in (None, False, True, (), []) and not callable(default):
        notes.append(f"default `{default}`")
    if parameter.envvar:
        notes.append(f"environment `{parameter.envvar}`")
    text = _text(parameter.help)
    return (f"{text} ({'; '.join(notes)})" if notes else text).replace("|", "\\|")


def _text(text: str | None) -> str:
    return " ".join((text or "").split())
