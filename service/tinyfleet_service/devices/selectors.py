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
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

from sqlalchemy import ColumnElement, and_, case, false, func, literal, not_, or_, true, union_all
from sqlalchemy import select as select_columns
from sqlalchemy.sql.elements import SQLCoreOperations
from sqlmodel import Session, col, select

from tinyfleet_service.database.models import Device, DeviceGroup, DeviceTag, GroupMember
from tinyfleet_service.errors import SelectorError

MAX_LENGTH = 1000
MAX_DEPTH = 20
MAX_TESTS = 100
MAX_CLAUSES = 8
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


@dataclass(frozen=True, order=True)
class _Has:
    """That a device has this tag or, as `group`, is in this group."""

    name: str
    value: str


_Clauses = tuple[tuple[_Has, ...], ...]
"""Of each clause, every selected device has at least one."""


@dataclass(frozen=True)
class _Condition:
    """A part of a selector: exactly, on `Device`, and what follows from it that rows of tags and groups can tell."""

    exact: ColumnElement[bool] = field(default_factory=true)
    sure: _Clauses = ()


@dataclass(frozen=True)
class Selector:
    """A selector as read. `condition` is on `Device`, `sure` follows from it (`_find_rare`); `groups` are the groups it
    names, or begins of names with `*`, and where."""

    condition: ColumnElement[bool] = field(default_factory=true)
    sure: _Clauses = ()
    groups: Mapping[str, int] = field(default_factory=dict)

    def names_group(self, name: str) -> bool:
        """Whether what it selects depends on who is in this group."""
        return any(value == name or (value.endswith("*") and name.startswith(value[:-1])) for value in self.groups)


def select_devices(
    session: Session, where: str = "", *, project_id: int, after: str = "", limit: int | None = None
) -> list[Device]:
    """Devices of the project that `where` selects, ordered by id, those behind `after`. Raises SelectorError.

    A page costs what it shows: where few devices have the tags or groups that it asks for, the rows of those are read
    instead of all devices.
    """
    return _page(session, select(Device), where, project_id, after, limit)


def select_ids(
    session: Session, where: str, *, project_id: int, after: str = "", limit: int, member_of: int | None = None
) -> list[str]:
    """`select_devices`, the ids alone; with `member_of` only those in that group."""
    member = select(literal(1)).where(GroupMember.device_id == Device.id, GroupMember.group_id == member_of).exists()
    return _page(session, select(Device.id), where, project_id, after, limit, true() if member_of is None else member)


def _page(
    session: Session, query: Any, where: str, project_id: int, after: str, limit: int | None, also: Any = None
) -> list[Any]:
    """Rows of `query`. Ids that were found among rare ones are named to the database some at a time: given a query for
    them, it would rather walk through all devices in their order.
    """
    selector = read_selector(session, project_id, where)
    condition = and_(col(Device.project_id) == project_id, selector.condition, true() if also is None else also)
    query = query.order_by(col(Device.id))
    rare = _find_rare(session, project_id, selector.sure)
    if rare is None:
        behind = query.where(col(Device.id) > after) if after else query
        return list(session.exec(behind.where(condition).limit(limit)))
    ids = session.exec(_selected(rare, project_id, selector.sure, condition, after).limit(limit)).all()
    found: list[Any] = []
    for at in range(0, len(ids), AT_ONCE):
        found += session.exec(query.where(col(Device.id).in_(ids[at : at + AT_ONCE])))
    return found


def _selected(
    rare: tuple[_Has, ...], project_id: int, sure: _Clauses, condition: ColumnElement[bool], after: str
) -> Any:
    """Ids of the devices that have something rare and are selected, ascending.

    The rows of other tags and groups are asked first (a `case` has an order), as most have to go; a device is read only
    for those that stay, one by one as the scalar says: as a join it would be a walk through all devices again.
    """
    leaves = _leaves(project_id, rare)
    single = len(rare) == 1
    some = (leaves[0] if single else select(union_all(*leaves).subquery().c.device_id).distinct()).subquery()
    column = some.c.device_id
    others = (or_(*(_has(leaf, column) for leaf in _leaves(project_id, c))) for c in sure if c is not rare)
    exactly = select(condition).where(col(Device.id) == column).correlate(some).scalar_subquery()
    wanted = case((and_(true(), *others), exactly), else_=false())
    return select(column).where(column > after, wanted).order_by(column)


