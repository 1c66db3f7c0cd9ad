"""From a build's row to the job a worker gets."""

from __future__ import annotations

from sqlalchemy import Engine

from tinyfleet_service.builds.compile import CompileJob
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Build, Model, ModelVersion
from tinyfleet_service.errors import NotFoundError
from tinyfleet_service.registry.device_classes import find_device_class


def make_job(engine: Engine, store: BlobStore, build: Build) -> CompileJob:
    """Everything the compiler needs for this build. Raises NotFoundError when its device class is gone."""
    assert build.id is not None
    with session_scope(engine, read_only=True) as session:
        version = session.get_one(ModelVersion, build.version_id)
        model = session.get_one(Model, version.model_id)
        device_class = find_device_class(session, model.project_id, build.device_class)
    if device_class is None:
        raise NotFoundError(
            f"device class {build.device_class} is gone",
            next="add it again",
            what="device class",
            name=build.device_class,
        )
    return CompileJob(
        build_id=build.id,
        store=store,
        model=version.model_sha256,
        file_name=version.file_name,
        device_class_toml=device_class.toml,
        name=model.name,
        version=version.version,
        calibration=version.calibration_sha256,
        evaluation=version.evaluation_sha256,
        options=dict(version.options),
    )
