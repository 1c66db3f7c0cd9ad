"""JSON documents of the registry's things. Fields may be added; none is renamed or removed within `/api/v1`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import Session, select

from tinyfleet_service.database.models import Build, Device, Model, ModelVersion
from tinyfleet_service.database.reported import active_images
from tinyfleet_service.devices import groups_of
from tinyfleet_service.publish import transfer_choices
from tinyfleet_service.registry.aliases import aliases_of
from tinyfleet_service.registry.versions import version_names, versions_of
from tinyfleet_service.telemetry import TelemetryStore


class Document(BaseModel):
    """Read from a row by attribute names."""

    model_config = ConfigDict(from_attributes=True)


class WaitingManifest(BaseModel):
    """A release manifest that is to be signed, hexadecimal."""

    build: int
    manifest: str


class SignedManifest(BaseModel):
    """A signed SUIT envelope, hexadecimal."""

    envelope: str = Field(max_length=1024)


class BuildDocument(Document):
    """One version compiled for one device class."""

    id: int
    device_class: str
    state: str
    error: str | None
    attempt: int
    image_sha256: str | None
    image_bytes: int | None
    manifest_sha256: str | None
    abi: int | None
    release_counter: int | None
    security_floor: int
    report: dict[str, Any]
    created_at: datetime
    finished_at: datetime | None


class BuildStatus(BaseModel):
    """Where one build stands; `step` is the last line of its log."""

    id: int
    version: str
    device_class: str
    state: str
    attempt: int
    builder: str | None
    step: str
    error: str | None
    created_at: datetime
    finished_at: datetime | None


class BuildLine(Document):
    """One line of a build's log."""

    id: int
    attempt: int
    at: datetime
    text: str


class TransferDocument(Document):
    """What travels to devices that run `base` (`name:version`, null for none): `form` is raw, packed or delta.

    `choices` has the bytes of every form that was tried, `devices` counts those that run the base now.
    """

    device_class: str
    base: str | None
    form: str
    bytes: int
    choices: dict[str, int]
    devices: int
    published: bool
    encrypted: bool


class VersionDocument(Document):
    """A version with its builds."""

    id: int
    model: str
    version: str
    file_name: str
    model_sha256: str
    model_bytes: int
    calibration_sha256: str | None
    evaluation_sha256: str | None
    options: dict[str, Any]
    lineage: dict[str, Any]
    approval: str
    approved_by: str
    aliases: list[str]
    created_at: datetime
    builds: list[BuildDocument]
    transfers: list[TransferDocument] = []


class ModelDocument(Document):
    """A model name; `gates` is its own policy, empty for the defaults."""

    name: str
    component: str
    gates: dict[str, str]
    created_at: datetime


class GatesDocument(BaseModel):
    """A model's own policy, and what its rollouts go by that ask for nothing: each gate, and who says so."""

    own: dict[str, str]
    gates: dict[str, str]
    gates_from: dict[str, str] = Field(description="model or default")


class ModelWithVersions(ModelDocument):
    """A model and its versions, oldest first."""

    versions: list[VersionDocument]


class DeviceDocument(Document):
    """A device and its twin.

    `active_version` is `name:version` of the image it reports as active in `model/0`, `active_versions` of each of its
    components; `last_seen_at` counts telemetry too.
    """

    id: str
    device_class: str
    state: str
    tags: dict[str, str]
    groups: list[str] = []
    active_version: str | None = None
    active_versions: dict[str, str | None] = {}
    active_image: str | None
    reported: dict[str, Any]
    reported_at: datetime | None
    last_seen_at: datetime | None
    enrolled_at: datetime
    certificate_not_after: datetime | None
    report_interval_s: int
    sleep_max_s: int


def transfer_documents(session: Session, project_id: int, version: ModelVersion) -> list[TransferDocument]:
    """How a version travels, by class and base."""
    names = version_names(session, project_id)
    builds = session.exec(select(Build).where(Build.version_id == version.id).order_by(Build.device_class)).all()
    return [
        TransferDocument(
            device_class=build.device_class,
            base=names.get(choice.base[:32], choice.base[:12]) if choice.base else None,
            **{name: value for name, value in asdict(choice).items() if name != "base"},
        )
        for build in builds
        for choice in transfer_choices(session, build)
    ]


def version_document(session: Session, model: Model, version: ModelVersion) -> VersionDocument:
    """A version with the builds it has now."""
    builds = session.exec(select(Build).where(Build.version_id == version.id).order_by(Build.device_class)).all()
    row = version.model_dump(exclude={"model_id"})
    names = [alias for alias, version_id in aliases_of(session, version.model_id).items() if version_id == version.id]
    return VersionDocument(
        **row, model=model.name, aliases=names, builds=[BuildDocument.model_validate(build) for build in builds]
    )


def model_document(session: Session, model: Model) -> ModelWithVersions:
    """A model with its versions."""
    assert model.id is not None
    versions = [version_document(session, model, version) for version in versions_of(session, model.id)]
    return ModelWithVersions(**ModelDocument.model_validate(model).model_dump(), versions=versions)


def device_documents(
    session: Session, telemetry: TelemetryStore, project_id: int, devices: list[Device]
) -> list[DeviceDocument]:
    """Devices with the versions they run, and when they were last heard of in any way."""
    names = version_names(session, project_id)
    ids = [device.id for device in devices]
    heard, groups = telemetry.last_heard(ids), groups_of(session, ids)
    documents = [DeviceDocument.model_validate(device) for device in devices]
    for document in documents:
        document.active_version = names.get(document.active_image or "")
        running = active_images(document.reported)
        document.active_versions = {component: names.get(image or "") for component, image in running.items()}
        document.groups = groups.get(document.id, [])
        times = [at for at in (document.last_seen_at, heard.get(document.id)) if at is not None]
        document.last_seen_at = max(times, default=None)
    return documents
