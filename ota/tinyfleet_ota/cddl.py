"""Reader of the small CDDL subset `protocol.cddl` is written in (RFC 8610): constants, enumerations, maps, aliases."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("protocol.cddl")
_RULE = re.compile(r"^([a-z][a-z0-9-]*) = ", re.MULTILINE)
_ENUM_MEMBER = re.compile(r"([A-Z][A-Z0-9_]*): (\d+)")
_MAP_ENTRY = re.compile(r"^(\? )?&\(([a-z0-9-]+): (\d+)\) => (.+)$")


@dataclass(frozen=True)
class Entry:
    """One line of a map: `? &(name: key) => type,`; `type` is CDDL text."""

    key: int
    name: str
    type: str
    optional: bool


@dataclass(frozen=True)
class Schema:
    """Everything `protocol.cddl` defines, in file order."""

    constants: dict[str, int]
    enums: dict[str, dict[str, int]]
    maps: dict[str, tuple[Entry, ...]]
    aliases: dict[str, str]


def read_schema(text: str | None = None) -> Schema:
    """Parse `text`, by default the package's own `protocol.cddl`. Raises ValueError for CDDL outside the subset."""
    source = re.sub(r";.*", "", text if text is not None else SOURCE.read_text())
    schema = Schema({}, {}, {}, {})
    starts = [*_RULE.finditer(source)]
    for rule, following in zip(starts, [*starts[1:], None], strict=True):
        body = source[rule.end() : following.start() if following else len(source)].strip()
        _add_rule(schema, rule[1], body)
    return schema


def _add_rule(schema: Schema, name: str, body: str) -> None:
    if re.fullmatch(r"-?\d+", body):
        schema.constants[name] = int(body)
    elif body.startswith("&("):
        schema.enums[name] = {member: int(value) for member, value in _ENUM_MEMBER.findall(body)}
    elif body.startswith("{"):
        schema.maps[name] = _entries(name, body)
    else:
        schema.aliases[name] = " ".join(body.split())


def _entries(name: str, body: str) -> tuple[Entry, ...]:
    lines = [line.strip().removesuffix(",") for line in body.strip("{}").splitlines() if line.strip()]
    entries = []
    for line in lines:
        match = _MAP_ENTRY.match(line)
        if not match:
            raise ValueError(f"{name}: write one `? &(name: key) => type,` a line, not {line!r}")
        entries.append(Entry(int(match[3]), match[2], match[4].strip(), bool(match[1])))
    if len({entry.key for entry in entries}) != len(entries):
        raise ValueError(f"{name}: a key is used twice")
    return tuple(entries)
