"""For every test: property tests draw the same cases on every run, and no time limits.

A loaded machine must not fail them, and a gate must not fail for what the change at hand did not touch.
`TINYFLEET_EXPLORE=1` draws new cases; what it finds becomes a case of its own.
"""

import os

import pytest
from hypothesis import settings

settings.register_profile("repeat", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("explore" if os.environ.get("TINYFLEET_EXPLORE") else "repeat")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine", choices=["sqlite", "postgresql"], default="sqlite", help="database of every test")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sqlite_only: about SQLite's own files; not run with --engine postgresql")
    if config.getoption("--engine") == "postgresql":
        from postgres import EveryDataDirectory  # tests that need no database need no psycopg either

        EveryDataDirectory().install()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--engine") == "postgresql":
        for item in items:
            chosen = item.callspec.params.values() if hasattr(item, "callspec") else ()
            if item.get_closest_marker("sqlite_only") or "sqlite" in chosen:
                item.add_marker(pytest.mark.skip(reason="about SQLite's own files"))
