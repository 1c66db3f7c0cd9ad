"""The chain, free of I/O: each entry holds the digest of the one before, so it can be checked anywhere.

An entry is a JSON object: `project, number, at, actor, action, detail, before_sha256, after_sha256, previous_sha256`,
and `entry_sha256` over the canonical form (sorted keys, no spaces, UTF-8) of the others. Numbers begin at 1 and have no
gaps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

START = "0" * 64
"""`previous_sha256` of the first entry."""
HASHED = (
    "project", "number", "at", "actor", "action", "detail", "before_sha256", "after_sha256", "previous_sha256",
)  # fmt: skip


def canonical(value: Any) -> bytes:
    """The one byte string of a JSON value; what JSON does not know becomes its text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str).encode()


def entry_digest(entry: Mapping[str, Any]) -> str:
    """What `entry_sha256` must be."""
    return hashlib.sha256(canonical({key: entry.get(key) for key in HASHED})).hexdigest()


def check_entries(entries: Iterable[Mapping[str, Any]], number: int = 0, digest: str = START) -> list[str]:
    """Everything that is wrong with entries that should follow `number` with `digest`; empty when nothing is.

    Finds changed, missing, added and reordered entries. A log cut off at its end, or written anew from some entry on,
    is only found against a later or an earlier copy: keep exports, or the digests in the process logs, elsewhere.
    """
    problems: list[str] = []
    for entry in entries:
        problems += _problems(entry, number, digest)
        number, digest = _number(entry, number + 1), str(entry.get("entry_sha256"))
    return problems


def _problems(entry: Mapping[str, Any], number: int, digest: str) -> list[str]:
    found = _number(entry, -1)
    problems = []
    if found > number + 1:
        problems.append(f"entries {number + 1} to {found - 1} are missing")
    elif found != number + 1:
        problems.append(f"entry {found} stands after entry {number}")
    elif entry.get("previous_sha256") != digest:
        problems.append(f"entry {found} does not follow from entry {number}: one of them was changed")
    if entry.get("entry_sha256") != entry_digest(entry):
        problems.append(f"entry {found} was changed: its digest is not that of its contents")
    return problems


def _number(entry: Mapping[str, Any], otherwise: int) -> int:
    number = entry.get("number")
    return number if type(number) is int else otherwise
