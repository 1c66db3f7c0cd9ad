"""What a token may touch, beside its role: `models:write`, `builds:read` ... None means all of it."""

from __future__ import annotations

from collections.abc import Sequence

from tinyfleet_service.errors import ForbiddenError, InvalidInputError

NOUNS = (
    "models", "builds", "device-classes", "devices", "rollouts", "overview", "events", "tokens", "audit", "webhooks",
    "health",
)  # fmt: skip
"""Tags of the OpenAPI document, with dashes for spaces."""
VERBS = ("read", "write")


def check_scopes(scopes: Sequence[str]) -> list[str]:
    """The scopes in order, each once. Raises InvalidInputError for one that does not exist."""
    known = {f"{noun}:{verb}" for noun in NOUNS for verb in VERBS}
    unknown = sorted(set(scopes) - known)
    if unknown:
        raise InvalidInputError(
            f"no scope {unknown[0]!r}", next=f"write NOUN:read or NOUN:write with one of {', '.join(NOUNS)}"
        )
    return sorted(set(scopes))


def has_scope(scopes: Sequence[str], tag: str, reading: bool) -> bool:
    """False when the token is limited to other things. `write` includes `read`."""
    noun = tag.replace(" ", "-")
    enough = {f"{noun}:write"} | ({f"{noun}:read"} if reading else set())
    return not scopes or bool(enough & set(scopes))


def require_scope(scopes: Sequence[str], tag: str, reading: bool) -> None:
    """Raises ForbiddenError unless the token `has_scope`."""
    noun = tag.replace(" ", "-")
    if not has_scope(scopes, tag, reading):
        raise ForbiddenError(
            f"this needs the scope {noun}:{'read' if reading else 'write'}, your token has {', '.join(scopes)}",
            next="use a token with that scope",
            scopes=list(scopes),
        )


def require_subset(own: Sequence[str], asked: Sequence[str]) -> None:
    """A limited token cannot make one that may more. Raises ForbiddenError."""
    if own and (not asked or not set(asked) <= set(own)):
        raise ForbiddenError(
            "a token with scopes can only make tokens with some of them", next=f"ask for some of {', '.join(own)}"
        )
