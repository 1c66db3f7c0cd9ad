"""A migrated database with one project and one device class, for the fleet's integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import SQLModel

from integration.fleet_support import make_settings
from postgres import postgres_database
from tinyfleet_service.database.engine import make_engine, session_scope
from tinyfleet_service.database.models import Project, ProjectClass
from tinyfleet_service.registry import device_class_toml
from tinyfleet_service.settings import Settings

CLASS = "cortex-m4"
PROJECT = 1


def make_database(settings: Settings) -> Engine:
    engine = make_engine(settings)
    SQLModel.metadata.create_all(engine)
    with session_scope(engine) as session:
        session.add(Project(id=PROJECT, name="default"))
        session.flush()
        for name in (CLASS, "cortex-m0plus"):
            session.add(ProjectClass(project_id=PROJECT, name=name, toml=device_class_toml(name)))
    return engine


def each_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """For a fixture with params "sqlite" and "postgresql", the latter at fixture `server`: a database in each."""
    if request.param == "sqlite":
        yield make_database(make_settings(tmp_path / "fleet"))
        return
    with postgres_database(request.getfixturevalue("server")) as url:
        engine = make_database(make_settings(tmp_path / "fleet", database_url=url))
        yield engine
        engine.dispose()
