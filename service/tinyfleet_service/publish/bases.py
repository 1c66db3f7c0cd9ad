"""Which image a delta starts from: the one that the device itself says it runs, when we have built it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from sqlalchemy import select as select_columns
from sqlmodel import Session, col, func, select

from tinyfleet_service.database.models import MODEL, Build, BuildState, Device, DeviceState, Model, ModelVersion
from tinyfleet_service.database.reported import REPORTED_TEXT, active_image

HOLDS = {"STAGED", "SHADOW", "TESTING", "CONFIRMED"}


class Running(Protocol):
    """What a device says it runs: a twin, or a row of a query."""

    @property
    def id(self) -> str:
        """Device id."""

    @property
    def device_class(self) -> str:
        """Its class."""

    @property
    def active_image(self) -> str | None:
        """Image id of what it runs as `model/0`."""

    @property
    def reported(self) -> dict[str, Any] | str:
        """Its last `state`, or the JSON text of it (`REPORTED_TEXT`), which is only parsed where it may matter."""


class Assignee(Running, Protocol):
    """What an assignment is made from: a twin, or a row of a query."""

    @property
    def project_id(self) -> int:
        """Its project."""

    @property
    def state(self) -> str:
        """Whether it takes part."""

    @property
    def public_key(self) -> bytes | None:
        """Of its newest certificate."""

    @property
    def nonce(self) -> str | None:
        """The newest that it reported."""

    @property
    def director_epoch(self) -> int:
        """The highest that it reported."""

    @property
    def reported_sequence(self) -> int:
        """The highest that it reported, in that epoch."""


def holds(device: Running, image_id: str) -> bool:
    """Whether a slot of the device has this image, by its newest report."""
    reported = device.reported
    if isinstance(reported, str):
        reported = json.loads(reported) if image_id and image_id in reported else {}
    return any(
        slot["image"] == image_id and slot["state"] in HOLDS
        for component in reported.get("components", [])
        for slot in component["slots"]
    )


def running_image(device: Running, component: str) -> str | None:
    """Image id of what the device says it runs as `component`."""
    return device.active_image if component == MODEL else active_image(device.reported, component)


def lacks_component(device: Running, component: str) -> bool:
    """Whether the device has said what it has, and this is not there."""
    said = device.reported if isinstance(device.reported, str) else json.dumps(device.reported)
    return '"components"' in said and f'"{component}"' not in said


def base_build(session: Session, device: Running, build: Build, component: str) -> Build | None:
    """The build the device runs there, when a delta from it can be of use: not when it holds the image already."""
    runs = running_image(device, component)
    if runs is None or build.image_sha256 is None or holds(device, build.image_sha256[:32]):
        return None
    return find_base(session, device.device_class, runs)


def base_ids(
    session: Session,
    wanted: Iterable[tuple[Running, Build]],
    component: str,
    runs: Mapping[str, str | None] | None = None,
) -> dict[str, int | None]:
    """`base_build` of many devices, by device id; each image is looked up once. `runs`: their images, where known."""
    known: dict[tuple[str, str], int | None] = {}
    found: dict[str, int | None] = {}
    for device, build in wanted:
        found[device.id] = None
        image = running_image(device, component) if runs is None else runs[device.id]
        if image is None or holds(device, (build.image_sha256 or "")[:32]):
            continue
        key = (device.device_class, image)
        if key not in known:
            base = find_base(session, *key)
            known[key] = base.id if base else None
        found[device.id] = known[key]
    return found


def count_bases(session: Session, build: Build) -> dict[str, int]:
    """Image id -> enrolled devices of the build's class and project that say they run it; "" for those without any."""
    version = session.get_one(ModelVersion, build.version_id)
    model = session.get_one(Model, version.model_id)
    of_class = (
        col(Device.project_id) == model.project_id,
        col(Device.device_class) == build.device_class,
        col(Device.state) == DeviceState.ENROLLED,
    )
    if model.component != MODEL:
        reports = session.connection().execute(select_columns(REPORTED_TEXT).where(*of_class)).scalars()
        return dict(Counter(active_image(report, model.component) or "" for report in reports))
    query = select(Device.active_image, func.count()).where(*of_class)
    return {image or "": count for image, count in session.exec(query.group_by(col(Device.active_image)))}


def find_base(session: Session, device_class: str, image_id: str) -> Build | None:
    """The build of this image for this class, when it was made here."""
    query = select(Build).where(
        Build.device_class == device_class,
        Build.state == BuildState.READY,
        col(Build.image_sha256).startswith(image_id),
    )
    return session.exec(query.order_by(col(Build.id))).first()
