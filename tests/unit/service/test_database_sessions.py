"""A transaction whose connection goes away: which error is told."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import QueuePool
from sqlmodel import Session

from tinyfleet_service.database.engine import postgres_url, session_scope
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


def test_a_pool_without_a_free_connection_is_a_database_that_does_not_answer() -> None:
    engine = create_engine("sqlite://", poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0)
    with engine.connect(), pytest.raises(DatabaseUnavailableError, match="busy"), session_scope(engine) as session:
        session.connection().execute(text("SELECT 1"))


def test_a_postgresql_that_is_gone_is_given_up_and_a_url_may_say_when() -> None:
    """The machine of a server that failed over sends nothing any more, not even that it is gone."""
    url = postgres_url("postgresql+psycopg://somebody@db/fleet?connect_timeout=3&sslmode=require")
    assert url.query["sslmode"] == "require"
    assert url.query["connect_timeout"] == "3"
    assert {"tcp_user_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count", "options"} <= set(
        url.query
    )
