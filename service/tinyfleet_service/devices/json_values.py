"""Wire messages as JSON: enumerations by name, ids as hex."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


def to_json(value: Any) -> Any:
    """`value` with enumeration members as their names and bytes as lower-case hex, through lists and dictionaries."""
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value
