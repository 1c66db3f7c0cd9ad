"""Every decision with its numbers, recomputed from the stored snapshots."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from sqlmodel import Session, select

from tinyfleet_service.database.models import Decision
from tinyfleet_service.rollouts.gates import GateKey
from tinyfleet_service.rollouts.look import judge_look, ledger_of, stored_pages
from tinyfleet_service.rollouts.records import get_rollout, members_of, stage_from_key, version_name
from tinyfleet_service.rollouts.state_machine import Stage


def explain(session: Session, rollout_id: int) -> dict[str, Any]:
    """The rollout's decisions, each with its stored and its recomputed numbers. Raises NotFoundError."""
    rollout = get_rollout(session, rollout_id)
    members = {member.device_id: member for member in members_of(session, rollout)}
    query = select(Decision).where(Decision.rollout_id == rollout_id).order_by(Decision.id)  # type: ignore[arg-type]
    rows: list[dict[str, Any]] = []
    for (stage, wave), decisions in groupby(session.exec(query).all(), key=lambda d: (d.stage, d.wave)):
        earlier: dict[GateKey, dict[str, Any]] = {}
        key = Stage(stage_from_key(stage).name, wave).key
        ledger, looked = ledger_of(session, rollout, members, stored_pages(session, rollout, key, 0)), 0
        for look, group in groupby(decisions, key=lambda d: d.look):
            for number in range(looked + 1, look + 1):
                pages = stored_pages(session, rollout, key, number)
                ledger.add_look(number, pages)
            looked = look
            results = judge_look(rollout, members, key, look, ledger, pages, earlier)
            earlier = {(r.gate, r.scope): {"scope": r.scope} | r.numbers for r in results}
            rows.extend(_row(decision, key, earlier) for decision in group)
    return {
        "id": rollout_id,
        "version": version_name(session, rollout.version_id),
        "state": rollout.state,
        "reason": rollout.reason,
        "equal": all(row["equal"] for row in rows),
        "decisions": rows,
    }


def _row(decision: Decision, stage_key: str, recomputed: dict[GateKey, dict[str, Any]]) -> dict[str, Any]:
    numbers = recomputed.get((decision.gate, decision.numbers.get("scope", "all")))
    return {
        "stage": stage_key,
        "look": decision.look,
        "gate": decision.gate,
        "scope": decision.numbers.get("scope", "all"),
        "required": decision.required,
        "outcome": decision.outcome,
        "summary": decision.summary,
        "numbers": decision.numbers,
        "recomputed": numbers,
        "equal": numbers == decision.numbers,
        "at": decision.at.isoformat(),
    }
