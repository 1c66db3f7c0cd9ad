"""What happened, in a sentence for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyfleet_ota.protocol import Reason


def sentence(event: Mapping[str, Any]) -> str:
    """An event with `kind`, `detail` and, where there is one, `device` or `rollout`."""
    detail = event["detail"] or {}
    who = event.get("device") or (f"rollout {event['rollout']}" if event.get("rollout") else "")
    return f"{who}: {_what(event['kind'], detail)}" if who else _what(event["kind"], detail)


def _what(kind: str, detail: Mapping[str, Any]) -> str:
    if kind == "slot":
        reason = "" if detail.get("reason") in (None, "NONE") else f" ({_words(detail['reason'])})"
        return f"{_words(detail.get('from', ''))} → {_words(detail.get('to', ''))}{reason}"
    if isinstance(code := detail.get("reason"), int) and code in set(Reason):
        detail = {**detail, "reason": _words(Reason(code).name) if code else ""}
    rest = ", ".join(f"{_words(key)} {value}" for key, value in detail.items() if value not in (None, "", 0, [], {}))
    return f"{_words(kind.removeprefix('member_'))}{': ' + rest if rest else ''}"


def _words(name: object) -> str:
    return str(name).lower().replace("_", " ")
