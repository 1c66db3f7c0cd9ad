"""The fleet at a glance: devices by version and slot state, what they measured per version; and one device's part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from sqlmodel import Session, col, select

from tinyfleet_service.database.device_index import read_counts
from tinyfleet_service.database.models import Build, Model, ModelVersion
from tinyfleet_service.devices.online import count_online
from tinyfleet_service.registry.versions import version_names
from tinyfleet_service.rollouts.observe import image_id
from tinyfleet_service.rollouts.records import server_accuracy
from tinyfleet_service.telemetry import Counters, TelemetryStore

Counts = Mapping[str, Mapping[str, int]]
COUNTS = ("inferences", "labelled", "correct", "faults")


def fleet_overview(session: Session, telemetry: TelemetryStore, project_id: int) -> dict[str, Any]:
    """`devices` (total, online, updating, by class, by state, by version) and `versions`, one row each with accuracy
    (fraction, as active model and with shadow answers), latency quantiles (us) and devices by slot state.

    Devices are not read: the counts are kept (`database/device_index.py`). `online` of a large fleet is as old as
    `devices/online.py` says, and null until it was counted for the first time.
    """
    images = _images(session, project_id)
    counts = read_counts(session, project_id)
    versions: dict[str, dict[str, Any]] = {name: _version_row(name) for name, _ in images.values()}
    _count_slots(counts, images, versions)
    _add_measurements(telemetry, images, versions)
    total = sum(counts.get("state", {}).values())
    online = count_online(session, telemetry, project_id, total)
    return {"devices": _device_counts(counts, images, total, online), "versions": list(versions.values())}


def device_measurements(
    session: Session, telemetry: TelemetryStore, project_id: int, device_id: str
) -> list[dict[str, Any]]:
    """What a device counted of each image, as `TelemetryStore.read_device`, with `version` (null for one that was not
    built here) and `image`.
    """
    names = version_names(session, project_id)
    return [
        {"version": names.get(image), "image": image, **counted}
        for image, counted in telemetry.read_device(device_id).items()
    ]


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


def _count_slots(counts: Counts, images: dict[str, tuple[str, Build]], versions: dict[str, dict[str, Any]]) -> None:
    for key, number in counts.get("slot", {}).items():
        image, _, state = key.partition("|")
        if image in images:
            versions[images[image][0]]["states"][state] += number
    for image, number in [*counts.get("image", {}).items(), *counts.get("beside", {}).items()]:
        if image in images:
            versions[images[image][0]]["devices"] += number


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
    known = [value for build in builds if (value := server_accuracy(build)) is not None]
    return sum(known) / len(known) if known else None


def _device_counts(
    counts: Counts, images: dict[str, tuple[str, Build]], total: int, online: int | None
) -> dict[str, Any]:
    by_version: Counter[str] = Counter()
    for image, number in counts.get("image", {}).items():
        by_version[_version_of(image, images)] += number
    return {
        "total": total,
        "online": online,
        "updating": counts.get("updating", {}).get("", 0),
        "by_class": counts.get("class", {}),
        "by_state": counts.get("state", {}),
        "by_version": dict(by_version),
    }


def _version_of(image: str, images: dict[str, tuple[str, Build]]) -> str:
    if not image:
        return "none"
    return images[image][0] if image in images else "unknown"
