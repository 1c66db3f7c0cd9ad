"""What the page of a rollout shows: where it stands, what may be asked of it, and its decisions with their numbers."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from sqlmodel import Session, col, select

from tinyfleet_service import rollouts
from tinyfleet_service.auth import Principal
from tinyfleet_service.dashboard.device_data import devices_link
from tinyfleet_service.dashboard.events import sentence
from tinyfleet_service.database.models import MemberStatus, RolloutMember
from tinyfleet_service.rollouts.records import get_rollout
from tinyfleet_service.telemetry import TelemetryStore
from tinyfleet_service.words import quantity, reason_words

LISTED = 100
SHOWN = 400
NAMED = 20
MEMBER_ORDER = (
    "confirmed", "testing", "shadowing", "downloading", "assigned", "planned", "silent", "rejected", "undoing",
    "undone", "skipped",
)  # fmt: skip
VERBS = {
    "approve": "Lets it begin. Not for the one who asked for it.",
    "promote": "Goes to the next stage although a gate holds.",
    "pause": "No further device is touched; those already assigned finish.",
    "resume": "Goes on where it stopped.",
    "retry": "Devices that rejected the version get a fresh start.",
    "abort": "Ends it. Devices that confirmed the version keep it, the others go back.",
    "undo": "Ends it. Every device goes back to the version before, out of its other slot.",
}
HARD = ("abort", "undo")
UNSHOWN = ("scope", "rules")
"""Numbers of a decision that the page says elsewhere."""
STATUS_WORDS = {"done": "done", "current": "now", "failed": "ended here"}
"""What the colour of a stage says, in words; the others say it by their detail."""
WHO = {"rollout": "asked for", "model": "the model's own policy then"}


def rollouts_data(session: Session, principal: Principal) -> dict[str, Any]:
    """Template variables of the page of rollouts."""
    rows = rollouts.list_rollouts(session, principal.project_id, LISTED + 1)
    shown = {"rollouts": rows[:LISTED], "more": len(rows) > LISTED}
    return {"project": principal.project, "page": "rollouts", **shown}


def rollout_data(
    session: Session, principal: Principal, telemetry: TelemetryStore, rollout_id: int, every: bool, recompute: bool
) -> dict[str, Any]:
    """Template variables; `every` look or only those at which a gate turned. NotFoundError for other projects too.

    Decisions are shown as they were stored, which costs the same whatever the fleet, unless they are to be recomputed.
    """
    rollout = get_rollout(session, rollout_id, principal.project_id)
    where = str(rollout.spec.get("where") or "")
    explained = rollouts.explain(session, rollout_id, recompute=recompute)
    rows = [_decision(row) for row in explained["decisions"] if every or row["turned"] or row["equal"] is False]
    view = rollouts.rollout_view(session, rollout_id, telemetry)
    return {
        "project": principal.project,
        "page": "rollouts",
        "rollout": show_rollout(view),
        "explained": explained,
        "where": where,
        "policies": _policies(rollout.plan),
        "devices": devices_link(where),
        "every": every,
        "by_stage": _by_stage(rows[-SHOWN:]),
        "left_out": max(0, len(rows) - SHOWN),
        "concerns": _concerns(session, view),
        "verbs": _verbs(principal, rollout.state),
        "happened": [(row["at"][:19].replace("T", " "), sentence(row)) for row in reversed(view["timeline"])],
    }


def show_rollout(view: dict[str, Any]) -> dict[str, Any]:
    """A rollout's view with its stages, members and gates as the pages draw them."""
    members = [(status, view["members"][status]) for status in MEMBER_ORDER if view["members"].get(status)]
    stages = [_stage(stage, view["state"]) for stage in view["stages"]]
    shown = [stage for stage in view["stages"] if stage["gates"]]
    return {
        **view,
        "members": members,
        "stages": stages,
        "gates": shown[-1]["gates"] if shown else [],
        "earlier_gates": [gate for stage in shown[:-1] for gate in stage["gates"]],
    }


def _stage(stage: dict[str, Any], state: str) -> dict[str, Any]:
    status = stage["status"]
    if status == "current" and state in ("rolled_back", "aborted"):
        status = "failed"
    if status == "current" and state == "promoted":
        status = "done"
    detail = stage["skipped"] or quantity(stage["devices"], "device")
    if stage["holdout"]:
        detail += ", holdout"
    return {"name": stage["name"], "status": status, "word": STATUS_WORDS.get(status, ""), "detail": detail}


def _policies(plan: dict[str, Any]) -> str:
    """Gates that are not by default, as the plan stored them."""
    said = {gate: by for gate, by in plan.get("gates_from", {}).items() if by != "default"}
    return ", ".join(f"{gate}={plan['gates'][gate]} ({WHO[by]})" for gate, by in said.items())


def _verbs(principal: Principal, state: str) -> list[dict[str, Any]]:
    """What this person may ask for now."""
    allowed = rollouts.allowed_verbs(state)
    return [
        {"name": verb, "what": what, "hard": verb in HARD}
        for verb, what in VERBS.items()
        if verb in allowed and principal.role.includes(rollouts.role_needed(verb))
    ]


def _concerns(session: Session, view: dict[str, Any]) -> list[dict[str, Any]]:
    """Devices to look at, a few of each kind, with what is wrong in words."""
    refused = select(RolloutMember.device_id, RolloutMember.reason).where(
        RolloutMember.rollout_id == view["id"], col(RolloutMember.status) == MemberStatus.REJECTED
    )
    rows = [
        (device, reason_words(reason) or "rejected")
        for device, reason in session.exec(refused.order_by(RolloutMember.device_id).limit(NAMED))
    ]
    rows += [(device, "silent") for device in view["silent_devices"][:NAMED]]
    rows += [(device, "silent, heard again") for device in view["recovered_devices"][:NAMED]]
    return [{"id": device, "what": what} for device, what in rows]


def _by_stage(rows: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The newest stage first, and in it the newest look."""
    return [(stage.replace("waves/", "wave "), list(found)) for stage, found in groupby(rows[::-1], _stage_of)]


def _stage_of(row: dict[str, Any]) -> str:
    return str(row["stage"])


def _decision(row: dict[str, Any]) -> dict[str, Any]:
    numbers = sorted(
        (key.replace("_", " "), _shown(value)) for key, value in row["numbers"].items() if key not in UNSHOWN
    )
    return row | {"shown": numbers}


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(part) for part in value)
    return "none" if value is None else str(value)
