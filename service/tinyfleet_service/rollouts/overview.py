"""The fleet at a glance: devices by version and slot state, what they measured per version."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import Session, col, select

from tinyfleet_service.database.models import Build, Device, Model, ModelVersion, utc_now
from tinyfleet_service.rollouts.observe import image_id
from tinyfleet_service.telemetry import Counters, TelemetryStore

LATELY_INTERVALS = 3
UPDATING = ("WRITING", "STAGED", "SHADOW", "TESTING")
COUNTS = ("inferences", "labelled", "correct", "faults")


def fleet_overview(session: Session, telemetry: TelemetryStore, project_id: int) -> dict[str, Any]:
    """`devices` (total, online, updating, by class, by state, by version) and `versions`, one row each with accuracy
    (fraction, as active model and with shadow answers), latency quantiles (us) and devices by slot state.
    """
    images = _images(session, project_id)
    devices = session.exec(select(Device).where(Device.project_id == project_id)).all()
    versions: dict[str, dict[str, Any]] = {name: _version_row(name) for name, _ in images.values()}
    for device in devices:
        _count_slots(device, images, versions)
    _add_measurements(telemetry, images, versions)
    heard = telemetry.last_heard([device.id for device in devices])
    return {"devices": _device_counts(list(devices), images, heard), "versions": list(versions.values())}


def _images(session: Session, project_id: int) -> dict[str, tuple[str, Build]]:
    """`name:version` and build by image id, oldest version first."""
    query = (
        select(Build, Model.name, ModelVersion.version)
        .join(ModelVersion, col(ModelVersion.id) == col(Build.version_id))
        .join(Model, col(Model.id) == col(ModelVersion.model_id))
        .where(Model.project_id == project_id, col(Build.image_sha256).is_not(None))
        .order_by(col(ModelVersion.id))
    )
    rows = session.exec(query).all()
    return {image_id(build.image_sha256) or "": (f"{name}:{version}", build) for build, name, version in rows}


def _version_row(name: str) -> dict[str, Any]:
    return {"version": name, "devices": 0, "states": Counter(), "accuracy_server": None}


def _count_slots(device: Device, images: dict[str, tuple[str, Build]], versions: dict[str, dict[str, Any]]) -> None:
    for component in (device.reported or {}).get("components", []):
        for number, slot in enumerate(component["slots"]):
            if slot["image"] in images and slot["state"] != "EMPTY":
                row = versions[images[slot["image"]][0]]
                fallback = slot["state"] == "CONFIRMED" and component["active"] != number
                row["states"]["FALLBACK" if fallback else slot["state"]] += 1
    if device.active_image in images:
        versions[images[device.active_image][0]]["devices"] += 1


def _add_measurements(
    telemetry: TelemetryStore, images: dict[str, tuple[str, Build]], versions: dict[str, dict[str, Any]]
) -> None:
    sums: dict[str, Counters] = {}
    for image, counters in telemetry.totals().items():
        if image in images:
            name = images[image][0]
            sums[name] = sums.get(name, Counters()) + counters
    for name, row in versions.items():
        counters = sums.get(name, Counters())
        row |= {count: getattr(counters, count) for count in COUNTS}
        row["labelled_with_shadow"] = counters.labelled + sum(counters.shadow_pairs)
        row["correct_with_shadow"] = counters.correct + counters.shadow_pairs[0] + counters.shadow_pairs[2]
        row["accuracy"] = counters.accuracy
        row["accuracy_with_shadow"] = counters.accuracy_with_shadow
        row["latency_p50_us"] = counters.latency_us(0.50)
        row["latency_p95_us"] = counters.latency_us(0.95)
        row["accuracy_server"] = _accuracy_server([build for other, build in images.values() if other == name])
        row["states"] = dict(sorted(row["states"].items()))


def _accuracy_server(builds: list[Build]) -> float | None:
    known = [
        float(accuracy["quantized"])
        for build in builds
        if isinstance(accuracy := (build.report or {}).get("accuracy"), dict) and accuracy.get("quantized") is not None
    ]
    return sum(known) / len(known) if known else None


def _device_counts(
    devices: list[Device], images: dict[str, tuple[str, Build]], heard: dict[str, datetime]
) -> dict[str, Any]:
    now = utc_now()
    return {
        "total": len(devices),
        "online": sum(_heard_lately(device, heard.get(device.id), now) for device in devices),
        "updating": sum(_is_updating(device) for device in devices),
        "by_class": dict(Counter(device.device_class for device in devices)),
        "by_state": dict(Counter(str(device.state) for device in devices)),
        "by_version": dict(Counter(_version_of(device, images) for device in devices)),
    }


def _heard_lately(device: Device, reported_at: datetime | None, now: datetime) -> bool:
    allowed = timedelta(seconds=max(LATELY_INTERVALS * device.report_interval_s, device.sleep_max_s))
    return any(at is not None and now - at <= allowed for at in (device.last_seen_at, reported_at))


def _is_updating(device: Device) -> bool:
    components = (device.reported or {}).get("components", [])
    return any(slot["state"] in UPDATING for component in components for slot in component["slots"])


def _version_of(device: Device, images: dict[str, tuple[str, Build]]) -> str:
    if not device.active_image:
        return "none"
    return images[device.active_image][0] if device.active_image in images else "unknown"
