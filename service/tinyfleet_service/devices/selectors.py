"""Device selectors: one grammar for API, CLI and dashboard, compiled to SQL.

    selector = all_of ("or" all_of)*
    all_of   = test ("and" test)*                 "and" binds closer than "or"
    test     = "not" test | "(" selector ")" | key ("=" | "!=") value | key ["not"] "in" "(" value ("," value)* ")"
    key      = class | id | state | image | a tag's name | "tag." a tag's name
    value    = letters, digits and _ . : / * - ; anything else in "double quotes"

`class=cortex-m4 and site=lyon`, `not (site in (lyon, oslo)) or id=m4-abcd2345`. A missing tag equals no value, so
`site!=lyon` holds for devices without a site. `image` is the first digits of the active image's id: `image=3fa9*` or
all 32; `*` at a value's end matches any ending. Words are case-sensitive, but and/or/not/in may be written in capitals.
An empty selector selects every device.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, func, not_, or_, true
from sqlalchemy.sql.elements import SQLCoreOperations
from sqlmodel import Session, col, select

from tinyfleet_service.database.models import Device, DeviceTag
from tinyfleet_service.errors import SelectorError

MAX_LENGTH = 1000
MAX_DEPTH = 20
MAX_TESTS = 100
RARE = 5000
_TOKEN = re.compile(r"\s*(?:(?P<mark>!=|[=(),])|\"(?P<quoted>[^\"]*)\"|(?P<word>[A-Za-z0-9_.:/*-]+))")
_KEY = re.compile(r"[a-z][a-z0-9_.-]{0,35}")
_COLUMNS = {"class": Device.device_class, "id": Device.id, "state": Device.state, "image": Device.active_image}
_WORDS = {"and", "or", "not", "in"}


@dataclass(frozen=True)
class _Token:
    kind: str  # mark, word, value (quoted), end
    text: str
    position: int


def select_devices(
    session: Session, where: str = "", *, project_id: int, after: str = "", limit: int | None = None
) -> list[Device]:
    """Devices of the project that `where` selects, ordered by id, those behind `after`. Raises SelectorError.

    A page costs what it shows: where a tag of the selector is rare, its rows are read instead of all devices.
    """
    condition, tags = _compiled(where)
    query = select(Device).where(Device.project_id == project_id, col(Device.id) > after, condition)
    if (rare := _rarest(session, project_id, tags)) is not None:
        query = query.where(col(Device.id).in_(rare))
    return list(session.exec(query.order_by(col(Device.id)).limit(limit)))


def _rarest(session: Session, project_id: int, tags: Iterable[tuple[str, str]]) -> Any:
    """The ids with the rarest of `tags`, as a query; None when all are common: then a page fills soon anyway."""
    fewest, found = RARE, None
    for name, value in tags:
        query = select(DeviceTag.device_id).where(
            DeviceTag.project_id == project_id, DeviceTag.name == name, DeviceTag.value == value
        )
        number = session.exec(select(func.count()).select_from(query.limit(RARE).subquery())).one()
        if number < fewest:
            fewest, found = number, query
    return found


def compile_selector(where: str) -> ColumnElement[bool]:
    """The selector as an SQL condition on `Device`. Raises SelectorError with the position of the mistake."""
    return _compiled(where)[0]


def _compiled(where: str) -> tuple[ColumnElement[bool], list[tuple[str, str]]]:
    """The condition, and the tags (name, value) that every selected device surely has."""
    if len(where) > MAX_LENGTH:
        raise SelectorError(f"a selector of {len(where)} characters", next=f"use at most {MAX_LENGTH}", position=0)
    if not where.strip():
        return true(), []
    parser = _Parser(list(_tokens(where)))
    condition = parser.selector(0)
    parser.expect_end()
    return condition, parser.tags


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
        self.tags: list[tuple[str, str]] = []
        """Tags that every selected device has: those asked for with = on the outermost level, without "or"."""

    def selector(self, depth: int) -> ColumnElement[bool]:
        if depth > MAX_DEPTH:
            raise _mistake(f"nested more than {MAX_DEPTH} deep", self._next.position)
        parts = [self._all_of(depth)]
        while self._take_word("or"):
            parts.append(self._all_of(depth))
        if len(parts) > 1 and depth == 0:
            self.tags.clear()
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
        column, tag = self._column()
        if self._take_mark("="):
            value = self._value()
            if tag and self._shallow and value and not value.endswith("*"):
                self.tags.append((tag, value))
            return _equals(column, value)
        if self._take_mark("!="):
            return not_(_equals(column, self._value()))
        negated = self._take_word("not")
        if not self._take_word("in"):
            raise _mistake("expected =, !=, in or not in", self._next.position)
        condition = or_(*(_equals(column, value) for value in self._values()))
        return not_(condition) if negated else condition

    def _column(self) -> tuple[Any, str]:
        """The column, and the tag's name where it is one."""
        token = self._next
        if token.kind != "word" or token.text.lower() in _WORDS or not _KEY.fullmatch(token.text):
            raise _mistake(f"expected class, id, state, image or a tag, not {token.text!r}", token.position)
        self._at += 1
        if token.text in _COLUMNS:
            return col(_COLUMNS[token.text]), ""
        tag = token.text.removeprefix("tag.")
        return _present(col(Device.tags)[tag].as_string()), tag

    def _values(self) -> list[str]:
        self._expect_mark("(")
        values = [self._value()]
        while self._take_mark(","):
            values.append(self._value())
        self._expect_mark(")")
        return values

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


def _mistake(problem: str, position: int) -> SelectorError:
    return SelectorError(
        f"selector, character {position + 1}: {problem}",
        next="write for example: class=cortex-m4 and site in (lyon, oslo)",
        position=position,
    )
