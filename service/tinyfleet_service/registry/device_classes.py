"""Device classes of a project: the TOML text the compiler reads, checked when it comes in."""

from __future__ import annotations

from sqlmodel import Session, select

from tinyfleet_compiler import CompilerError, DeviceClass, device_class_names, device_class_text
from tinyfleet_service.database.models import Event, ProjectClass
from tinyfleet_service.errors import ConflictError, InvalidInputError, NotFoundError


def device_class_toml(name: str) -> str:
    """TOML of a shipped class. Raises NotFoundError."""
    if name not in device_class_names():
        raise NotFoundError(
            f"no device class {name!r} is shipped",
            next=f"use one of {', '.join(device_class_names())}, or send your own TOML",
            what="device class",
            name=name,
        )
    return device_class_text(name)


def add_device_class(
    session: Session, project_id: int, toml: str, *, encrypted: bool = False
) -> tuple[ProjectClass, bool]:
    """Register a class, its images encrypted or not; (row, True when new). The same text again changes nothing.

    Raises InvalidInputError naming every wrong key, ConflictError when the name is taken by another text.
    """
    try:
        name = DeviceClass.from_toml(toml).name
    except CompilerError as error:
        raise InvalidInputError(
            error.message, next="correct the TOML", problems=[problem.to_json() for problem in error.problems]
        ) from error
    row = find_device_class(session, project_id, name)
    if row is not None:
        if row.toml == toml:
            return row, False
        raise ConflictError(
            f"device class {name} exists with other values",
            next="give the new class another name: builds already made depend on the old values",
            name=name,
        )
    row = ProjectClass(project_id=project_id, name=name, toml=toml, encrypted=encrypted)
    session.add(row)
    session.flush()
    return row, True


def encrypt_device_class(session: Session, project_id: int, name: str, encrypted: bool) -> ProjectClass:
    """Have images for a class travel encrypted from now on, or in the clear. Raises NotFoundError."""
    row = find_device_class(session, project_id, name)
    if row is None:
        raise NotFoundError(
            f"the project has no device class {name!r}",
            next="`fleetctl device-class add`; `fleetctl device-class list --project` shows those there are",
            what="device class",
            name=name,
        )
    if row.encrypted != encrypted:
        row.encrypted = encrypted
        detail = {"device_class": name, "encrypted": encrypted}
        session.add(Event(project_id=project_id, kind="device-class", detail=detail))
        session.flush()
    return row


def find_device_class(session: Session, project_id: int, name: str) -> ProjectClass | None:
    """The class of this name in the project, or None."""
    query = select(ProjectClass).where(ProjectClass.project_id == project_id, ProjectClass.name == name)
    return session.exec(query).first()


def project_classes(session: Session, project_id: int) -> list[ProjectClass]:
    """Every class of the project, by name."""
    query = select(ProjectClass).where(ProjectClass.project_id == project_id).order_by(ProjectClass.name)
    return list(session.exec(query).all())


def ensure_device_classes(session: Session, project_id: int, names: str, *, encrypted: bool = False) -> None:
    """Give a project without classes the shipped ones of the comma-separated `names`."""
    if project_classes(session, project_id):
        return
    for name in filter(None, (part.strip() for part in names.split(","))):
        add_device_class(session, project_id, device_class_toml(name), encrypted=encrypted)
