"""What the page of a rollout shows: the numbers of every decision, recomputed from the stored snapshots."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from tinyfleet_service import rollouts
from tinyfleet_service.auth import Principal
from tinyfleet_service.dashboard.device_data import devices_link

SHOWN = 200
WHO = {"rollout": "asked for", "model": "the model's own policy then"}


def explain_data(session: Session, principal: Principal, rollout_id: int) -> dict[str, Any]:
    """Template variables. Raises NotFoundError for a rollout of another project too."""
    rollout = rollouts.get_rollout(session, rollout_id, principal.project_id)
    where = str(rollout.spec.get("where") or "")
    explained = rollouts.explain(session, rollout_id)
    decisions = [_decision(row) for row in reversed(explained["decisions"])]
    return {
        "project": principal.project,
        "page": "rollout",
        "rollout": explained,
        "where": where,
        "policies": _policies(rollout.plan),
        "devices": devices_link(where),
        "decisions": decisions[:SHOWN],
        "left_out": max(0, len(decisions) - SHOWN),
    }


def _policies(plan: dict[str, Any]) -> str:
    """Gates that are not by default, as the plan stored them."""
    said = {gate: by for gate, by in plan.get("gates_from", {}).items() if by != "default"}
    return ", ".join(f"{gate}={plan['gates'][gate]} ({WHO[by]})" for gate, by in said.items())


def _decision(row: dict[str, Any]) -> dict[str, Any]:
    numbers = sorted((key.replace("_", " "), _shown(value)) for key, value in row["numbers"].items() if key != "scope")
    return row | {"shown": numbers}


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(part) for part in value)
    return "none" if value is None else str(value)
