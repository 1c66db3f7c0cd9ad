"""What people decide about versions: aliases, approval; and what one would change against another."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field
from sqlmodel import Session, select

from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Approval, Build, BuildState, ModelVersion, TransferBlob
from tinyfleet_service.http.context import Approver, Context, Operator, Viewer
from tinyfleet_service.http.documents import VersionDocument, version_document
from tinyfleet_service.publish import prepare_transfers
from tinyfleet_service.registry import get_model, get_version
from tinyfleet_service.registry.aliases import drop_alias, set_alias, set_approval

router = APIRouter(tags=["models"])


class AliasTarget(BaseModel):
    """What an alias is to name."""

    version: str = Field(max_length=32, description="a registered version")


class ApprovalState(BaseModel):
    """Whether a version may go out."""

    state: Literal["approved", "rejected", "none"]


class ClassDiff(BaseModel):
    """One device class: image and delta in bytes, accuracy as fractions, layers by their kinds; null = not there."""

    device_class: str
    image_bytes: tuple[int | None, int | None]
    delta_bytes: int | None
    accuracy: tuple[float | None, float | None]
    arena_bytes: tuple[int | None, int | None]
    layers: tuple[int | None, int | None]
    layers_changed: list[str]


class VersionDiff(BaseModel):
    """Two versions of a model, by device class: what stands first belongs to `old`."""

    model: str
    old: str
    new: str
    same_file: bool
    classes: list[ClassDiff]


@router.put("/models/{name}/aliases/{alias}")
def put_alias(context: Context, principal: Operator, name: str, alias: str, target: AliasTarget) -> VersionDocument:
    """Let `name@alias` mean a version, whatever it meant before."""
    with session_scope(context.engine) as session:
        model = get_model(session, principal.project_id, name)
        version = get_version(session, principal.project_id, name, target.version)
        set_alias(session, model, alias, version)
        return version_document(session, model, version)


@router.delete("/models/{name}/aliases/{alias}", status_code=204, response_class=Response)
def delete_alias(context: Context, principal: Operator, name: str, alias: str) -> Response:
    """Forget an alias."""
    with session_scope(context.engine) as session:
        drop_alias(session, get_model(session, principal.project_id, name), alias)
    return Response(status_code=204)


@router.put("/models/{name}/versions/{version}/approval")
def put_approval(
    context: Context, principal: Approver, name: str, version: str, approval: ApprovalState
) -> VersionDocument:
    """Approve or reject a version; with `require_approval` only approved ones go out."""
    with session_scope(context.engine) as session:
        model = get_model(session, principal.project_id, name)
        row = get_version(session, principal.project_id, name, version)
        set_approval(session, row, Approval(approval.state), principal.name)
        return version_document(session, model, row)


@router.get("/models/{name}/diff")
def get_diff(
    context: Context,
    principal: Viewer,
    name: str,
    old: Annotated[str, Query(max_length=33, description="version or @alias")],
    new: Annotated[str, Query(max_length=33, description="version or @alias")],
) -> VersionDiff:
    """What `new` would change against `old`: size, delta, accuracy, layers, by device class."""
    with session_scope(context.engine, read_only=True) as session:
        first = get_version(session, principal.project_id, name, old)
        second = get_version(session, principal.project_id, name, new)
        pairs = _pairs(session, first, second)
    both = [(a, b) for a, b in pairs.values() if a and b and _is_ready(a) and _is_ready(b)]
    prepare_transfers(context.engine, context.store, [(b.id or 0, a.id) for a, b in both])
    with session_scope(context.engine, read_only=True) as session:
        classes = [_class_diff(session, device_class, *pair) for device_class, pair in pairs.items()]
    same = first.model_sha256 == second.model_sha256
    return VersionDiff(model=name, old=first.version, new=second.version, same_file=same, classes=classes)


def _pairs(session: Session, old: ModelVersion, new: ModelVersion) -> dict[str, tuple[Build | None, Build | None]]:
    found: list[dict[str, Build]] = [
        {b.device_class: b for b in session.exec(select(Build).where(Build.version_id == version.id))}
        for version in (old, new)
    ]
    return {name: (found[0].get(name), found[1].get(name)) for name in sorted({*found[0], *found[1]})}


def _is_ready(build: Build) -> bool:
    return build.state == BuildState.READY and build.image_sha256 is not None


def _class_diff(session: Session, device_class: str, old: Build | None, new: Build | None) -> ClassDiff:
    reports: tuple[dict[str, Any], ...] = tuple(build.report if build else {} for build in (old, new))
    layers = [report.get("layers") for report in reports]
    return ClassDiff(
        device_class=device_class,
        image_bytes=(old.image_bytes if old else None, new.image_bytes if new else None),
        delta_bytes=_delta_bytes(session, old, new),
        accuracy=tuple((report.get("accuracy") or {}).get("quantized") for report in reports),  # type: ignore[arg-type]
        arena_bytes=tuple(report.get("arena_bytes") for report in reports),  # type: ignore[arg-type]
        layers=tuple(None if each is None else len(each) for each in layers),  # type: ignore[arg-type]
        layers_changed=_changed_layers(layers[0] or [], layers[1] or []),
    )


def _delta_bytes(session: Session, old: Build | None, new: Build | None) -> int | None:
    """Bytes that would travel to a device that has `old`; 0 for the same image."""
    if old is None or new is None or new.image_sha256 is None:
        return None
    if old.image_sha256 == new.image_sha256:
        return 0
    query = select(TransferBlob.blob_bytes).where(TransferBlob.image_sha256 == new.image_sha256)
    return session.exec(query.where(TransferBlob.base_sha256 == (old.image_sha256 or ""))).first()


def _changed_layers(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    """Names of layers that only one has, or whose operator, shape or type differs."""
    kept = ("operator", "op", "type", "shape", "output_shape", "macs")
    before, after = ({str(each.get("name")): {k: each.get(k) for k in kept} for each in part} for part in (old, new))
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
