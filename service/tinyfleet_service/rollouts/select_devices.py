"""The devices a rollout may touch."""

from __future__ import annotations

from sqlmodel import Session

from tinyfleet_service.database.models import Device, DeviceState
from tinyfleet_service.devices import select_devices


def devices_for(session: Session, project_id: int, where: str | None) -> list[Device]:
    """Enrolled devices of the project that match the selector, by id. Raises SelectorError."""
    found = select_devices(session, where or "", project_id=project_id)
    return [device for device in found if device.state == DeviceState.ENROLLED]
