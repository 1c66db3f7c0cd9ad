"""The types a message field can have; `protocol.py` is a table of them, `protocol_codec` walks it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

UINT_MAX = (1 << 53) - 1
"""Largest integer on the wire: exact in a double, so that JSON and JavaScript readers keep it."""


@dataclass(frozen=True)
class Uint:
    """Unsigned integer up to `UINT_MAX`."""


@dataclass(frozen=True)
class Bool:
    """true or false."""


@dataclass(frozen=True)
class Text:
    """UTF-8 of `low` to `high` bytes."""

    low: int = 0
    high: int = 64


@dataclass(frozen=True)
class Bytes:
    """Byte string of exactly `size` bytes, or of `size` to `high` bytes."""

    size: int
    high: int = 0


@dataclass(frozen=True)
class Enum:
    """Unsigned integer that is a member of `members`."""

    members: type[IntEnum]


@dataclass(frozen=True)
class Nullable:
    """`item` or null."""

    item: WireType


@dataclass(frozen=True)
class Array:
    """`low` or more of `item`."""

    item: WireType
    low: int = 0


@dataclass(frozen=True)
class Fixed:
    """Array of exactly these items."""

    items: tuple[WireType, ...]


@dataclass(frozen=True)
class Message:
    """Another message map, by its name in `MESSAGES`."""

    name: str


WireType: TypeAlias = Uint | Bool | Text | Bytes | Enum | Nullable | Array | Fixed | Message


@dataclass(frozen=True)
class Field:
    """One entry of a message map."""

    key: int
    name: str
    type: WireType
    optional: bool = False
