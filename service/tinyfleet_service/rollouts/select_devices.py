"""The devices a rollout may touch."""

from __future__ import annotations

from sqlmodel import Session, select

from tinyfleet_service.database.models import Device, DeviceState


def devices_for(session: Session, project_id: int, where: str | None) -> list[Device]:
    """Enrolled devices of the project that match the selector, by id. Raises SelectorError."""
    if where:
        from tinyfleet_service.devices import select as select_where

        found = [d for d in select_where(session, where) if d.project_id == project_id]
        return sorted((d for d in found if d.state == DeviceState.ENROLLED), key=lambda d: d.id)
    query = select(Device).where(Device.project_id == project_id, Device.state == DeviceState.ENROLLED)
    return list(session.exec(query.order_by(Device.id)))
