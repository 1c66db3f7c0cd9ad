"""What the pages of models show: the registry, and one model's versions with lineage, approval and builds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlmodel import Session, col, func, select

from tinyfleet_service import rollouts
from tinyfleet_service.auth import Principal, Role
from tinyfleet_service.dashboard.build_data import build_facts
from tinyfleet_service.database.models import Approval, Build, Model, ModelVersion
from tinyfleet_service.registry import get_model, list_models
from tinyfleet_service.registry.aliases import aliases_of
from tinyfleet_service.rollouts.overview import fleet_overview
from tinyfleet_service.telemetry import TelemetryStore

SHOWN = 50
LONG = 40


def models_data(session: Session, principal: Principal) -> dict[str, Any]:
    """Template variables of the list of models."""
    models = list_models(session, principal.project_id)
    return {"project": principal.project, "page": "models", "models": [_model(session, model) for model in models]}


def _model(session: Session, model: Model) -> dict[str, Any]:
    mine = ModelVersion.model_id == model.id
    newest = session.exec(select(ModelVersion).where(mine).order_by(col(ModelVersion.id).desc()).limit(1)).first()
    return {
        "name": model.name,
        "component": model.component,
        "versions": session.exec(select(func.count()).select_from(ModelVersion).where(mine)).one(),
        "newest": newest,
        "aliases": _aliases(session, model),
        "own": ", ".join(f"{gate}={policy}" for gate, policy in model.gates.items()),
    }


def _aliases(session: Session, model: Model) -> list[tuple[str, str]]:
    """Each alias with the version it names."""
    named = aliases_of(session, model.id or 0)
    rows = session.exec(select(ModelVersion.id, ModelVersion.version).where(col(ModelVersion.id).in_(named.values())))
    versions = dict(rows.all())
    return sorted((alias, versions[version_id]) for alias, version_id in named.items())


def model_data(session: Session, principal: Principal, telemetry: TelemetryStore, name: str) -> dict[str, Any]:
    """Template variables of one model. Raises NotFoundError."""
    model = get_model(session, principal.project_id, name)
    query = select(ModelVersion).where(ModelVersion.model_id == model.id).order_by(col(ModelVersion.id).desc())
    versions = session.exec(query.limit(SHOWN + 1)).all()
    running = {row["version"]: row for row in fleet_overview(session, telemetry, principal.project_id)["versions"]}
    aliases = _aliases(session, model)
    described = rollouts.model_gates(model)
    return {
        "project": principal.project,
        "page": "models",
        "model": model,
        "aliases": aliases,
        "gates": [(gate, policy, described["gates_from"][gate]) for gate, policy in described["gates"].items()],
        "more": len(versions) > SHOWN,
        "may_approve": principal.role.includes(Role.APPROVER),
        "versions": [
            _version(session, row, running.get(f"{model.name}:{row.version}"), aliases) for row in versions[:SHOWN]
        ],
    }


def _version(
    session: Session, row: ModelVersion, running: Mapping[str, Any] | None, aliases: list[tuple[str, str]]
) -> dict[str, Any]:
    builds = session.exec(select(Build).where(Build.version_id == row.id).order_by(Build.device_class)).all()
    return {
        "version": row.version,
        "file": row.file_name,
        "bytes": row.model_bytes,
        "created_at": row.created_at,
        "approval": "" if row.approval == Approval.NONE else row.approval,
        "approved_by": row.approved_by,
        "aliases": [alias for alias, version in aliases if version == row.version],
        "devices": running["devices"] if running else 0,
        "accuracy_device": running["accuracy"] if running else None,
        "lineage": list(_lines(row.lineage)),
        "builds": [build_facts(build) for build in builds],
    }


def _lines(lineage: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Lineage as names and short texts, nested ones with a dot."""
    for name, value in lineage.items():
        if isinstance(value, Mapping):
            yield from _lines(value, f"{before}{name}.")
        elif value not in (None, "", []):
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            yield f"{before}{name}".replace("_", " "), text if len(text) <= LONG else text[: LONG - 1] + "…"
