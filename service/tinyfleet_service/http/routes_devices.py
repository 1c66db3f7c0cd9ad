"""Devices, and the authority and keys that they trust."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field
from sqlmodel import Session

from tinyfleet_service import devices, keys, rollouts
from tinyfleet_service.broker import Pki
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Device
from tinyfleet_service.devices.claims import check_tags
from tinyfleet_service.errors import NotFoundError
from tinyfleet_service.http.context import AppContext, Context, Operator, Viewer
from tinyfleet_service.http.documents import DeviceDocument, Document, device_documents

router = APIRouter(tags=["devices"])
Tags = dict[str, str]


class NewCommand(BaseModel):
    """What a device is to do."""

    action: str = Field(max_length=32, description="reboot or diagnostics")
    expires_s: int = Field(default=3600, description="seconds until it is given up")


class CommandDocument(Document):
    """A command; `state` is waiting, sent, done, refused (with the device's `reason`) or expired."""

    id: int
    device_id: str
    number: int
    action: str
    state: str
    reason: str
    sends: int
    created_by: str
    created_at: datetime
    expires_at: datetime
    sent_at: datetime | None
    finished_at: datetime | None


class MeasuredDocument(BaseModel):
    """Counts of one image on one device, summed over its boots; accuracies are fractions, null without labels."""

    version: str | None = Field(description="`name:version`, null for an image that was not built here")
    image: str
    inferences: int
    labelled: int
    correct: int
    faults: int
    active_s: int
    shadow_inferences: int
    shadow_agree: int
    shadow_pairs: list[int] = Field(description="labelled: both right, active only, this one only, neither")
    accuracy: float | None = Field(description="as the active model")
    accuracy_with_shadow: float | None
    latency_p50_us: float | None
    latency_p95_us: float | None
    arena_high_water_bytes: int
    stack_high_water_bytes: int = Field(description="of the whole device")
    predictions: dict[int, int] = Field(description="answers by class")
    energy_uj: int


class DevicePage(BaseModel):
    """Devices, and what to give as `after` for more; null at the end.

    Until then a page may hold fewer than `limit`, even none: a request looks for some hundredths of a second only.
    """

    items: list[DeviceDocument]
    next: str | None


@router.get("/devices")
def get_devices(
    context: Context,
    principal: Viewer,
    where: Annotated[str | None, Query(max_length=4096, description="selector")] = None,
    after: Annotated[str, Query(max_length=64, description="`next` of the page before")] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="devices of a page")] = 1000,
) -> DevicePage:
    """A page of devices by id, all or those a selector matches: `class=cortex-m4 and site=lyon`."""
    with session_scope(context.engine, read_only=True) as session:
        project_id = principal.project_id
        page = devices.page_of_devices(session, where or "", project_id=project_id, after=after, limit=limit)
        items = device_documents(session, context.telemetry, project_id, page.found)
    return DevicePage(items=items, next=page.next)


@router.get("/devices/{device_id}")
def get_device(context: Context, principal: Viewer, device_id: str) -> DeviceDocument:
    """A device and its twin."""
    with session_scope(context.engine, read_only=True) as session:
        device = _find(session, principal.project_id, device_id)
        return device_documents(session, context.telemetry, principal.project_id, [device])[0]


@router.put("/devices/{device_id}/tags")
def put_tags(context: Context, principal: Operator, device_id: str, tags: Tags) -> DeviceDocument:
    """Replace the device's tags; selectors and strata see them from the next rollout on."""
    with session_scope(context.engine) as session:
        device = _find(session, principal.project_id, device_id)
        device.tags = check_tags(tags)
        session.add(device)
    return get_device(context, principal, device_id)


@router.post("/devices/{device_id}/revoke")
def post_revoke(context: Context, principal: Operator, device_id: str) -> DeviceDocument:
    """End the device's certificates and its live connection, for good."""
    _check(context, principal.project_id, device_id)
    devices.revoke_device(context.engine, context.settings, device_id)
    return get_device(context, principal, device_id)


@router.post("/devices/{device_id}/reset")
def post_reset(context: Context, principal: Operator, device_id: str) -> DeviceDocument:
    """Let the device enrol again under its id; also ends a quarantine."""
    _check(context, principal.project_id, device_id)
    devices.reset_device(context.engine, context.settings, device_id)
    return get_device(context, principal, device_id)


@router.post("/devices/{device_id}/commands", status_code=201)
def post_command(context: Context, principal: Operator, device_id: str, asked: NewCommand) -> CommandDocument:
    """Ask a device to do something once: `reboot`, or `diagnostics` (report state and counters now).

    The controller signs it and sends it until the device answers or it expires.
    """
    with session_scope(context.engine) as session:
        device = _find(session, principal.project_id, device_id)
        command = devices.ask_command(session, device, asked.action, asked.expires_s, principal.name)
        return CommandDocument.model_validate(command)


@router.get("/devices/{device_id}/commands")
def get_commands(context: Context, principal: Viewer, device_id: str) -> dict[str, list[CommandDocument]]:
    """The newest commands to a device and what became of them."""
    with session_scope(context.engine, read_only=True) as session:
        _find(session, principal.project_id, device_id)
        found = devices.list_commands(session, device_id)
        return {"items": [CommandDocument.model_validate(command) for command in found]}


@router.get("/devices/{device_id}/telemetry")
def get_telemetry(context: Context, principal: Viewer, device_id: str) -> dict[str, list[MeasuredDocument]]:
    """What a device counted of each image that it ever ran, those of its newest report first."""
    with session_scope(context.engine, read_only=True) as session:
        _find(session, principal.project_id, device_id)
        found = rollouts.device_measurements(session, context.telemetry, principal.project_id, device_id)
    return {"items": [MeasuredDocument(**row) for row in found]}


@router.get("/ca", response_class=Response)
def get_ca(context: Context, _: Viewer) -> Response:
    """Certificate of the authority that devices trust, PEM."""
    return Response(Pki.load(context.settings).ca_path.read_bytes(), media_type="application/x-pem-file")


@router.get("/root/1", response_class=Response)
def get_root(context: Context, _: Viewer) -> Response:
    """Root 1, the signed list of trusted keys that devices are provisioned with, CBOR."""
    return Response(keys.root_one(context.settings), media_type="application/cbor")


def _find(session: Session, project_id: int, device_id: str) -> Device:
    device = devices.get_device(session, device_id)
    if device.project_id != project_id:
        raise NotFoundError(
            f"no device {device_id!r}", next="`fleetctl device list` shows them", what="device", name=device_id
        )
    return device


def _check(context: AppContext, project_id: int, device_id: str) -> None:
    with session_scope(context.engine, read_only=True) as session:
        _find(session, project_id, device_id)
