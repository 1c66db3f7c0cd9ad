"""Every decision with its numbers, recomputed from the stored snapshots for as long as they are kept (`forget.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlmodel import Session, col, select

from tinyfleet_service.database.models import Decision, Rollout
from tinyfleet_service.rollouts.freeze import stored_pages
from tinyfleet_service.rollouts.gates import RULES, GateKey
from tinyfleet_service.rollouts.ledger import StoredPage
from tinyfleet_service.rollouts.look import judge_look, ledger_of
from tinyfleet_service.rollouts.members import read_members
from tinyfleet_service.rollouts.records import get_rollout, stage_from_key, version_name
from tinyfleet_service.rollouts.state_machine import Stage

Numbers = dict[str, Any]


class _CountersRemovedError(Exception):
    """The pages are gone, or are going while they are read."""


def explain(session: Session, rollout_id: int, *, recompute: bool = True) -> dict[str, Any]:
    """The rollout's decisions, each with its stored and its recomputed numbers. Raises NotFoundError.

    Once the counters are removed (`counters_removed_at`) nothing is recomputed: `recomputed` and `equal` are null, as
    they are without `recompute`: that reads no counters and costs the same whatever the fleet. Decisions by the rules
    of an earlier tinyfleet (`earlier_rules` of them) are not recomputed either: today's rules may say otherwise.
    `turned` marks the first look of a gate in a stage, and each that came out otherwise than the look before.
    """
    rollout = get_rollout(session, rollout_id)
    query = select(Decision).where(Decision.rollout_id == rollout_id).order_by(col(Decision.id))
    decisions = session.exec(query).all()
    try:
        recomputed = _recompute(session, rollout, decisions) if recompute else None
    except _CountersRemovedError:
        recomputed = None
    rows = list(_rows(decisions, recomputed))
    compared = [row["equal"] for row in rows if row["equal"] is not None]
    removed_at = _removed_at(session, rollout) if recomputed is None else None
    return {
        "id": rollout_id,
        "version": version_name(session, rollout.version_id),
        "state": rollout.state,
        "reason": rollout.reason,
        "equal": all(compared) if compared or (recomputed is not None and not rows) else None,
        "earlier_rules": sum(map(_by_earlier_rules, decisions)),
        "counters_removed_at": removed_at.isoformat() if removed_at else None,
        "decisions": rows,
    }


def _recompute(session: Session, rollout: Rollout, decisions: Sequence[Decision]) -> dict[int, Numbers | None]:
    """Numbers by decision of today's rules, None where the gate says nothing now. Raises _CountersRemovedError."""
    found: dict[int, Numbers | None] = {}
    if _removed_at(session, rollout):
        raise _CountersRemovedError
    members = read_members(session, rollout)
    for stage_key, of_stage in groupby(decisions, key=_stage_key):
        earlier: dict[GateKey, Numbers] = {}
        ledger, looked = ledger_of(session, rollout, members, _pages(session, rollout, stage_key, 0)), 0
        for look, group in groupby(of_stage, key=lambda d: d.look):
            of_look = list(group)
            for number in range(looked + 1, look + 1):
                pages = _pages(session, rollout, stage_key, number)
                ledger.add_look(number, pages)
            looked = look
            if any(map(_by_earlier_rules, of_look)):
                earlier = {(d.gate, _scope(d)): d.numbers for d in of_look}
                continue
            results = judge_look(rollout, members, stage_key, look, ledger, pages, earlier)
            earlier = {(r.gate, r.scope): {"scope": r.scope} | r.numbers for r in results}
            found |= {d.id or 0: earlier.get((d.gate, _scope(d))) for d in of_look}
    return found


def _pages(session: Session, rollout: Rollout, stage_key: str, look: int) -> list[StoredPage]:
    """All pages of a look, or _CountersRemovedError: they may have gone since the last ones were read."""
    pages = stored_pages(session, rollout, stage_key, look)
    if _removed_at(session, rollout):
        raise _CountersRemovedError
    return pages


def _removed_at(session: Session, rollout: Rollout) -> datetime | None:
    """As the database has it now, whatever the object says."""
    return session.exec(select(Rollout.counters_removed_at).where(Rollout.id == rollout.id)).one()


def _by_earlier_rules(decision: Decision) -> bool:
    return decision.numbers.get("rules") != RULES


def _stage_key(decision: Decision) -> str:
    return Stage(stage_from_key(decision.stage).name, decision.wave).key


def _scope(decision: Decision) -> str:
    return str(decision.numbers.get("scope", "all"))


def _rows(decisions: Sequence[Decision], recomputed: dict[int, Numbers | None] | None) -> Iterator[dict[str, Any]]:
    outcomes: dict[tuple[str, GateKey], str] = {}
    for decision in decisions:
        key = (_stage_key(decision), (decision.gate, _scope(decision)))
        again = (recomputed or {}).get(decision.id or 0)
        known = recomputed is not None and not _by_earlier_rules(decision)
        yield _stored(decision) | {
            "turned": outcomes.get(key) != decision.outcome,
            "recomputed": again,
            "equal": _agree(decision.numbers, again) if known else None,
        }
        outcomes[key] = decision.outcome


def _agree(stored: Numbers, now: Numbers | None) -> bool:
    """Whether each stored number comes out again, whatever the words.

    One that the tinyfleet of then did not give is no difference.
    """
    return now is not None and {n: v for n, v in stored.items() if n != "summary"}.items() <= now.items()


def _stored(decision: Decision) -> dict[str, Any]:
    return {
        "stage": _stage_key(decision),
        "look": decision.look,
        "gate": decision.gate,
        "scope": _scope(decision),
        "required": decision.required,
        "outcome": decision.outcome,
        "summary": decision.summary,
        "numbers": decision.numbers,
        "at": decision.at.isoformat(),
    }
