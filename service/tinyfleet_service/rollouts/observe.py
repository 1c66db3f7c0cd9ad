"""What a device's twin says about one candidate image."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tinyfleet_ota.protocol import SlotState
from tinyfleet_service.database.models import Desired, Device
from tinyfleet_service.rollouts.state_machine import Seen, Slot

IMAGE_ID_HEX = 32
MISSED_REPORTS = 3

_SLOTS = {
    SlotState.EMPTY: Slot.NONE,
    SlotState.WRITING: Slot.WRITING,
    SlotState.STAGED: Slot.STAGED,
    SlotState.SHADOW: Slot.SHADOW,
    SlotState.TESTING: Slot.TESTING,
    SlotState.CONFIRMED: Slot.CONFIRMED,
    SlotState.REJECTED: Slot.REJECTED,
}


def image_id(image_sha256: str | None) -> str | None:
    """First 32 hex digits of an image digest, as devices name it."""
    return image_sha256[:IMAGE_ID_HEX] if image_sha256 else None


def silence_s(device: Device) -> float:
    """How long this device may say nothing: three report intervals or its longest sleep."""
    return float(max(MISSED_REPORTS * device.report_interval_s, device.sleep_max_s))


def heard_at(device: Device, reported_at: datetime | None) -> datetime | None:
    """The newer of the twin's last contact and the last telemetry."""
    return max((t for t in (device.last_seen_at, reported_at) if t is not None), default=None)


def see(device: Device, desired: Desired | None, component: str, candidate: str, heard: datetime | None) -> Seen:
    """The device as the state machine reads it; `candidate` is an image id."""
    slots, active = _component(device.reported, component)
    index, slot = next(((i, s) for i, s in enumerate(slots) if _hex(s.get("image")) == candidate), (None, {}))
    state = _SLOTS[SlotState(_number(slot.get("state", 0), SlotState))] if slot else Slot.NONE
    follows = desired is not None and _follows(device, desired)
    return Seen(
        heard_at=heard,
        follows=follows,
        slot=state,
        candidate_active=index is not None and index == active,
        reason=_number(slot.get("reason", 0), None),
    )


def fallback_holds(device: Device, component: str, image: str | None) -> bool:
    """Whether going back to `image` needs no download: a slot of the device still holds it."""
    slots, _ = _component(device.reported, component)
    return image is not None and any(_hex(s.get("image")) == image for s in slots)


def _follows(device: Device, desired: Desired) -> bool:
    return (device.director_epoch, device.reported_sequence) >= (desired.director_epoch, desired.sequence)


def _component(reported: Mapping[str, Any], component: str) -> tuple[list[Mapping[str, Any]], int | None]:
    for entry in reported.get("components") or []:
        if entry.get("component") == component:
            return list(entry.get("slots") or []), entry.get("active")
    return [], None


def _number(value: Any, names: Any) -> int:
    if isinstance(value, str):
        return int(names[value]) if names else 0
    return int(value or 0)


def _hex(value: Any) -> str | None:
    """An image id in hex, from bytes, hex or base64url text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str) and len(value) == 22:
        return base64.urlsafe_b64decode(value + "==").hex()
    return value if isinstance(value, str) else None
