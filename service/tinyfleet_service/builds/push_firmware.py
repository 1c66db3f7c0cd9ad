"""A push of firmware: nothing is compiled, the image of a class is its build as it is. It waits for the release key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from sqlalchemy import Engine
from sqlmodel import Session

from tinyfleet_compiler.device_class import DeviceClass
from tinyfleet_service.builds.push import next_counter, with_retries
from tinyfleet_service.database.models import FIRMWARE, Build, BuildState, Event, ModelVersion
from tinyfleet_service.errors import InvalidInputError
from tinyfleet_service.registry.device_classes import project_classes
from tinyfleet_service.registry.firmware import FirmwareImage
from tinyfleet_service.registry.versions import NewVersion, register_version


@dataclass(frozen=True)
class StoredImage:
    """One class's image, in the store already."""

    sha256: str
    image_bytes: int
    said: FirmwareImage


def push_firmware(
    engine: Engine, project_id: int, name: str, version: str, images: Mapping[str, StoredImage], abi: int | None = None
) -> tuple[ModelVersion, bool]:
    """Register; (version, True when new). `abi`: the runtime ABI that it brings; None: that of each device class.

    Raises InvalidInputError (bad names, a class that the project has not), VersionConflictError.
    """
    return with_retries(engine, lambda session: _push(session, project_id, name, version, images, abi))


def _push(
    session: Session, project_id: int, name: str, version: str, images: Mapping[str, StoredImage], abi: int | None
) -> tuple[ModelVersion, bool]:
    abis = _abis(session, project_id, images, abi)
    content = {device_class: images[device_class].sha256 for device_class in sorted(images)}
    listing = "".join(f"{device_class} {digest}\n" for device_class, digest in content.items())
    new = NewVersion(
        name=name,
        version=version,
        file_name="firmware",
        model_sha256=hashlib.sha256(listing.encode()).hexdigest(),
        model_bytes=sum(image.image_bytes for image in images.values()),
        options={"abi": abis},
        component=FIRMWARE,
    )
    row, created = register_version(session, project_id, new)
    if created:
        for device_class in content:
            _add_build(session, row, device_class, images[device_class], abis[device_class])
        detail = {"model": name, "version": version, "sha256": new.model_sha256}
        session.add(Event(project_id=project_id, kind="model.pushed", detail=detail))
        session.flush()
    return row, created


def _abis(session: Session, project_id: int, images: Mapping[str, StoredImage], abi: int | None) -> dict[str, int]:
    """Runtime ABI by class. Raises InvalidInputError for a class that is not one of the project's."""
    known = {row.name: row.toml for row in project_classes(session, project_id)}
    if unknown := sorted(images.keys() - known.keys()):
        raise InvalidInputError(
            f"the project has no device class {unknown[0]!r}", next=f"it has: {', '.join(known) or 'none'}"
        )
    return {name: abi if abi is not None else DeviceClass.from_toml(known[name]).abi for name in sorted(images)}


def _add_build(session: Session, version: ModelVersion, device_class: str, image: StoredImage, abi: int) -> None:
    assert version.id is not None
    build = Build(
        version_id=version.id,
        device_class=device_class,
        state=BuildState.AWAITING_SIGNATURE,
        image_sha256=image.sha256,
        image_bytes=image.image_bytes,
        report={"firmware": asdict(image.said)},
        abi=abi,
        release_counter=next_counter(session),
    )
    session.add(build)
    session.flush()
