"""Words that follow from numbers, for every text that people read."""

from __future__ import annotations


def quantity(count: int, one: str, many: str = "") -> str:
    """`1 device`, `2,000 devices`; `many` where the plural is not made by an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
