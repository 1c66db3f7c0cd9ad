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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, literal, not_, or_, true
from sqlalchemy.sql.elements import SQLCoreOperations
from sqlmodel import Session, col, select

from tinyfleet_service.database.models import Device, DeviceGroup, DeviceTag, GroupMember
from tinyfleet_service.errors import SelectorError

MAX_LENGTH = 1000
MAX_DEPTH = 20
MAX_TESTS = 100
RARE = 20_000
AT_ONCE = 500
_TOKEN = re.compile(r"\s*(?:(?P<mark>!=|[=(),])|\"(?P<quoted>[^\"\0]*)\"|(?P<word>[A-Za-z0-9_.:/*-]+))")
_KEY = re.compile(r"[a-z][a-z0-9_.-]{0,35}")
_PLAIN = re.compile(r"[A-Za-z0-9_.:/-]+")
_COLUMNS = {"class": Device.device_class, "id": Device.id, "state": Device.state, "image": Device.active_image}
_GROUP = "group"
_WORDS = {"and", "or", "not", "in"}


@dataclass(frozen=True)
class _Token:
    kind: str  # mark, word, value (quoted), end
    text: str
    position: int


@dataclass(frozen=True)
class Selector:
    """A selector as read. `condition` is on `Device`; `sure` are the tags (name, value) and groups ("group", name) that
    every selected device has; `groups` are the groups it names, or begins of names with `*`, and where."""

    condition: ColumnElement[bool] = field(default_factory=true)
    sure: tuple[tuple[str, str], ...] = ()
    groups: Mapping[str, int] = field(default_factory=dict)

    def names_group(self, name: str) -> bool:
        """Whether what it selects depends on who is in this group."""
        return any(value == name or (value.endswith("*") and name.startswith(value[:-1])) for value in self.groups)


def select_devices(
    session: Session, where: str = "", *, project_id: int, after: str = "", limit: int | None = None
) -> list[Device]:
    """Devices of the project that `where` selects, ordered by id, those behind `after`. Raises SelectorError.

    A page costs what it shows: where a tag or group of the selector is rare, its rows are read instead of all devices.
    """
    return _page(session, select(Device), where, project_id, after, limit)


def select_ids(
    session: Session, where: str, *, project_id: int, after: str = "", limit: int, member_of: int | None = None
) -> list[str]:
    """`select_devices`, the ids alone; with `member_of` only those in that group."""
    query = select(Device.id)
    if member_of is not None:
        query = query.where(col(Device.id).in_(select(GroupMember.device_id).where(GroupMember.group_id == member_of)))
    return _page(session, query, where, project_id, after, limit)


def _page(session: Session, query: Any, where: str, project_id: int, after: str, limit: int | None) -> list[Any]:
    """Rows of `query`. Ids with something rare are named to the database some at a time: given a query for them, it
    would rather walk through all devices in their order.
    """
    selector = read_selector(session, project_id, where)
    query = query.where(Device.project_id == project_id, selector.condition).order_by(col(Device.id))
    rare = _rarest(session, project_id, selector.sure)
    if rare is None:
        behind = query.where(col(Device.id) > after) if after else query  # it would hide `id in (...)` from SQLite
        return list(session.exec(behind.limit(limit)))
    found: list[Any] = []
    for ids in _in_order(session, rare, after):
        left = None if limit is None else limit - len(found)
        found += session.exec(query.where(col(Device.id).in_(ids)).limit(left))
        if left is not None and len(found) == limit:
            break
    return found


def _in_order(session: Session, ids: Any, after: str) -> Iterator[list[str]]:
    """The ids behind `after`, ascending, some at a time."""
    (column,) = ids.selected_columns
    while part := list(session.exec(ids.where(column > after).order_by(column).limit(AT_ONCE))):
        yield part
        after = part[-1]


def _rarest(session: Session, project_id: int, sure: Iterable[tuple[str, str]]) -> Select[Any] | None:
    """The ids with the rarest of `sure`, as a query; None when all are common: then a page fills soon anyway."""
    fewest, found = RARE, None
    for name, value in sure:
        query = _ids_with(project_id, name, value)
        number = session.exec(select(func.count()).select_from(query.limit(RARE).subquery())).one()
        if number < fewest:
            fewest, found = number, query
    return found


