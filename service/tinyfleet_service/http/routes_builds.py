"""Builds, their reports and images."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from tinyfleet_service.builds import (
    REPORT_POLICY,
    cancel_build,
    find_build,
    list_builds,
    read_image,
    read_notes,
    read_report,
    retry_build,
    take_signature,
    waiting_manifests,
)
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.errors import InvalidInputError
from tinyfleet_service.http.context import MAX_ID, Context, Operator, RowId, Viewer
from tinyfleet_service.http.documents import BuildDocument, BuildLine, BuildStatus, SignedManifest, WaitingManifest
from tinyfleet_service.keys import key_folder

router = APIRouter(tags=["builds"])
PAGE = 500


@router.get("/builds")
def get_builds(
    context: Context, principal: Viewer, limit: Annotated[int, Query(ge=1, le=PAGE)] = 50
) -> dict[str, list[BuildStatus]]:
    """The newest builds, each with the last line of its log."""
    with session_scope(context.engine, read_only=True) as session:
        return {"items": [BuildStatus(**row) for row in list_builds(session, principal.project_id, limit)]}


@router.get("/builds/{build_id}/log")
def get_log(
    context: Context,
    principal: Viewer,
    build_id: RowId,
    after: Annotated[int, Query(ge=0, le=MAX_ID, description="number of the last line seen")] = 0,
) -> dict[str, list[BuildLine]]:
    """What happened to a build, oldest line first; at most 500 lines are kept."""
    with session_scope(context.engine, read_only=True) as session:
        find_build(session, principal.project_id, build_id)
        return {"items": [BuildLine.model_validate(note) for note in read_notes(session, build_id, after)]}


@router.get("/builds/{build_id}")
def get_build(context: Context, principal: Viewer, build_id: RowId) -> BuildDocument:
    """A build with its report."""
    with session_scope(context.engine, read_only=True) as session:
        return BuildDocument.model_validate(find_build(session, principal.project_id, build_id))


@router.get("/builds/{build_id}/report.html", response_class=Response)
def get_report(context: Context, principal: Viewer, build_id: RowId) -> Response:
    """The report as one self-contained page."""
    with session_scope(context.engine, read_only=True) as session:
        page = read_report(context.store, find_build(session, principal.project_id, build_id))
    return Response(page, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})


@router.get("/builds/{build_id}/image", response_class=Response)
def get_image(context: Context, principal: Viewer, build_id: RowId) -> Response:
    """The model image."""
    headers = {"Content-Disposition": f'attachment; filename="build-{build_id}.tfm"'}
    with session_scope(context.engine, read_only=True) as session:
        image = read_image(context.store, find_build(session, principal.project_id, build_id))
    return Response(image, media_type="application/octet-stream", headers=headers)


@router.get("/signatures")
def get_signatures(context: Context, principal: Operator) -> dict[str, list[WaitingManifest]]:
    """Release manifests that wait for a signature by the release key, which need not be on this machine."""
    waiting = waiting_manifests(context.engine, context.store, principal.project_id)
    return {"items": [WaitingManifest(build=build, manifest=data.hex()) for build, data in waiting.items()]}


@router.post("/builds/{build_id}/signature")
def post_signature(context: Context, principal: Operator, build_id: RowId, signed: SignedManifest) -> BuildDocument:
    """Take a release that was signed elsewhere. Who sends it does not matter: the signature decides."""
    root = key_folder(context.settings).newest()
    with session_scope(context.engine) as session:
        build = find_build(session, principal.project_id, build_id)
        take_signature(session, build, context.store, _from_hex(signed.envelope), root)
        return BuildDocument.model_validate(build)


@router.post("/builds/{build_id}/cancel")
def post_cancel(context: Context, principal: Operator, build_id: RowId) -> BuildDocument:
    """Cancel a build that waits or runs. A compile under way is left to end; its result is dropped."""
    with session_scope(context.engine) as session:
        build = find_build(session, principal.project_id, build_id)
        cancel_build(session, build)
        return BuildDocument.model_validate(build)


@router.post("/builds/{build_id}/retry")
def post_retry(context: Context, principal: Operator, build_id: RowId) -> BuildDocument:
    """Queue a build that failed, did not fit or was cancelled again."""
    with session_scope(context.engine) as session:
        build = find_build(session, principal.project_id, build_id)
        retry_build(session, build)
        return BuildDocument.model_validate(build)


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise InvalidInputError("the envelope is not hexadecimal", next="send what `keys sign` made") from error
