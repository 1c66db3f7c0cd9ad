"""Models and versions. An upload counts only when all of it arrived, is readable and fits what is there."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Response, UploadFile

from tinyfleet_service.auth import Principal
from tinyfleet_service.builds import push_version
from tinyfleet_service.database.blobs import Incoming
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.errors import InvalidInputError
from tinyfleet_service.http.context import AppContext, Context, Operator, Viewer
from tinyfleet_service.http.documents import (
    ModelDocument,
    ModelWithVersions,
    VersionDocument,
    model_document,
    transfer_documents,
    version_document,
)
from tinyfleet_service.registry import NewVersion, Uploads, check_uploads, get_model, get_version, list_models
from tinyfleet_service.registry.build_options import BuildOptions, read_build_options
from tinyfleet_service.registry.versions import check_component, check_names

router = APIRouter(tags=["models"])
COPY_BYTES = 1 << 20


@router.get("/models")
def get_models(context: Context, principal: Viewer) -> dict[str, list[ModelDocument]]:
    """Every model of the project."""
    with session_scope(context.engine, read_only=True) as session:
        models = list_models(session, principal.project_id)
        return {"items": [ModelDocument.model_validate(model) for model in models]}


@router.get("/models/{name}")
def get_one_model(context: Context, principal: Viewer, name: str) -> ModelWithVersions:
    """A model, its versions and their builds."""
    with session_scope(context.engine, read_only=True) as session:
        return model_document(session, get_model(session, principal.project_id, name))


@router.get("/models/{name}/versions/{version}")
def get_one_version(context: Context, principal: Viewer, name: str, version: str) -> VersionDocument:
    """A version, its builds, and how it travels to the devices that run others."""
    document = _document(context, principal, name, version)
    with session_scope(context.engine, read_only=True) as session:
        model = get_model(session, principal.project_id, name)
        row = get_version(session, principal.project_id, model.name, version)
        document.transfers = transfer_documents(session, principal.project_id, row)
    return document


@router.post("/models/{name}/versions", status_code=201, responses={200: {"model": VersionDocument}})
def post_version(
    context: Context,
    principal: Operator,
    answer: Response,
    name: str,
    version: Annotated[str, Form(description="v1, 2026-01 ...: immutable once registered")],
    model: Annotated[UploadFile, File(description="ONNX or TFLite file")],
    calibration: Annotated[UploadFile | None, File(description="NPZ with x")] = None,
    evaluation: Annotated[UploadFile | None, File(description="NPZ with x and y")] = None,
    metric: Annotated[str | None, Form(description="top1, mse, reconstruction, auc or agreement")] = None,
    options: Annotated[str, Form(description="JSON object: options of `fleetctl compile`, see BuildOptions")] = "{}",
    lineage: Annotated[str, Form(description="JSON object: run id, dataset hash, metrics ...")] = "{}",
    component: Annotated[
        str | None, Form(description="model/0 to model/9: where devices run it; fixed by a model's first version")
    ] = None,
) -> VersionDocument:
    """Register a version and queue its builds: 201 when new, 200 for the same bytes again, 409 for other bytes."""
    check_names(name, version)
    if component is not None:
        check_component(component)
    sent = _json_object("options", options) | ({"metric": metric} if metric else {})
    chosen = read_build_options(sent)
    files = {"model": model, "calibration": calibration, "evaluation": evaluation}
    new = _store(context, name, version, files, chosen, _json_object("lineage", lineage))
    new = replace(new, component=component)
    _, created = push_version(context.engine, principal.project_id, new)
    answer.status_code = 201 if created else 200
    return _document(context, principal, name, version)


def _document(context: AppContext, principal: Principal, name: str, version: str) -> VersionDocument:
    with session_scope(context.engine, read_only=True) as session:
        model = get_model(session, principal.project_id, name)
        return version_document(session, model, get_version(session, principal.project_id, name, version))


def _store(
    context: AppContext,
    name: str,
    version: str,
    files: dict[str, UploadFile | None],
    options: BuildOptions,
    lineage: dict[str, Any],
) -> NewVersion:
    """Copy to temporary files, check them all, then make them blobs."""
    limit = context.settings.upload_limit_bytes
    with ExitStack() as stack:
        incoming = {
            key: copy_upload(stack.enter_context(context.store.incoming(limit)), file)
            for key, file in files.items()
            if file
        }
        paths = {key: part.path for key, part in incoming.items()}
        check_uploads(Uploads(**paths), options, limit)
        stored = {key: context.store.commit(part) for key, part in incoming.items()}
    upload = files["model"]
    return NewVersion(
        name=name,
        version=version,
        file_name=PurePosixPath((upload and upload.filename) or "model.onnx").name[:128],
        model_sha256=stored["model"].sha256,
        model_bytes=stored["model"].size_bytes,
        calibration_sha256=stored["calibration"].sha256 if "calibration" in stored else None,
        evaluation_sha256=stored["evaluation"].sha256 if "evaluation" in stored else None,
        options=options.model_dump(mode="json", exclude_defaults=True),
        lineage=lineage,
    )


def copy_upload(incoming: Incoming, upload: UploadFile) -> Incoming:
    """Write an upload piece by piece; it ends where it is larger than allowed."""
    while data := upload.file.read(COPY_BYTES):
        incoming.write(data)
    return incoming


def _json_object(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # no NaN, infinity or half of a character
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{name} is not JSON: {error}", next="send a JSON object") from error
    if not isinstance(value, dict):
        raise InvalidInputError(f"{name} is not a JSON object", next="send a JSON object")
    return value