def _ids_with(project_id: int, name: str, value: str) -> Any:
    if name == _GROUP:
        named = select(DeviceGroup.id).where(DeviceGroup.project_id == project_id, DeviceGroup.name == value)
        return select(GroupMember.device_id).where(GroupMember.group_id == named.scalar_subquery())  # one: read by key
    return select(DeviceTag.device_id).where(
        DeviceTag.project_id == project_id, DeviceTag.name == name.removeprefix("tag."), DeviceTag.value == value
    )


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
        return Selector()
    parser = _Parser(list(_tokens(where)))
    condition = parser.selector(0)
    parser.expect_end()
    return Selector(condition, tuple(parser.sure), parser.groups)


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
        self._shallow = True  # outside of "not" and parentheses
        self.groups: dict[str, int] = {}
        self.sure: list[tuple[str, str]] = []
        """What every selected device has: tags and groups asked for with = on the outermost level, without "or"."""

    def selector(self, depth: int) -> ColumnElement[bool]:
        if depth > MAX_DEPTH:
            raise _mistake(f"nested more than {MAX_DEPTH} deep", self._next.position)
        parts = [self._all_of(depth)]
        while self._take_word("or"):
            parts.append(self._all_of(depth))
        if len(parts) > 1 and depth == 0:
            self.sure.clear()
        return or_(*parts)

    def expect_end(self) -> None:
        if self._next.kind != "end":
            raise _mistake(f"expected and, or or the end, not {self._next.text!r}", self._next.position)

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _all_of(self, depth: int) -> ColumnElement[bool]:
        parts = [self._test(depth)]
        while self._take_word("and"):
            parts.append(self._test(depth))
        return and_(*parts)

    def _test(self, depth: int) -> ColumnElement[bool]:
        if self._take_word("not"):
            if depth > MAX_DEPTH:
                raise _mistake(f"nested more than {MAX_DEPTH} deep", self._next.position)
            return not_(self._inner(lambda: self._test(depth + 1)))
        if self._take_mark("("):
            inner = self._inner(lambda: self.selector(depth + 1))
            self._expect_mark(")")
            return inner
        return self._comparison()

    def _inner(self, parse: Callable[[], ColumnElement[bool]]) -> ColumnElement[bool]:
        shallow, self._shallow = self._shallow, False
        try:
            return parse()
        finally:
            self._shallow = shallow

    def _comparison(self) -> ColumnElement[bool]:
        self._tests += 1
        if self._tests > MAX_TESTS:
            raise _mistake(f"more than {MAX_TESTS} comparisons", self._next.position)
        key = self._key()
        if self._take_mark("="):
            value = self._next.text
            condition = self._equals(key)
            if key not in _COLUMNS and self._shallow and value and not value.endswith("*"):
                self.sure.append((key, value))
            return condition
        if self._take_mark("!="):
            return not_(self._equals(key))
        negated = self._take_word("not")
        if not self._take_word("in"):
            raise _mistake("expected =, !=, in or not in", self._next.position)
        condition = self._any_of(key)
        return not_(condition) if negated else condition

    def _key(self) -> str:
        token = self._next
        if token.kind != "word" or token.text.lower() in _WORDS or not _KEY.fullmatch(token.text):
            raise _mistake(f"expected class, id, state, image, group or a tag, not {token.text!r}", token.position)
        self._at += 1
        return token.text

    def _equals(self, key: str) -> ColumnElement[bool]:
        """That the key has the value that comes now."""
        position = self._next.position
        value = self._value()
        if key == _GROUP:
            self.groups.setdefault(value, position)
            return _in_group(value)
        if key in _COLUMNS:
            return _equals(col(_COLUMNS[key]), value)
        return _equals(_present(col(Device.tags)[key.removeprefix("tag.")].as_string()), value)

    def _any_of(self, key: str) -> ColumnElement[bool]:
        """That the key has one of the values that come now in parentheses."""
        self._expect_mark("(")
        tests: list[ColumnElement[bool]] = []
        ids: list[str] = []
        while not tests or self._take_mark(","):
            ids.append(self._next.text)
            tests.append(self._equals(key))
        self._expect_mark(")")
        exact = key == "id" and not any(value.endswith("*") for value in ids)
        return col(Device.id).in_(ids) if exact else or_(*tests)  # as a list, so that an index serves

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
    prefix = "tag." if name in {*_COLUMNS, *_WORDS, _GROUP} or name.startswith("tag.") else ""
    return f"{prefix}{name}={value}" if _PLAIN.fullmatch(value) else f'{prefix}{name}="{value}"'


def group_selector(name: str) -> str:
    """The selector of the devices in this group."""
    return f"{_GROUP}={name}"


def _mistake(problem: str, position: int) -> SelectorError:
    return SelectorError(
        f"selector, character {position + 1}: {problem}",
        next="write for example: class=cortex-m4 and site in (lyon, oslo)",
        position=position,
    )
