"""What the audit page shows: the newest entries, and whether they follow from one another."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from tinyfleet_service.audit import START, check_entries, newest_entries
from tinyfleet_service.auth import Principal

SHOWN = 200
MAX_LINES = 4


def audit_data(session: Session, principal: Principal) -> dict[str, Any]:
    """Template variables of the audit page."""
    entries = newest_entries(session, principal.project_id, SHOWN + 1)
    oldest_first = entries[::-1]
    if len(entries) > SHOWN:  # the oldest one read only says what the others follow from
        anchor, oldest_first = oldest_first[0], oldest_first[1:]
        problems = check_entries(oldest_first, anchor["number"], anchor["entry_sha256"])
    else:
        problems = check_entries(oldest_first, 0, START)
    return {
        "project": principal.project,
        "page": "audit",
        "problems": problems,
        "more": len(entries) > SHOWN,
        "entries": [{**entry, "outcome": _outcome(entry["detail"])} for entry in entries[:SHOWN]],
    }


def _outcome(detail: dict[str, Any]) -> list[str]:
    if "status" in detail:
        return [f"answered {detail['status']}" + (", nothing changed" if detail["status"] >= 400 else "")]
    shown = detail["changes"][:MAX_LINES]
    lines = [_line(change) for change in shown]
    more = detail["changed_rows"] - sum(change.get("rows", 1) for change in shown)
    return lines + ([f"and {more} more"] if more > 0 else [])


def _line(change: dict[str, Any]) -> str:
    shown = {key: value for key, value in change["values"].items() if value not in (None, "", [])}
    values = ", ".join(f"{key} {_words(value)}" for key, value in shown.items())
    count = f"{change['rows']} x " if "rows" in change else ""
    fields = f" ({', '.join(change['fields'])})" if change["fields"] else ""
    what = f"{change['verb']} {count}{change['table']} {change['key']}{fields}".replace("_", " ")
    return f"{what}: {values}" if values else what


def _words(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return " ".join(map(str, value[:MAX_LINES])) + (" ..." if len(value) > MAX_LINES else "")
