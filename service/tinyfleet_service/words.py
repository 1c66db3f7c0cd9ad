"""Words that follow from numbers, for every text that people read."""

from __future__ import annotations

from tinyfleet_ota.protocol import Reason


def quantity(count: int, one: str, many: str = "") -> str:
    """`1 device`, `2,000 devices`; `many` where the plural is not made by an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def reason_words(code: int) -> str:
    """A device's reason, `confirm timeout`; empty for none, the number itself where protocol.cddl has none such."""
    if code not in set(Reason):
        return str(code)
    return Reason(code).name.lower().replace("_", " ") if code != Reason.NONE else ""