def _has(leaf: Any, device_id: Any) -> ColumnElement[bool]:
    (column,) = leaf.selected_columns
    there: ColumnElement[bool] = leaf.where(column == device_id).exists()
    return there


def _find_rare(session: Session, project_id: int, sure: _Clauses) -> tuple[_Has, ...] | None:
    """The clause that the fewest devices fulfil; None when all are common: then a page fills soon anyway."""
    fewest, found = RARE, None
    for clause in sure:
        some = union_all(*_leaves(project_id, clause)).subquery()
        number = session.exec(select(func.count()).select_from(select_columns(some).limit(RARE).subquery())).one()
        if number < fewest:
            fewest, found = number, clause
    return found


def _leaves(project_id: int, clause: tuple[_Has, ...]) -> list[Any]:
    """Ids with one of these, a query for each name; none is NULL."""
    names: dict[str, list[str]] = {}
    for has in clause:
        names.setdefault(has.name, []).append(has.value)
    return [_ids_with(project_id, name, values) for name, values in names.items()]


def _ids_with(project_id: int, name: str, values: list[str]) -> Any:
    if name == _GROUP:
        named = select(DeviceGroup.id).where(DeviceGroup.project_id == project_id, col(DeviceGroup.name).in_(values))
        member = select(GroupMember.device_id)
        if len(values) == 1:
            return member.where(GroupMember.group_id == named.scalar_subquery())  # one: read by key
        return member.where(col(GroupMember.group_id).in_(named))
    return select(DeviceTag.device_id).where(
        DeviceTag.project_id == project_id,
        DeviceTag.name == name.removeprefix("tag."),
        col(DeviceTag.value).in_(values) if len(values) > 1 else DeviceTag.value == values[0],
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
    found = parser.selector(0)
    parser.expect_end()
    return Selector(found.exact, found.sure, parser.groups)


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
        sure = dict.fromkeys(clause for part in parts for clause in part.sure)
        return _Condition(and_(*(part.exact for part in parts)), tuple(sure)[:MAX_CLAUSES])

    def _test(self, depth: int) -> _Condition:
        if self._take_word("not"):
            if depth > MAX_DEPTH:
                raise _mistake(f"nested more than {MAX_DEPTH} deep", self._next.position)
            return _Condition(not_(self._test(depth + 1).exact))
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
            return _Condition(not_(self._equals(key).exact))
        negated = self._take_word("not")
        if not self._take_word("in"):
            raise _mistake("expected =, !=, in or not in", self._next.position)
        found = self._any_of(key)
        return _Condition(not_(found.exact)) if negated else found

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
        if key in _COLUMNS:
            return _Condition(_equals(col(_COLUMNS[key]), value))
        sure = ((_Has(key, value),),) if value and not value.endswith("*") else ()
        if key == _GROUP:
            self.groups.setdefault(value, position)
            return _Condition(_in_group(value), sure)
        tag = col(Device.tags)[key.removeprefix("tag.")].as_string()
        return _Condition(_equals(_present(tag), value), sure)

    def _any_of(self, key: str) -> _Condition:
        """That the key has one of the values that come now in parentheses."""
        self._expect_mark("(")
        tests: list[_Condition] = []
        ids: list[str] = []
        while not tests or self._take_mark(","):
            ids.append(self._next.text)
            tests.append(self._equals(key))
        self._expect_mark(")")
        exact = key == "id" and not any(value.endswith("*") for value in ids)
        return _Condition(col(Device.id).in_(ids)) if exact else _any(tests)  # as a list, so that an index serves

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
    return _Condition(or_(*(part.exact for part in parts)), tuple(dict.fromkeys(clauses)))


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
