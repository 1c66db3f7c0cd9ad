"""Device classes of the project."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from tinyfleet_service.builds import queue_for_class
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.errors import InvalidInputError
from tinyfleet_service.http.context import Context, Operator, Viewer
from tinyfleet_service.http.documents import Document
from tinyfleet_service.registry import add_device_class, device_class_toml
from tinyfleet_service.registry.device_classes import encrypt_device_class, project_classes

router = APIRouter(tags=["device classes"])


class NewClass(BaseModel):
    """Either the name of a shipped class or the TOML of your own."""

    name: str | None = Field(default=None, max_length=64, description="a shipped class")
    toml: str | None = Field(default=None, max_length=65536, description="a class of your own")


class ClassChange(BaseModel):
    """What can be changed of a class."""

    encrypted: bool = Field(description="whether images for it travel encrypted, each device with a key of its own")


class ClassDocument(Document):
    """A device class."""

    name: str
    toml: str
    encrypted: bool


@router.get("/device-classes")
def get_classes(context: Context, principal: Viewer) -> dict[str, list[ClassDocument]]:
    """Classes the project builds for."""
    with session_scope(context.engine, read_only=True) as session:
        return {"items": [ClassDocument.model_validate(row) for row in project_classes(session, principal.project_id)]}


@router.post("/device-classes", status_code=201, responses={200: {"model": ClassDocument}})
def post_class(context: Context, principal: Operator, answer: Response, new: NewClass) -> ClassDocument:
    """Add a class; the newest version of each model is built for it. 200 when it was there already."""
    if (new.name is None) == (new.toml is None):
        raise InvalidInputError("send either a name or a toml", next="a name for a shipped class, toml for your own")
    toml = new.toml if new.toml is not None else device_class_toml(new.name or "")
    with session_scope(context.engine) as session:
        row, created = add_device_class(session, principal.project_id, toml, encrypted=context.settings.encrypt_images)
        if created:
            queue_for_class(session, principal.project_id, row.name)
    answer.status_code = 201 if created else 200
    return ClassDocument.model_validate(row)


@router.patch("/device-classes/{name}")
def patch_class(context: Context, principal: Operator, name: str, change: ClassChange) -> ClassDocument:
    """Have images for the class travel encrypted, or in the clear again."""
    with session_scope(context.engine) as session:
        return ClassDocument.model_validate(encrypt_device_class(session, principal.project_id, name, change.encrypted))
