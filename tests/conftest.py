"""For every test: property tests draw the same cases on every run, and no time limits.

A loaded machine must not fail them, and a gate must not fail for what the change at hand did not touch.
`TINYFLEET_EXPLORE=1` draws new cases; what it finds becomes a case of its own. Generators of random numbers that test
modules hold start again before each test, so that what it draws does not follow from what ran before it.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

import leftovers

settings.register_profile("repeat", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("explore" if os.environ.get("TINYFLEET_EXPLORE") else "repeat")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine", choices=["sqlite", "postgresql"], default="sqlite", help="database of every test")


def pytest_configure(config: pytest.Config) -> None:
    leftovers.watch()
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


FIRST_STATES = pytest.StashKey[list[tuple[np.random.Generator, Any]]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    here = str(Path(__file__).parent)
    ours = [m for m in list(sys.modules.values()) if (getattr(m, "__file__", None) or "").startswith(here)]
    found = {id(v): v for m in ours for v in vars(m).values() if isinstance(v, np.random.Generator)}
    session.config.stash[FIRST_STATES] = [(g, g.bit_generator.state) for g in found.values()]


@pytest.fixture(autouse=True)
def generators_start_again(pytestconfig: pytest.Config) -> None:
    for generator, state in pytestconfig.stash[FIRST_STATES]:
        generator.bit_generator.state = state


@pytest.fixture
def chromium() -> Iterator[Any]:
    """A browser; `make test` installs it, so where it is missing a test fails."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "chromium is not installed: run `make setup-test`"
    arguments = ["--no-sandbox", "--disable-gpu"]
    with sync_playwright() as play, closing(play.chromium.launch(executable_path=program, args=arguments)) as browser:
        yield browser
