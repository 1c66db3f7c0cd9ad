"""Groups of devices; their members are listed by `GET /devices?where=group=NAME`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field, model_validator

from tinyfleet_service import devices, rollouts
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.http.context import Context, Operator, Viewer
from tinyfleet_service.http.documents import Document

MAX_IDS = 1000
router = APIRouter(tags=["devices"])
DeviceId = Annotated[str, Field(max_length=64)]


class NewGroup(BaseModel):
    """A group that is to be."""

    name: str = Field(max_length=64, description="1 to 64 of a-z, 0-9, '.', '_' and '-'")
    description: str = Field(default="", max_length=200, description="what people should know of it")


class GroupDocument(Document):
    """A group; `devices` counts its members."""

    name: str
    description: str
    devices: int
    created_by: str
    created_at: datetime


class GroupCounts(GroupDocument):
    """A group and what its members are."""

    by_class: dict[str, int]
    by_state: dict[str, int]


class MemberChange(BaseModel):
    """Which devices: `devices` or `where`, not both."""

    devices: list[DeviceId] | None = Field(default=None, min_length=1, max_length=MAX_IDS, description="ids")
    where: str | None = Field(default=None, max_length=4096, description="selector")
    after: str = Field(default="", max_length=64, description="with `where`: `next` of the answer before")

    @model_validator(mode="after")
    def _one_way(self) -> MemberChange:
        if (self.devices is None) == (self.where is None):
            raise ValueError("give either devices or where")
        return self


class MemberChanged(BaseModel):
    """Members that came or went, members there are now; `next`: repeat with it as `after`, null at the end."""

    changed: int
    devices: int
    next: str | None


@router.get("/groups")
def get_groups(context: Context, principal: Viewer) -> dict[str, list[GroupDocument]]:
    """Groups of the project with the number of their devices."""
    with session_scope(context.engine, read_only=True) as session:
        rows = devices.list_groups(session, principal.project_id)
        return {"items": [GroupDocument.model_validate(row) for row in rows]}


@router.post("/groups", status_code=201)
def post_group(context: Context, principal: Operator, new: NewGroup) -> GroupDocument:
    """Make a group without devices; 409 when the name is taken."""
    with session_scope(context.engine) as session:
        group = devices.create_group(session, principal.project_id, new.name, new.description, principal.name)
        return GroupDocument.model_validate(group)


@router.get("/groups/{group}")
def get_group(context: Context, principal: Viewer, group: str) -> GroupCounts:
    """A group, its devices counted by class and state; `GET /devices?where=group=NAME` lists them."""
    with session_scope(context.engine, read_only=True) as session:
        found = devices.get_group(session, principal.project_id, group)
        by_state = devices.count_by_state(session, found)
        known = GroupDocument.model_validate(found).model_dump()
    return GroupCounts(**known, by_class=found.by_class, by_state=by_state)


@router.delete("/groups/{group}", status_code=204, response_class=Response)
def delete_group(context: Context, principal: Operator, group: str) -> Response:
    """Forget a group, its devices stay; 409 while an open rollout selects by it."""
    with session_scope(context.engine) as session:
        rollouts.delete_group(session, principal.project_id, group)
    return Response(status_code=204)


@router.post("/groups/{group}/add")
def post_add(context: Context, principal: Operator, group: str, change: MemberChange) -> MemberChanged:
    """Put devices into a group: those named, or a page of those that a selector matches."""
    with session_scope(context.engine) as session:
        found = devices.get_group(session, principal.project_id, group, lock=True)
        if change.devices is not None:
            made = devices.add_devices(session, found, change.devices)
        else:
            made = devices.add_selected(session, found, change.where or "", change.after)
    return MemberChanged(**made._asdict())


@router.post("/groups/{group}/remove")
def post_remove(context: Context, principal: Operator, group: str, change: MemberChange) -> MemberChanged:
    """Take devices out of a group: those named, or a page of its members that a selector matches."""
    with session_scope(context.engine) as session:
        found = devices.get_group(session, principal.project_id, group, lock=True)
        if change.devices is not None:
            made = devices.remove_devices(session, found, change.devices)
        else:
            made = devices.remove_selected(session, found, change.where or "", change.after)
    return MemberChanged(**made._asdict())
