"""What the pages of devices show: a page of those that a selector matches, and one device with its twin."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from sqlmodel import Session, col, select

from tinyfleet_service import devices
from tinyfleet_service.auth import Principal
from tinyfleet_service.dashboard.figures import microseconds, percent
from tinyfleet_service.database.device_index import read_counts
from tinyfleet_service.database.models import MODEL, Device, DeviceState, Event, Rollout, RolloutMember, utc_now
from tinyfleet_service.database.reported import active_images
from tinyfleet_service.devices.online import heard_lately
from tinyfleet_service.devices.selectors import group_selector, tag_selector
from tinyfleet_service.errors import NotFoundError, SelectorError
from tinyfleet_service.registry.versions import version_names
from tinyfleet_service.rollouts import device_measurements
from tinyfleet_service.rollouts.observe import heard_at
from tinyfleet_service.telemetry import TelemetryStore

SHOWN = 50
EVENTS = 20
COMMANDS = 10
PATH = "/dashboard/devices"


def devices_data(
    session: Session, principal: Principal, telemetry: TelemetryStore, where: str, after: str
) -> dict[str, Any]:
    """Template variables of a page of devices; `problem` and no devices where the selector does not parse."""
    project_id, problem = principal.project_id, None
    found, further = list[Device](), None
    try:
        found, further = devices.page_of_devices(session, where, project_id=project_id, after=after, limit=SHOWN + 1)
    except SelectorError as error:
        problem = {"text": str(error), "before": " " * error.data["position"]}
    rows = _rows(session, telemetry, project_id, found[:SHOWN])
    full = len(found) > SHOWN
    groups = devices.list_groups(session, project_id)
    return {
        "project": principal.project,
        "page": "devices",
        "where": where,
        "problem": problem,
        "devices": rows,
        "total": sum(read_counts(session, project_id).get("state", {}).values()),
        "groups": [(group, devices_link(group_selector(group.name))) for group in groups],
        "first": devices_link(where) if after else "",
        "next": devices_link(where, rows[-1]["id"]) if full else "",
        "looked_to": "" if full else further,
        "further": devices_link(where, further) if further and not full else "",
    }


def device_data(session: Session, principal: Principal, telemetry: TelemetryStore, device_id: str) -> dict[str, Any]:
    """Template variables of one device. Raises NotFoundError for a device of another project too."""
    device = session.get(Device, device_id)
    if device is None or device.project_id != principal.project_id:
        raise NotFoundError(f"no device {device_id!r}", next="see the page of devices", what="device", name=device_id)
    happened = select(Event).where(Event.device_id == device_id).order_by(col(Event.id).desc()).limit(EVENTS)
    return {
        "project": principal.project,
        "page": "devices",
        "device": device,
        "row": _rows(session, telemetry, principal.project_id, [device])[0],
        "components": (device.reported or {}).get("components", []),
        "versions": version_names(session, principal.project_id),
        "counted": [_counted(row) for row in device_measurements(session, telemetry, principal.project_id, device_id)],
        "commands": devices.list_commands(session, device_id, COMMANDS),
        "events": list(session.exec(happened)),
        "rollouts": _rollouts(session, device_id),
    }


def _rows(session: Session, telemetry: TelemetryStore, project_id: int, found: list[Device]) -> list[dict[str, Any]]:
    ids, now = [device.id for device in found], utc_now()
    names, groups, reports = (
        version_names(session, project_id),
        devices.groups_of(session, ids),
        telemetry.last_heard(ids),
    )
    return [
        {
            "id": device.id,
            "device_class": device.device_class,
            "state": device.state,
            "runs": ", ".join(names.get(image, image[:12]) for image in _running(device)),
            "tags": [
                (f"{key}={value}", devices_link(tag_selector(key, value))) for key, value in sorted(device.tags.items())
            ],
            "groups": [(name, devices_link(group_selector(name))) for name in groups.get(device.id, [])],
            "seen": (seen := heard_at(device, reports.get(device.id))),
            "silent": device.state == DeviceState.ENROLLED and not heard_lately(device, seen, now),
        }
        for device in found
    ]


def _counted(row: dict[str, Any]) -> dict[str, str]:
    shadow = row["shadow_inferences"]
    return {
        "version": row["version"] or row["image"][:12],
        "inferences": f"{row['inferences']:,}",
        "labelled": f"{row['labelled']:,}",
        "accuracy": percent(row["accuracy"]),
        "in_shadow": f"{row['shadow_agree']:,} of {shadow:,}" if shadow else "–",
        "latency_p50": microseconds(row["latency_p50_us"]),
        "latency_p95": microseconds(row["latency_p95_us"]),
        "faults": f"{row['faults']:,}",
    }


def _running(device: Device) -> list[str]:
    """Images of all its components that run one."""
    images = active_images(device.reported) or {MODEL: device.active_image}
    return [image for image in images.values() if image]


def _rollouts(session: Session, device_id: str) -> list[tuple[Rollout, RolloutMember]]:
    query = select(Rollout, RolloutMember).join(RolloutMember, col(RolloutMember.rollout_id) == col(Rollout.id))
    newest = query.where(RolloutMember.device_id == device_id).order_by(col(Rollout.id).desc())
    return list(session.exec(newest.limit(EVENTS)))


def devices_link(where: str, after: str = "") -> str:
    """Path of the page of devices that the selector matches."""
    asked = {name: value for name, value in (("where", where), ("after", after)) if value}
    return f"{PATH}?{urlencode(asked)}" if asked else PATH
