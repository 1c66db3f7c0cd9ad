"""What a rollout is asked for, written down in a file: YAML or JSON with the fields of `docs/api.md`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinyfleet_service.errors import InvalidInputError

FIELDS = "write `field: value` lines; the fields stand in docs/api.md, What a rollout is asked for"
NAMED = ("model", "version")
"""One file serves many versions, so the command names them."""


def read_spec(path: Path) -> dict[str, Any]:
    """The fields of a file, each value as text; whether they make sense, the service says. Raises InvalidInputError."""
    import yaml

    try:
        found = yaml.load(path.read_text(), Loader=yaml.BaseLoader)  # text alone: YAML's `off` is no `False` here
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise InvalidInputError(f"cannot read {path}: {what}", next=FIELDS, path=str(path)) from error
    if not isinstance(found, dict):
        raise InvalidInputError(f"{path} holds no fields of a rollout", next=FIELDS, path=str(path))
    for name in NAMED:
        if name in found:
            raise InvalidInputError(
                f"{path} names a {name}", next="leave it out: the command does, `fleetctl rollout NAME:VERSION`"
            )
    return {name: value for name, value in found.items() if value != ""}


def merge(kept: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """What a file says, and before it what options ask for; of gates, each by itself."""
    gates = kept.get("gates")
    if isinstance(gates, dict) and "gates" in asked:
        asked = {**asked, "gates": {**gates, **asked["gates"]}}
    return {**kept, **asked}
