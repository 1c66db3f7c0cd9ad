"""Pages of the devices that a selector matches, found in indexes, in a bounded time however few match.

Rules
 1. Devices come by id. A walk follows candidates: the ids of the condition that the fewest devices fulfil, or of all
    devices. The other conditions are asked of each; the device itself is read only for what no index tells.
 2. It goes window by window: some candidates behind the last one looked at. Every condition is asked about that span
    of ids alone, so that a window costs what is in it; the next is as large as fits the time that is left, at most
    twice as large. Where a candidate needs no question there is one window, as wide as the page.
 3. Before `LOOK_S` is over a page is answered as it is, with the id to go on from, even if nothing was found yet. So
    it costs about the same where half a million devices have one tag, half a million another, and none has both.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, case, false, literal, not_, true
from sqlmodel import Session, col, select

from tinyfleet_service.database.models import Device, GroupMember
from tinyfleet_service.devices.clauses import FEW_VALUES, Fleet, Span, fleet_of
from tinyfleet_service.devices.selectors import Clause, Selector, read_selector

LOOK_S = 0.04
FIRST_WINDOW = 6000
"""Candidates of the first window and look-ups of them, a value each."""
FIRST_READ = 1000
"""Candidates of the first window where devices have to be read."""
LARGEST_WINDOW = 64_000
RARE = 10_000
"""Fewer candidates than this are sorted where they do not come by id; of a tag no more are counted: from there on all
devices might have it."""
MUCH_MORE = 10
"""Times the candidates: more devices are looked up, as a walk through them beside the candidates would cost more."""
AT_ONCE = 500


class Page(NamedTuple):
    """Devices, or their ids, and `after` of the next page, None at the end: where it is not, there may still be fewer
    than were asked for, or none."""

    found: list[Any]
    next: str | None


def page_of_devices(session: Session, where: str = "", *, project_id: int, after: str = "", limit: int) -> Page:
    """Devices of the project that `where` selects, ordered by id, those behind `after`. Raises SelectorError."""
    page = _walk(session, where, project_id).page(after, limit, time.monotonic() + LOOK_S)
    return Page(_read(session, page.found), page.next)


def page_of_ids(
    session: Session, where: str, *, project_id: int, after: str = "", limit: int, member_of: int | None = None
) -> Page:
    """`page_of_devices`, the ids alone; with `member_of` only those in that group."""
    member = select(literal(1)).where(GroupMember.device_id == Device.id, GroupMember.group_id == member_of).exists()
    walk = _walk(session, where, project_id, None if member_of is None else member)
    return walk.page(after, limit, time.monotonic() + LOOK_S)


def select_devices(session: Session, where: str = "", *, project_id: int) -> list[Device]:
    """All devices of the project that `where` selects, ordered by id. Raises SelectorError."""
    return _read(session, _walk(session, where, project_id).page("", None, float("inf")).found)


def _read(session: Session, ids: list[str]) -> list[Device]:
    """The devices, named to the database some at a time: given a query for their ids, it would rather walk through all
    devices in their order."""
    query = select(Device).order_by(col(Device.id))
    parts = (ids[at : at + AT_ONCE] for at in range(0, len(ids), AT_ONCE))
    return [device for part in parts for device in session.exec(query.where(col(Device.id).in_(part)))]


class _Test(NamedTuple):
    """Whether a device fulfils a clause, or does not; looked up one by one, or side by side with a walk."""

    clause: Clause
    wanted: bool
    one_by_one: bool


@dataclass(frozen=True)
class _Walk:
    """`first` is the clause that candidates fulfil, None for all devices of the project; `others` are tested on each of
    them. `condition`, on `Device`, is what they leave open."""

    session: Session
    fleet: Fleet
    first: Clause | None
    others: list[_Test]
    condition: ColumnElement[bool] | None

    def page(self, after: str, limit: int | None, until: float) -> Page:
        """Ids behind `after`, at most `limit`; no window begins that may not end before the monotonic time `until`."""
        found: list[str] = []
        window = self._first_window()
        all_match = not self.others and self.condition is None
        while True:
            started = time.monotonic()
            span = Span(after, None if all_match else self._end_of(after, window))
            found += self._selected(span, None if limit is None else limit - len(found))
            if len(found) == limit:
                return Page(found, found[-1])
            now = time.monotonic()
            took, left = now - started, until - now
            if span.end is None or left < took:
                return Page(found, span.end)
            window = min(LARGEST_WINDOW, 2 * window if 2 * took <= left else int(window * left / took))
            after = span.end

    def _first_window(self) -> int:
        if self.condition is not None:
            return FIRST_READ
        looked_up = sum(min(len(test.clause), FEW_VALUES) for test in self.others if test.one_by_one)
        return max(1, FIRST_WINDOW // (1 + looked_up))

    def _end_of(self, after: str, window: int) -> str | None:
        """The last of so many candidates; None where there are fewer."""
        candidates = self._candidates(Span(after))
        (column,) = candidates.selected_columns
        end: str | None = self.session.exec(candidates.order_by(column).offset(window - 1).limit(1)).first()
        return end

    def _candidates(self, span: Span) -> Any:
        if self.first is not None:
            return self.fleet.ids_with(self.first, span)
        return select(Device.id).where(Device.project_id == self.fleet.project_id, *span.of(col(Device.id)))

    def _selected(self, span: Span, limit: int | None) -> list[str]:
        """Ids in the span that fulfil everything.

        What indexes tell is asked first (a `case` has an order), as most have to go; a device is read only for those
        that stay, one by one as the scalar says: as a join it would be a walk through all devices.
        """
        ids = self._candidates(span).subquery()
        (column,) = ids.columns
        wanted: ColumnElement[bool] = and_(true(), *self._tests(column, span))
        if self.condition is not None:
            exactly = select(self.condition).where(col(Device.id) == column).correlate(ids).scalar_subquery()
            wanted = case((wanted, exactly), else_=false())
        return list(self.session.exec(select(column).where(wanted).order_by(column).limit(limit)))

    def _tests(self, column: Any, span: Span) -> Iterator[ColumnElement[bool]]:
        for clause, wanted, one_by_one in self.others:
            holds = self.fleet.looked_up(clause, column) if one_by_one else self.fleet.fulfils(clause, column, span)
            yield holds if wanted else not_(holds)


def _walk(session: Session, where: str, project_id: int, also: ColumnElement[bool] | None = None) -> _Walk:
    selector = read_selector(session, project_id, where)
    fleet = fleet_of(session, project_id)
    counts = _counts(session, fleet, selector)
    first = _first(selector.sure, counts)
    side_by_side = session.get_bind().dialect.name == "postgresql"  # SQLite has no such walk
    beside = MUCH_MORE * counts[first] if first else float("inf")
    others = [
        _Test(clause, wanted, one_by_one=not side_by_side or counts[clause] > beside)
        for wanted, clauses in ((True, selector.sure), (False, selector.never))
        for clause in clauses
        if not (wanted and clause == first)
    ]
    exact = and_(col(Device.project_id) == project_id, selector.condition, true() if also is None else also)
    return _Walk(session, fleet, first, others, None if selector.whole and also is None else exact)


def _counts(session: Session, fleet: Fleet, selector: Selector) -> dict[Clause, int]:
    """About how many devices fulfil each clause; of tags no more are counted than it takes to choose."""
    clauses = [*selector.sure, *selector.never]
    if not selector.sure or (len(clauses) == 1 and len(clauses[0]) == 1):
        return dict.fromkeys(clauses, RARE)  # whatever it is, it is the one to follow, or there is none
    counts, at_most = dict[Clause, int](), RARE
    for clause in clauses:
        counts[clause] = fleet.count(session, clause, at_most)
        if clause in selector.sure:
            at_most = min(at_most, MUCH_MORE * counts[clause] + 1)
    return counts


def _first(sure: Sequence[Clause], counts: dict[Clause, int]) -> Clause | None:
    """The clause to follow: the rarest. A common one of several values does not come in the order of ids."""
    clauses = [clause for clause in sure if counts[clause] < RARE or len(clause) == 1]
    return min(clauses, key=counts.__getitem__, default=None)
