"""A migrated database with one project and one device class, for the fleet's integration tests."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlmodel import SQLModel

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
