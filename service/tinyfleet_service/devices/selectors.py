"""Device selectors: one grammar for API, CLI and dashboard, compiled to SQL.

    selector = all_of ("or" all_of)*
    all_of   = test ("and" test)*                 "and" binds closer than "or"
    test     = "not" test | "(" selector ")" | key ("=" | "!=") value | key ["not"] "in" "(" value ("," value)* ")"
    key      = class | id | state | image | group | a tag's name | "tag." a tag's name
    value    = letters, digits and _ . : / * - ; anything else in "double quotes"

`class=cortex-m4 and site=lyon`, `not (site in (lyon, oslo)) or id=m4-abcd2345`. A missing tag equals no value, so
`site!=lyon` holds for devices without a site. `image` is the first digits of the active image's id: `image=3fa9*` or
all 32; `*` at a value's end matches any ending. `group=line-2` holds for the members of that group, which must exist; a
device may be in several, and one in none has the empty value: `group=""`. A tag named `group` is `tag.group`.
Words are case-sensitive, but and/or/not/in may be written in capitals. An empty selector selects every device.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product
from math import prod
from typing import Any

from sqlalchemy import ColumnElement, and_, func, literal, not_, or_, true
from sqlalchemy.sql.elements import SQLCoreOperations
from sqlmodel import Session, col, select

from tinyfleet_service.database.models import Device, DeviceGroup, GroupMember
from tinyfleet_service.errors import SelectorError

MAX_LENGTH = 1000
MAX_DEPTH = 20
MAX_TESTS = 100
MAX_CLAUSES = 8
_TOKEN = re.compile(r"\s*(?:(?P<mark>!=|[=(),])|\"(?P<quoted>[^\"\0]*)\"|(?P<word>[A-Za-z0-9_.:/*-]+))")
_KEY = re.compile(r"[a-z][a-z0-9_.-]{0,35}")
_PLAIN = re.compile(r"[A-Za-z0-9_.:/-]+")
COLUMNS = {"class": Device.device_class, "id": Device.id, "state": Device.state, "image": Device.active_image}
GROUP = "group"
_WORDS = {"and", "or", "not", "in"}


@dataclass(frozen=True)
class _Token:
    kind: str  # mark, word, value (quoted), end
    text: str
    position: int


@dataclass(frozen=True, order=True)
class Has:
    """What an index tells: a tag of a device, a `group` that it is in, its class, state or image, or its id, all or
    the beginning with a `*`."""

    name: str
    value: str


Clause = tuple[Has, ...]


@dataclass(frozen=True)
class _Condition:
    """A part of a selector: exactly, on `Device`, and what follows from it that indexes can tell. Every selected device
    has at least one of each clause that is `sure`, and none of those that are `never`; `whole`: that is all it says."""

    exact: ColumnElement[bool] = field(default_factory=true)
    sure: tuple[Clause, ...] = ()
    never: tuple[Clause, ...] = ()
    whole: bool = False


@dataclass(frozen=True)
class Selector:
    """A selector as read. `condition` is on `Device`, `sure` and `never` follow from it (`clauses.py`); `whole`: that
    is all it says. `groups` are the groups it names, or begins of names with `*`, and where."""

    condition: ColumnElement[bool] = field(default_factory=true)
    sure: tuple[Clause, ...] = ()
    never: tuple[Clause, ...] = ()
    whole: bool = False
    groups: Mapping[str, int] = field(default_factory=dict)

    def names_group(self, name: str) -> bool:
        """Whether what it selects depends on who is in this group."""
        return any(value == name or (value.endswith("*") and name.startswith(value[:-1])) for value in self.groups)


def read_selector(session: Session, project_id: int, where: str) -> Selector:
    """The selector, whose groups exist. Raises SelectorError with the position of the mistake."""
    selector = parse_selector(where)
    exact = {name: position for name, position in selector.groups.items() if name and not name.endswith("*")}
    if exact:
        query = select(DeviceGroup.name).where(DeviceGroup.project_id == project_id, col(DeviceGroup.name).in_(exact))
        for name in sorted(exact.keys() - set(session.exec(query)), key=exact.__getitem__):
            raise SelectorError(
                f"selector, character {exact[name] + 1}: no group {name!r}",
                next="see the groups with `fleetctl group list`; a tag of that name is tag.group",
                position=exact[name],
            )
    return selector


def compile_selector(where: str) -> ColumnElement[bool]:
    """The selector as an SQL condition on `Device`; a group that is not there has no members. Raises SelectorError."""
    return parse_selector(where).condition


def parse_selector(where: str) -> Selector:
    """What the text says, without a look at the database. Raises SelectorError with the position of the mistake."""
    if len(where) > MAX_LENGTH:
        raise SelectorError(f"a selector of {len(where)} characters", next=f"use at most {MAX_LENGTH}", position=0)
    if not where.strip():
        return Selector(whole=True)
    parser = _Parser(list(_tokens(where)))
    found = parser.selector(0)
    parser.expect_end()
    return Selector(found.exact, found.sure, found.never, found.whole, parser.groups)


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    end = len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise _mistake(f"cannot read {text[position:].strip()[:20]!r}", position)
        kind = match.lastgroup or ""
        yield _Token("value" if kind == "quoted" else kind, match.group(kind), match.start(kind))
        position = match.end()
    yield _Token("end", "", end)


class _Parser:
    """Recursive descent, one method per rule of the grammar."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._tests = 0
        self.groups: dict[str, int] = {}

    def selector(self, depth: int) -> _Condition:
        if depth > MAX_DEPTH:
            raise _mistake(f"nested more than {MAX_DEPTH} deep", self._next.position)
        parts = [self._all_of(depth)]
        while self._take_word("or"):
            parts.append(self._all_of(depth))
        return _any(parts)

    def expect_end(self) -> None:
        if self._next.kind != "end":
            raise _mistake(f"expected and, or or the end, not {self._next.text!r}", self._next.position)

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _all_of(self, depth: int) -> _Condition:
        parts = [self._test(depth)]
        while self._take_word("and"):
            parts.append(self._test(depth))
        sure = tuple(dict.fromkeys(clause for part in parts for clause in part.sure))
        never = tuple(dict.fromkeys(clause for part in parts for clause in part.never))
        whole = all(part.whole for part in parts) and max(len(sure), len(never)) <= MAX_CLAUSES
        return _Condition(and_(*(part.exact for part in parts)), sure[:MAX_CLAUSES], never[:MAX_CLAUSES], whole)

    def _test(self, depth: int) -> _Condition:
        if self._take_word("not"):
            if depth > MAX_DEPTH:
                raise _mistake(f"nested more than {MAX_DEPTH} deep", self._next.position)
            return _not(self._test(depth + 1))
        if self._take_mark("("):
            inner = self.selector(depth + 1)
            self._expect_mark(")")
            return inner
        return self._comparison()

    def _comparison(self) -> _Condition:
        self._tests += 1
        if self._tests > MAX_TESTS:
            raise _mistake(f"more than {MAX_TESTS} comparisons", self._next.position)
        key = self._key()
        if self._take_mark("="):
            return self._equals(key)
        if self._take_mark("!="):
            return _not(self._equals(key))
        negated = self._take_word("not")
        if not self._take_word("in"):
            raise _mistake("expected =, !=, in or not in", self._next.position)
        found = self._any_of(key)
        return _not(found) if negated else found

    def _key(self) -> str:
        token = self._next
        if token.kind != "word" or token.text.lower() in _WORDS or not _KEY.fullmatch(token.text):
            raise _mistake(f"expected class, id, state, image, group or a tag, not {token.text!r}", token.position)
        self._at += 1
        return token.text

    def _equals(self, key: str) -> _Condition:
        """That the key has the value that comes now."""
        position = self._next.position
        value = self._value()
        if key == GROUP:
            self.groups.setdefault(value, position)
            exact = _in_group(value)
        elif key in COLUMNS:
            exact = _equals(col(COLUMNS[key]), value)
        else:
            exact = _equals(_present(col(Device.tags)[key.removeprefix("tag.")].as_string()), value)
        told = value and (not value.endswith("*") or (key == "id" and value != "*"))
        return _Condition(exact, ((Has(key, value),),), whole=True) if told else _Condition(exact)

    def _any_of(self, key: str) -> _Condition:
        """That the key has one of the values that come now in parentheses."""
        self._expect_mark("(")
        tests: list[_Condition] = []
        ids: list[str] = []
        while not tests or self._take_mark(","):
            ids.append(self._next.text)
            tests.append(self._equals(key))
        self._expect_mark(")")
        found = _any(tests)
        listed = key == "id" and not any(value.endswith("*") for value in ids)
        return replace(found, exact=col(Device.id).in_(ids)) if listed else found  # as a list, so that an index serves

    def _value(self) -> str:
        token = self._next
        if token.kind not in {"word", "value"}:
            raise _mistake("expected a value", token.position)
        self._at += 1
        return token.text

    def _take_word(self, word: str) -> bool:
        return self._take(self._next.kind == "word" and self._next.text.lower() == word)

    def _take_mark(self, mark: str) -> bool:
        return self._take(self._next.kind == "mark" and self._next.text == mark)

    def _expect_mark(self, mark: str) -> None:
        if not self._take_mark(mark):
            raise _mistake(f"expected {mark}", self._next.position)

    def _take(self, there: bool) -> bool:
        self._at += there
        return there


