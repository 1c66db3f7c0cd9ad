"""Firmware: images that the service does not build, one for each device class, checked before they count."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, File, Form, Response, UploadFile

from tinyfleet_service.builds import StoredImage, push_firmware
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.errors import InvalidInputError
from tinyfleet_service.http.context import AppContext, Context, Operator
from tinyfleet_service.http.documents import VersionDocument, version_document
from tinyfleet_service.http.routes_models import copy_upload
from tinyfleet_service.registry import get_model, get_version
from tinyfleet_service.registry.firmware import read_firmware
from tinyfleet_service.registry.versions import check_names

router = APIRouter(tags=["models"])
CLASSES_MAX = 64


@router.post("/models/{name}/firmware", status_code=201, responses={200: {"model": VersionDocument}})
def post_firmware(
    context: Context,
    principal: Operator,
    answer: Response,
    name: str,
    version: Annotated[str, Form(description="v1, 2026-01 ...: immutable once registered")],
    device_class: Annotated[list[str], Form(description="class of each image, in the images' order")],
    image: Annotated[list[UploadFile], File(description="images as `imgtool sign` made them, one for each class")],
    abi: Annotated[int | None, Form(ge=0, description="runtime ABI that it brings; else that of each class")] = None,
) -> VersionDocument:
    """Register a firmware version for component `firmware`: 201 when new, 200 for the same bytes again, 409 for others.

    Nothing is compiled: each image waits for the release key as it is.
    """
    check_names(name, version)
    _check_classes(device_class, len(image))
    images = _store(context, dict(zip(device_class, image, strict=True)))
    _, created = push_firmware(context.engine, principal.project_id, name, version, images, abi)
    answer.status_code = 201 if created else 200
    with session_scope(context.engine, read_only=True) as session:
        model = get_model(session, principal.project_id, name)
        return version_document(session, model, get_version(session, principal.project_id, name, version))


def _check_classes(classes: list[str], images: int) -> None:
    if len(classes) != images or len(set(classes)) != images or images > CLASSES_MAX:
        raise InvalidInputError(
            f"{images} images for the classes {', '.join(classes[:CLASSES_MAX])}",
            next=f"send one image for each class, at most {CLASSES_MAX}, and each class once",
        )


def _store(context: AppContext, uploads: dict[str, UploadFile]) -> dict[str, StoredImage]:
    """Copy to temporary files, check them all, then make them blobs."""
    limit = context.settings.upload_limit_bytes
    with ExitStack() as stack:
        incoming = {
            name: copy_upload(stack.enter_context(context.store.incoming(limit)), file)
            for name, file in uploads.items()
        }
        said = {name: read_firmware(part.path, _name(uploads[name])) for name, part in incoming.items()}
        stored = {name: context.store.commit(part) for name, part in incoming.items()}
    return {name: StoredImage(blob.sha256, blob.size_bytes, said[name]) for name, blob in stored.items()}


def _name(upload: UploadFile) -> str:
    return PurePosixPath(upload.filename or "the image").name[:128]
