"""What happened, in a sentence for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyfleet_service.words import reason_words

SPACED = str.maketrans("_.", "  ")


def sentence(event: Mapping[str, Any]) -> str:
    """An event with `kind`, `detail` and, where there is one, `device` or `rollout`."""
    detail = event["detail"] or {}
    who = event.get("device") or (f"rollout {event['rollout']}" if event.get("rollout") else "")
    return f"{who}: {what(event['kind'], detail)}" if who else what(event["kind"], detail)


def what(kind: str, detail: Mapping[str, Any] | None) -> str:
    """The same without who it happened to."""
    detail = detail or {}
    if kind == "slot":
        reason = "" if detail.get("reason") in (None, "NONE") else f" ({_words(detail['reason'])})"
        return f"{_words(detail.get('from', ''))} → {_words(detail.get('to', ''))}{reason}"
    if isinstance(code := detail.get("reason"), int):
        detail = {**detail, "reason": reason_words(code)}
    told = {key: value for key, value in detail.items() if value not in (None, "", 0, [], {})}
    rest = ", ".join(f"{_words(key)} {str(value).replace('waves/', 'wave ')}" for key, value in told.items())
    return f"{_words(kind.removeprefix('member_'))}{': ' + rest if rest else ''}"


def _words(name: object) -> str:
    return str(name).lower().translate(SPACED)
