"""A transaction whose connection goes away: which error is told."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.errors import DatabaseUnavailableError, NotFoundError

GONE = OperationalError("SELECT 1", {}, Exception("server closed the connection"))


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize(
    ("raised", "told"), [(NotFoundError("no such thing"), NotFoundError), (GONE, DatabaseUnavailableError)]
)
def test_a_roll_back_that_fails_hides_nothing(
    monkeypatch: pytest.MonkeyPatch, read_only: bool, raised: Exception, told: type[Exception]
) -> None:
    def fail(_: Session) -> None:
        raise GONE

    monkeypatch.setattr(Session, "rollback", fail)
    with pytest.raises(told), session_scope(create_engine("sqlite://"), read_only=read_only):
        raise raised
