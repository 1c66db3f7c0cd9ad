"""Models and their immutable versions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session, col, select

from tinyfleet_service.database.models import FIRMWARE, MODEL, Build, Model, ModelVersion
from tinyfleet_service.errors import InvalidInputError, NotFoundError, VersionConflictError
from tinyfleet_service.registry.aliases import MARK, resolve_alias

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_COMPONENT = re.compile(r"model/[0-9]")
_VERSION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,30}[A-Za-z0-9])?")


@dataclass(frozen=True)
class NewVersion:
    """What a push says; blobs are in the store already, named by their SHA-256."""

    name: str
    version: str
    file_name: str
    model_sha256: str
    model_bytes: int
    calibration_sha256: str | None = None
    evaluation_sha256: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    component: str | None = None
    """Where devices run it; None: what the model's versions so far say, `model/0` for its first."""


def check_component(component: str) -> None:
    """Raises InvalidInputError for what is not the name of a model component."""
    if not _COMPONENT.fullmatch(component):
        raise InvalidInputError(
            f"no model component {component!r}",
            next="use model/0 to model/9; firmware goes by `fleetctl firmware push`",
            name=component,
        )


def check_names(name: str, version: str) -> None:
    """Raises InvalidInputError for names that would not fit into paths, topics and references like `name:v3`."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(f"bad model name {name!r}", next="use 1 to 64 of a-z, 0-9, '.', '_' and '-'")
    if not _VERSION.fullmatch(version):
        raise InvalidInputError(f"bad version {version!r}", next="use 1 to 32 letters, digits, '.', '_' and '-'")


def register_version(session: Session, project_id: int, new: NewVersion) -> tuple[ModelVersion, bool]:
    """Register; (row, True when new). The same content again changes nothing.

    Raises InvalidInputError for bad names, VersionConflictError for the same version with other content or for another
    component than that of the model's versions so far.
    """
    check_names(new.name, new.version)
    model = _model_of(session, project_id, new)
    assert model.id is not None
    found = find_version(session, model.id, new.version)
    if found is not None:
        _check_same(found, new)
        return found, False
    content = {key: value for key, value in vars(new).items() if key not in ("name", "component")}
    row = ModelVersion(model_id=model.id, **content)
    session.add(row)
    session.flush()
    return row, True


def _model_of(session: Session, project_id: int, new: NewVersion) -> Model:
    """The model, made with its first version. Its component stays: devices run versions of it there."""
    if new.component not in (None, FIRMWARE):
        check_component(new.component)
    model = find_model(session, project_id, new.name)
    if model is None:
        model = Model(project_id=project_id, name=new.name, component=new.component or MODEL)
        session.add(model)
        session.flush()
    elif new.component not in (None, model.component) or (new.component is None and model.component == FIRMWARE):
        raise VersionConflictError(
            f"{new.name} is for component {model.component}, as its first version said, not {new.component or MODEL}",
            next="leave the component out, or push under another name; firmware goes by `fleetctl firmware push`",
            name=new.name,
            version=new.version,
            differing=["component"],
        )
    return model


def _check_same(found: ModelVersion, new: NewVersion) -> None:
    fixed = ("model_sha256", "calibration_sha256", "evaluation_sha256", "options")
    differing = [key for key in fixed if getattr(found, key) != getattr(new, key)]
    if differing:
        raise VersionConflictError(
            f"{new.name}:{new.version} exists with other content ({', '.join(differing)})",
            next="versions are immutable: push under a new version",
            name=new.name,
            version=new.version,
            differing=differing,
            registered_sha256=found.model_sha256,
        )


def list_models(session: Session, project_id: int) -> list[Model]:
    """Models of the project by name."""
    return list(session.exec(select(Model).where(Model.project_id == project_id).order_by(Model.name)).all())


def find_model(session: Session, project_id: int, name: str) -> Model | None:
    """The model of this name, or None."""
    return session.exec(select(Model).where(Model.project_id == project_id, Model.name == name)).first()


def find_version(session: Session, model_id: int, version: str) -> ModelVersion | None:
    """The version of this name, or None."""
    query = select(ModelVersion).where(ModelVersion.model_id == model_id, ModelVersion.version == version)
    return session.exec(query).first()


def get_model(session: Session, project_id: int, name: str) -> Model:
    """The model of this name. Raises NotFoundError."""
    model = find_model(session, project_id, name)
    if model is None:
        known = [m.name for m in list_models(session, project_id)]
        raise NotFoundError(
            f"no model {name!r}",
            next=f"known models: {', '.join(known[:20])}" if known else "push one: fleetctl model push NAME:v1 FILE",
            what="model",
            name=name,
        )
    return model


def get_version(session: Session, project_id: int, name: str, version: str) -> ModelVersion:
    """The version of this name, or the one that `@alias` names. Raises NotFoundError."""
    model = get_model(session, project_id, name)
    assert model.id is not None
    if version.startswith(MARK):
        return resolve_alias(session, model, version)
    found = find_version(session, model.id, version)
    if found is None:
        known = [row.version for row in versions_of(session, model.id)]
        raise NotFoundError(
            f"no version {name}:{version}",
            next=f"known versions: {', '.join(known[-20:]) or 'none'}",
            what="version",
            name=f"{name}:{version}",
        )
    return found


def versions_of(session: Session, model_id: int) -> list[ModelVersion]:
    """Versions of a model, oldest first."""
    query = select(ModelVersion).where(ModelVersion.model_id == model_id).order_by(col(ModelVersion.id))
    return list(session.exec(query).all())


def version_names(session: Session, project_id: int) -> dict[str, str]:
    """`name:version` by image id, for every image the project ever built."""
    query = (
        select(Build.image_sha256, Model.name, ModelVersion.version)
        .join(ModelVersion, col(ModelVersion.id) == col(Build.version_id))
        .join(Model, col(Model.id) == col(ModelVersion.model_id))
        .where(Model.project_id == project_id, col(Build.image_sha256).is_not(None))
    )
    return {str(digest)[:32]: f"{name}:{version}" for digest, name, version in session.exec(query).all()}
