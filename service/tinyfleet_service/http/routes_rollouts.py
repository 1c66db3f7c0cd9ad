"""Rollouts: plan, start, watch, steer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from sqlmodel import Session, col, select

from tinyfleet_service import rollouts
from tinyfleet_service.auth import Principal, require_role
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Approval, Event, ModelVersion
from tinyfleet_service.errors import StateConflictError
from tinyfleet_service.http.context import AppContext, Approver, Context, Operator, RowId, Viewer
from tinyfleet_service.http.documents import GatesDocument
from tinyfleet_service.http.routes_events import EventDocument
from tinyfleet_service.publish import prepare_transfers
from tinyfleet_service.registry import get_model, get_version
from tinyfleet_service.registry.aliases import MARK
from tinyfleet_service.settings import Settings

router = APIRouter(tags=["rollouts"])
Spec = dict[str, Any]


@router.post("/rollouts/plan")
def post_plan(context: Context, principal: Operator, spec: Spec) -> dict[str, Any]:
    """What a rollout would do, cost and be able to decide; no device is touched."""
    _prepare(context, principal, spec)
    with session_scope(context.engine, read_only=True) as session:
        return _plan(context, principal, session, spec).document


@router.post("/rollouts", status_code=201)
def post_rollout(context: Context, principal: Operator, spec: Spec) -> dict[str, Any]:
    """Plan and start; the rollout as it stands."""
    _prepare(context, principal, spec)
    with session_scope(context.engine) as session:
        plan = _plan(context, principal, session, spec)
        _check_approval(context.settings, session.get_one(ModelVersion, plan.version_id))
        rollout = rollouts.start_rollout(session, plan)
        assert rollout.id is not None
        return rollouts.rollout_view(session, rollout.id, context.telemetry)


@router.get("/rollouts")
def get_rollouts(context: Context, principal: Viewer) -> dict[str, list[dict[str, Any]]]:
    """Every rollout, the newest first."""
    with session_scope(context.engine, read_only=True) as session:
        return {"items": rollouts.list_rollouts(session, principal.project_id)}


@router.get("/rollouts/{rollout_id}")
def get_rollout(context: Context, principal: Viewer, rollout_id: RowId) -> dict[str, Any]:
    """Where a rollout stands: stage, members, gates with their numbers."""
    with session_scope(context.engine, read_only=True) as session:
        rollouts.get_rollout(session, rollout_id, principal.project_id)
        return rollouts.rollout_view(session, rollout_id, context.telemetry)


@router.get("/rollouts/{rollout_id}/history")
def get_history(context: Context, principal: Viewer, rollout_id: RowId) -> dict[str, list[EventDocument]]:
    """What happened in a rollout, in order."""
    with session_scope(context.engine, read_only=True) as session:
        rollouts.get_rollout(session, rollout_id, principal.project_id)
        query = select(Event).where(Event.rollout_id == rollout_id).order_by(col(Event.id))
        return {"items": [EventDocument.model_validate(event) for event in session.exec(query).all()]}


@router.get("/rollouts/{rollout_id}/explain")
def get_explanation(context: Context, principal: Viewer, rollout_id: RowId) -> Any:
    """Every decision, recomputed from the stored snapshots until those are removed (`counters_removed_at`)."""
    with session_scope(context.engine, read_only=True) as session:
        rollouts.get_rollout(session, rollout_id, principal.project_id)
        return rollouts.explain(session, rollout_id)


@router.post("/rollouts/{rollout_id}/{verb}")
def post_verb(context: Context, principal: Operator, rollout_id: RowId, verb: rollouts.Verb) -> dict[str, Any]:
    """Ask the controller to pause, resume, promote, approve (both need the approver's role), retry, abort or undo."""
    require_role(principal.role, rollouts.role_needed(verb))
    with session_scope(context.engine) as session:
        rollouts.get_rollout(session, rollout_id, principal.project_id)
        rollouts.request(session, rollout_id, verb, principal.name)
        return rollouts.rollout_view(session, rollout_id, context.telemetry)


@router.get("/models/{name}/gates")
def get_model_gates(context: Context, principal: Viewer, name: str) -> GatesDocument:
    """What the gates are in rollouts of a model that do not ask otherwise."""
    with session_scope(context.engine, read_only=True) as session:
        return GatesDocument(**rollouts.model_gates(get_model(session, principal.project_id, name)))


@router.put("/models/{name}/gates")
def put_model_gates(context: Context, principal: Operator, name: str, gates: dict[str, Any]) -> GatesDocument:
    """Replace a model's own policy: what its gates are in rollouts that do not ask otherwise; `{}` for the defaults.

    It needs what starting a rollout needs (scope `rollouts:write`). Rollouts under way keep the policy they began with.
    """
    with session_scope(context.engine) as session:
        model = get_model(session, principal.project_id, name)
        rollouts.set_model_gates(session, model, gates)
        return GatesDocument(**rollouts.model_gates(model))


@router.post("/fleet/freeze")
def post_freeze(context: Context, principal: Operator) -> dict[str, bool]:
    """Freeze the fleet: no device is touched for the first time and no stage passed. Going back goes on."""
    with session_scope(context.engine) as session:
        rollouts.freeze(session, principal.project_id, principal.name)
    return {"frozen": True}


@router.post("/fleet/thaw")
def post_thaw(context: Context, principal: Approver) -> dict[str, bool]:
    """End a freeze."""
    with session_scope(context.engine) as session:
        rollouts.thaw(session, principal.project_id, principal.name)
    return {"frozen": False}


def _prepare(context: AppContext, principal: Principal, spec: Spec) -> None:
    """Compute the deltas first, so that the plan shows real bytes and the controller finds them ready."""
    with session_scope(context.engine, read_only=True) as session:
        plan = _plan(context, principal, session, spec)
    prepare_transfers(context.engine, context.store, rollouts.transfer_pairs(plan))


def _plan(context: AppContext, principal: Principal, session: Session, spec: Spec) -> rollouts.Plan:
    if str(spec.get("version", "")).startswith(MARK):  # an alias may move: the rollout keeps what it means now
        version = get_version(session, principal.project_id, str(spec.get("model")), str(spec["version"]))
        spec = {**spec, "version": version.version}
    return rollouts.make_plan(session, _parse(context.settings, principal, spec), context.telemetry)


def _check_approval(settings: Settings, version: ModelVersion) -> None:
    """Raises StateConflictError for a rejected version, and for one nobody approved where that is asked for."""
    if version.approval == Approval.REJECTED or (settings.require_approval and version.approval != Approval.APPROVED):
        raise StateConflictError(
            f"version {version.version} is {'rejected' if version.approval == Approval.REJECTED else 'not approved'}",
            next="an approver decides: `fleetctl model approve MODEL:VERSION`",
            approval=version.approval,
        )


def _parse(settings: Any, principal: Principal, spec: Spec) -> rollouts.RolloutSpec:
    """Who asks is taken from the token, never from the request."""
    return rollouts.parse_spec({**spec, "project_id": principal.project_id, "created_by": principal.name}, settings)
