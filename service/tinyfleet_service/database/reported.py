"""Reading a device's last `state`: `Device.reported`, or the JSON text of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Text, cast, true
from sqlmodel import col

from tinyfleet_service.database.models import MODEL, Device

REPORTED_TEXT: Any = cast(col(Device.reported), Text).label("reported")
"""The report as text, which is only parsed where it may matter."""


def component_of(reported: Mapping[str, Any] | None, component: str) -> Mapping[str, Any] | None:
    """What the report says of one component; None when the device has none of that name or has said nothing."""
    found = ((reported or {}).get("components") or []) if isinstance(reported, Mapping) else []
    return next((entry for entry in found if entry.get("component") == component), None)


def active_image(reported: Mapping[str, Any] | str | None, component: str = MODEL) -> str | None:
    """Image id (32 hex digits) that the device runs for `component`, by its own report."""
    if isinstance(reported, str):
        reported = json.loads(reported) if f'"{component}"' in reported else {}
    entry = component_of(reported, component)
    index = entry["active"] if entry else None
    if entry is None or index is None or index >= len(entry["slots"]):
        return None
    image: str | None = entry["slots"][index]["image"]
    return image


def active_images(reported: Mapping[str, Any] | None) -> dict[str, str | None]:
    """Image id that each component of the device runs, by its own report."""
    names = [entry["component"] for entry in (reported or {}).get("components", [])]
    return {name: active_image(reported, name) for name in names}


def has_component(component: str) -> ColumnElement[bool]:
    """Condition on `Device`: it says that it has this component. Every agent has `model/0`, also before it speaks."""
    return true() if component == MODEL else REPORTED_TEXT.element.contains(f'"{component}"')
