"""`--dim NAME=SIZE`, as often as a model has symbolic dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from tinyfleet_service.errors import InvalidInputError


def read_dims(values: Sequence[str] | None) -> dict[str, int]:
    """Sizes by name. Raises InvalidInputError for anything but NAME=SIZE, and for a name given two sizes."""
    found: dict[str, int] = {}
    for value in values or ():
        name, _, size = value.rpartition("=")
        if not name or not (size.isascii() and size.isdigit()) or not 1 <= len(size) <= 9 or int(size) < 1:
            raise InvalidInputError(f"--dim {value} is no dimension", next="write NAME=SIZE, for example --dim time=49")
        if found.setdefault(name, int(size)) != int(size):
            raise InvalidInputError(f"--dim {name} has two sizes", next="give every name once")
    return found


def state_pairs(given: list[str] | None) -> tuple[tuple[str, str], ...]:
    """(output, input) of each OUTPUT=INPUT. Raises InvalidInputError for what is none."""
    pairs = [text.partition("=") for text in given or ()]
    for out, sign, into in pairs:
        if not (out and sign and into):
            raise InvalidInputError(f"--state {out}{sign}{into} is no pair", next="write --state OUTPUT=INPUT")
    return tuple((out, into) for out, _, into in pairs)
