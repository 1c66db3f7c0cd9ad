"""What indexes tell of a selector, as SQL: which devices fulfil a clause, how many, and whether one does.

Ids come out of indexes alone. None is NULL, and each query is about a `Span` of ids, so that it costs what is in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, func, or_, union_all
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from tinyfleet_service.database.models import Device, DeviceGroup, DeviceTag, FleetCount, GroupMember
from tinyfleet_service.devices.selectors import COLUMNS, GROUP, Clause

FEW_VALUES = 4
"""Of no more values a look-up asks one after the other."""
_LAST = "\x7f"
_DEVICE = aliased(Device)
"""Devices as an index knows them, beside `Device` itself. Made once: it takes as long as a query."""


class Span(NamedTuple):
    """Ids behind `after`, up to and with `end`; to the last where it is None."""

    after: str
    end: str | None = None

    def of(self, column: Any) -> list[ColumnElement[bool]]:
        """That an id is in the span."""
        return [column > self.after, *([] if self.end is None else [column <= self.end])]


@dataclass(frozen=True)
class Fleet:
    """The devices of a project, as indexes know them. `byte_order`: the database orders text by its bytes."""

    project_id: int
    byte_order: bool

    def ids_with(self, clause: Clause, span: Span) -> Any:
        """A query for the ids in the span that fulfil a clause, each once."""
        leaves = self._leaves(clause)
        if all(has.name == "id" and not has.value.endswith("*") for has in clause):
            (named,) = leaves  # the span by no index: SQLite would rather walk through it than read a list
            return named.where(*span.of(_id_of(named).concat("")))
        leaves = [leaf.where(*span.of(_id_of(leaf))) for leaf in leaves]
        if len(clause) == 1:
            return leaves[0]
        return select(*union_all(*leaves).subquery().columns).distinct()

    def fulfils(self, clause: Clause, device_id: Any, span: Span) -> ColumnElement[bool]:
        """Whether a device in the span fulfils a clause; the database may walk through those that do, side by side."""
        leaves = self._leaves(clause)
        return or_(*(leaf.where(_id_of(leaf) == device_id, *span.of(_id_of(leaf))).exists() for leaf in leaves))

    def looked_up(self, clause: Clause, device_id: Any) -> ColumnElement[bool]:
        """As `fulfils`, for one device at a time: no database makes a join of a scalar.

        Asked for an equal id, it would go by the key of the row and read the whole device for its class; asked for a
        range of one, by the index of class and id, once for each value.
        """
        few = len(clause) <= FEW_VALUES
        return or_(*(_found(leaf, device_id, few=few) for leaf in self._leaves(clause)))

    def count(self, session: Session, clause: Clause, at_most: int) -> int:
        """About how many devices fulfil a clause: by kept counts, else by rows; of `at_most` or more, all might."""
        return sum(self._count(session, name, values, at_most) for name, values in _by_name(clause).items())

    def _count(self, session: Session, name: str, values: list[str], at_most: int) -> int:
        if name in COLUMNS and name != "id":
            total = select(func.sum(FleetCount.change)).where(FleetCount.project_id == self.project_id)
            total = total.where(FleetCount.kind == name, col(FleetCount.key).in_(values))
            return int(session.exec(total).one() or 0)
        if name == GROUP:
            total = select(func.sum(DeviceGroup.devices)).where(DeviceGroup.project_id == self.project_id)
            return int(session.exec(total.where(col(DeviceGroup.name).in_(values))).one() or 0)
        some = self._ids(name, values).limit(at_most).subquery()
        counted = session.exec(select(func.count()).select_from(some)).one()
        return counted if counted < at_most else self._devices(session)

    def _devices(self, session: Session) -> int:
        total = select(func.sum(FleetCount.change)).where(FleetCount.project_id == self.project_id)
        return int(session.exec(total.where(FleetCount.kind == "class")).one() or 0)

    def _leaves(self, clause: Clause) -> list[Any]:
        """Ids with one of these, a query for each name."""
        return [self._ids(name, values) for name, values in _by_name(clause).items()]

    def _ids(self, name: str, values: list[str]) -> Any:
        if name in COLUMNS:
            return self._ids_by_column(name, values)
        if name == GROUP:
            return self._members(values)
        tagged = select(DeviceTag.device_id).where(DeviceTag.project_id == self.project_id)
        return tagged.where(DeviceTag.name == name.removeprefix("tag."), _is(col(DeviceTag.value), values))

    def _ids_by_column(self, name: str, values: list[str]) -> Any:
        column: Any = {"class": _DEVICE.device_class, "state": _DEVICE.state, "image": _DEVICE.active_image}.get(name)
        is_one = _is(column, values) if name != "id" else self._is_id(_DEVICE.id, values)
        return select(_DEVICE.id).where(_DEVICE.project_id == self.project_id, is_one)

    def _is_id(self, column: Any, values: list[str]) -> ColumnElement[bool]:
        """That an id is one of these, a list that an index serves, or begins as one that ends with `*`."""
        exact = [value for value in values if not value.endswith("*")]
        beginnings = [self._begins(column, value[:-1]) for value in values if value.endswith("*")]
        return or_(*([_is(column, exact)] if exact else []), *beginnings)

    def _begins(self, column: Any, beginning: str) -> ColumnElement[bool]:
        begins: ColumnElement[bool] = column.startswith(beginning, autoescape=True)
        if not self.byte_order:
            return begins
        return and_(begins, column.between(beginning, beginning + _LAST))  # as no database infers from all patterns

    def _members(self, names: list[str]) -> Any:
        named = select(DeviceGroup.id).where(
            DeviceGroup.project_id == self.project_id, col(DeviceGroup.name).in_(names)
        )
        member = select(GroupMember.device_id)
        if len(names) == 1:
            return member.where(GroupMember.group_id == named.scalar_subquery())  # one: read by key
        return member.where(col(GroupMember.group_id).in_(named))


def fleet_of(session: Session, project_id: int) -> Fleet:
    """The fleet of a project."""
    upper_first = session.connection().exec_driver_sql("SELECT 'B' < 'a'").scalar_one()  # as in no language
    return Fleet(project_id, bool(upper_first))


def _by_name(clause: Clause) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for has in clause:
        names.setdefault(has.name, []).append(has.value)
    return names


def _id_of(leaf: Any) -> Any:
    (column,) = leaf.selected_columns
    return column


def _found(leaf: Any, device_id: Any, *, few: bool) -> ColumnElement[bool]:
    column = _id_of(leaf)
    same = column.between(device_id, device_id) if few else column == device_id
    there: ColumnElement[bool] = leaf.where(same).limit(1).scalar_subquery().is_not(None)
    return there


def _is(column: Any, values: list[str]) -> ColumnElement[bool]:
    is_one: ColumnElement[bool] = column == values[0] if len(values) == 1 else column.in_(values)
    return is_one
