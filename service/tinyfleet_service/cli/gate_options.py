"""How policies of gates are written on the command line; which of them make sense, the service says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tinyfleet_service.errors import InvalidInputError

HELP = "write GATE=required, =advisory or =off, or accuracy=proxy"


def split_gates(texts: Sequence[str]) -> dict[str, str]:
    """`GATE=POLICY` as policies by gate. Raises InvalidInputError."""
    return dict(_split(text, HELP) for text in texts)


def change_gates(own: Mapping[str, str], changes: Sequence[str]) -> dict[str, str]:
    """A model's own policy with changes: `GATE=POLICY`, or `GATE-` for the default. Raises InvalidInputError."""
    gates = dict(own)
    for change in changes:
        if change.endswith("-") and "=" not in change:
            gates.pop(change[:-1], None)
        else:
            gates |= [_split(change, f"{HELP}; GATE- for the default")]
    return gates


def _split(text: str, help_text: str) -> tuple[str, str]:
    gate, _, policy = text.partition("=")
    if not (gate and policy):
        raise InvalidInputError(f"{text!r} is no policy of a gate", next=help_text)
    return gate, policy
