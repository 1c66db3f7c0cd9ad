"""Times in SQLite: the text that SQLAlchemy's own type would hold, and the same instant back, aware."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite
from sqlalchemy.types import DateTime

from tinyfleet_service.database.types import UtcDateTime

DIALECT = sqlite.dialect()
TO_TEXT, FROM_TEXT = UtcDateTime().bind_processor(DIALECT), UtcDateTime().result_processor(DIALECT, None)
ZONES = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
TIMES = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=ZONES)


@given(TIMES)
def test_times_are_held_as_the_dialect_holds_naive_utc(time: datetime) -> None:
    plain = DateTime().dialect_impl(DIALECT).bind_processor(DIALECT)
    assert TO_TEXT is not None
    assert FROM_TEXT is not None
    assert plain is not None
    text = TO_TEXT(time)
    assert text == plain(time.astimezone(UTC).replace(tzinfo=None))
    assert FROM_TEXT(text) == time
    assert FROM_TEXT(text).tzinfo is UTC


def test_nothing_stays_nothing_and_a_naive_time_is_refused() -> None:
    assert TO_TEXT is not None
    assert FROM_TEXT is not None
    assert TO_TEXT(None) is FROM_TEXT(None) is None
    with pytest.raises(ValueError, match="naive datetime"):
        TO_TEXT(datetime(2026, 1, 1))
    assert FROM_TEXT("2026-01-01 00:00:00") == datetime(2026, 1, 1, tzinfo=UTC)  # written without microseconds