def _any(parts: Sequence[_Condition]) -> _Condition:
    """One of the parts holds. Sure is then, of any clause of each, one; of many such combinations some do."""
    if len(parts) == 1:
        return parts[0]
    combined = islice(product(*(part.sure for part in parts)), MAX_CLAUSES)
    clauses = (tuple(dict.fromkeys(has for clause in clauses for has in clause)) for clauses in combined)
    whole = all(part.whole and not part.never for part in parts)
    whole = whole and prod(len(part.sure) for part in parts) <= MAX_CLAUSES
    return _Condition(or_(*(part.exact for part in parts)), tuple(dict.fromkeys(clauses)), whole=whole)


def _not(part: _Condition) -> _Condition:
    """The part does not hold: of one clause that is all of it, a device has none where it had one, and one for none."""
    swapped = part.whole and len(part.sure) + len(part.never) == 1
    return _Condition(not_(part.exact), part.never, part.sure, True) if swapped else _Condition(not_(part.exact))


def _present(column: SQLCoreOperations[Any]) -> ColumnElement[str]:
    """A missing tag as the empty text: with NULL, SQL would drop the device from `!=` as well."""
    return func.coalesce(column, "")


def _equals(column: Any, value: str) -> ColumnElement[bool]:
    test: ColumnElement[bool] = (
        column.startswith(value[:-1], autoescape=True) if value.endswith("*") else column == value
    )
    if column is not col(Device.active_image):
        return test
    none = col(Device.active_image).is_(None)  # told apart, so that an index serves
    return or_(none, test) if value in ("", "*") else and_(not_(none), test)


