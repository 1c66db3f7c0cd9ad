"""Asking before what cannot be taken back."""

from __future__ import annotations

import sys

import typer

from tinyfleet_service.errors import InvalidInputError


def ask(yes: bool, question: str, instead: str = "add --yes") -> None:
    """Ask on stderr, so that stdout stays a document, unless `yes` was said; "no" ends the command.

    Raises InvalidInputError, with what to do instead, where nobody can answer.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInputError("nobody to ask on this terminal", next=instead)
    typer.confirm(question, abort=True, err=True)
