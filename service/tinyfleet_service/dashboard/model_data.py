"""What the pages show of models: their versions, and the gates that their rollouts go by."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from tinyfleet_service import rollouts
from tinyfleet_service.auth import Principal
from tinyfleet_service.database.models import Model
from tinyfleet_service.registry import get_model, list_models
from tinyfleet_service.registry.aliases import aliases_of
from tinyfleet_service.registry.versions import versions_of

SHOWN = 100


def models_data(session: Session, principal: Principal) -> dict[str, Any]:
    """Template variables of the page of models."""
    models = [_line(model) for model in list_models(session, principal.project_id)]
    return {"project": principal.project, "page": "models", "models": models}


def _line(model: Model) -> dict[str, Any]:
    own = ", ".join(f"{gate}={policy}" for gate, policy in model.gates.items())
    return {"name": model.name, "component": model.component, "own": own, "created_at": model.created_at}


def model_data(session: Session, principal: Principal, name: str) -> dict[str, Any]:
    """Template variables of one model, its newest versions first. Raises NotFoundError."""
    model = get_model(session, principal.project_id, name)
    described = rollouts.model_gates(model)
    gates = [(gate, policy, described["gates_from"][gate]) for gate, policy in described["gates"].items()]
    return {
        "project": principal.project,
        "page": "models",
        "model": model,
        "gates": gates,
        "versions": _versions(session, model),
    }


def _versions(session: Session, model: Model) -> list[dict[str, Any]]:
    assert model.id is not None
    aliases = aliases_of(session, model.id)
    found = versions_of(session, model.id)[: -SHOWN - 1 : -1]
    return [
        {"row": version, "aliases": ", ".join(a for a, version_id in aliases.items() if version_id == version.id)}
        for version in found
    ]