def _in_group(value: str) -> ColumnElement[bool]:
    """Member of a group of that name; the empty value is that of a device in no group."""
    member = select(literal(1)).select_from(GroupMember).where(col(GroupMember.device_id) == col(Device.id))
    if value in ("", "*"):
        return true() if value else not_(member.exists())
    named = select(DeviceGroup.id).where(
        col(DeviceGroup.project_id) == col(Device.project_id), _equals(col(DeviceGroup.name), value)
    )
    named = named.correlate(Device)  # two selects deep, it would read every device otherwise
    return member.where(col(GroupMember.group_id).in_(named)).exists()


def tag_selector(name: str, value: str) -> str:
    """The selector of devices with this tag."""
    prefix = "tag." if name in {*COLUMNS, *_WORDS, GROUP} or name.startswith("tag.") else ""
    return f"{prefix}{name}={value}" if _PLAIN.fullmatch(value) else f'{prefix}{name}="{value}"'


def group_selector(name: str) -> str:
    """The selector of the devices in this group."""
    return f"{GROUP}={name}"


def _mistake(problem: str, position: int) -> SelectorError:
    return SelectorError(
        f"selector, character {position + 1}: {problem}",
        next="write for example: class=cortex-m4 and site in (lyon, oslo)",
        position=position,
    )
