"""A rollout as API, CLI and dashboard show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlmodel import Session, col, func, select

from tinyfleet_service.database.models import (
    Build,
    Decision,
    Event,
    Rollout,
    RolloutMember,
    RolloutStage,
    RolloutState,
    utc_now,
)
from tinyfleet_service.rollouts.observe import image_id
from tinyfleet_service.rollouts.records import build_of, get_rollout, server_accuracy, spec_of, stage_of, version_name
from tinyfleet_service.rollouts.tally import Tally, tally_members

TIMELINE = 200
QUIET_KINDS = ("member_assigned",)


def rollout_view(session: Session, rollout_id: int, telemetry: Any = None) -> dict[str, Any]:
    """Everything about one rollout, as plain JSON. `telemetry` adds accuracy on devices. Raises NotFoundError."""
    rollout = get_rollout(session, rollout_id)
    tally = tally_members(session, [rollout_id])[rollout_id]
    gates = latest_gates(session, rollout)
    return _summary(session, rollout, tally) | {
        "plan": rollout.plan,
        "stages": _stages(rollout, tally, gates),
        "gates": [gate for gate in gates if gate["stage"] == _shown_stage(rollout)],
        "timeline": timeline(session, rollout_id),
        **accuracy(session, rollout, telemetry),
    }


def list_rollouts(session: Session, project_id: int, limit: int | None = None) -> list[dict[str, Any]]:
    """The rollouts of a project in short form, the newest first, all or `limit` of them."""
    query = select(Rollout).where(Rollout.project_id == project_id).order_by(col(Rollout.id).desc())
    found = session.exec(query.limit(limit)).all()
    tallies = tally_members(session, [rollout.id or 0 for rollout in found])
    return [_summary(session, rollout, tallies[rollout.id or 0]) for rollout in found]


def _summary(session: Session, rollout: Rollout, tally: Tally) -> dict[str, Any]:
    """The short form, for lists."""
    end = rollout.finished_at or utc_now()
    counts = tally.statuses
    return {
        "id": rollout.id,
        "version": version_name(session, rollout.version_id),
        "previous_version": version_name(session, rollout.previous_version_id),
        "component": rollout.component,
        "state": rollout.state,
        "outcome": _outcome(rollout),
        "stage": rollout.stage,
        "wave": rollout.wave,
        "ended_stage": _ended_stage(rollout),
        "reason": rollout.reason,
        "requested": rollout.requested,
        "devices": counts.total(),
        "canary_devices": tally.canary_devices,
        "canaries": tally.canaries,
        "members": dict(sorted(counts.items())),
        "unreached_devices": tally.unreached,
        "silent_devices": tally.silent,
        "recovered_devices": tally.recovered,
        "downloads": tally.downloads,
        "bytes_full": tally.bytes_full,
        "bytes_sent": tally.bytes_sent,
        "created_by": rollout.created_by,
        "created_at": rollout.created_at.isoformat(),
        "stage_since": rollout.stage_since.isoformat(),
        "finished_at": rollout.finished_at.isoformat() if rollout.finished_at else None,
        "seconds": round((end - rollout.created_at).total_seconds(), 1),
    }


def latest_gates(session: Session, rollout: Rollout) -> list[dict[str, Any]]:
    """The newest decision of each gate in each stage, in the order the stages were reached."""
    query = select(Decision).where(Decision.rollout_id == rollout.id).order_by(Decision.id)  # type: ignore[arg-type]
    newest: dict[tuple[str, str, str], Decision] = {}
    for decision in session.exec(query):
        newest[(_key(decision.stage, decision.wave), decision.gate, decision.numbers.get("scope", "all"))] = decision
    return [_gate(rollout, key, decision) for key, decision in newest.items()]


def _gate(rollout: Rollout, key: tuple[str, str, str], decision: Decision) -> dict[str, Any]:
    stage, gate, scope = key
    return {
        "stage": stage,
        "name": gate if scope == "all" else f"{gate} ({scope})",
        "gate": gate,
        "scope": scope,
        "policy": str(spec_of(rollout).policy(gate)),
        "required": decision.required,
        "outcome": decision.outcome,
        "summary": decision.summary,
        "numbers": decision.numbers,
        "look": decision.look,
        "at": decision.at.isoformat(),
    }


def accuracy(session: Session, rollout: Rollout, telemetry: Any) -> dict[str, Any]:
    """Accuracy of the candidate: labelled inferences on all devices that ran or shadowed it, and on the server."""
    weights = _devices_by_build(session, rollout)
    builds = {i: build_of(session, i) for i in weights}
    labelled, correct = 0, 0
    for build_id, build in builds.items():
        image = image_id(build.image_sha256) if build else None
        if telemetry is None or image is None:
            continue
        of_build = select(RolloutMember.device_id).where(
            RolloutMember.rollout_id == rollout.id, RolloutMember.build_id == build_id
        )
        counters = telemetry.sum_counters(session.exec(of_build).all(), image)
        labelled += counters.labelled + sum(counters.shadow_pairs)
        correct += counters.correct + counters.shadow_pairs[0] + counters.shadow_pairs[2]
    return {
        "labelled": labelled,
        "accuracy_device": correct / labelled if labelled else None,
        "accuracy_server": _accuracy_server([b for b in builds.values() if b], weights),
    }


def _devices_by_build(session: Session, rollout: Rollout) -> dict[int, int]:
    build_id = col(RolloutMember.build_id)
    query = select(build_id, func.count()).where(RolloutMember.rollout_id == rollout.id)
    return dict(session.exec(query.group_by(build_id).order_by(build_id)).all())


def _accuracy_server(builds: list[Build], weights: Mapping[int, int]) -> float | None:
    """Quantised accuracy of the builds' reports, weighted by the devices that get them."""
    known = [(value, weights[build.id or 0]) for build in builds if (value := server_accuracy(build)) is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None


def timeline(session: Session, rollout_id: int) -> list[dict[str, Any]]:
    """What happened, in order; the newest `TIMELINE` entries."""
    query = select(Event).where(Event.rollout_id == rollout_id, col(Event.kind).not_in(QUIET_KINDS))
    rows = list(session.exec(query.order_by(col(Event.id).desc()).limit(TIMELINE)))
    return [
        {"at": row.at.isoformat(), "kind": row.kind, "device": row.device_id, "detail": row.detail}
        for row in reversed(rows)
    ]


def _stages(rollout: Rollout, tally: Tally, gates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    keys = [stage["key"] for stage in rollout.plan["stages"]]
    here = keys.index(_shown_stage(rollout))
    done = rollout.stage == RolloutStage.DONE
    shown = []
    for index, stage in enumerate(rollout.plan["stages"]):
        wave = int(stage["key"].partition("/")[2] or 0)
        status = "done" if done or index < here else "current" if index == here else "todo"
        shown.append(
            stage
            | {
                "name": stage["key"].replace("waves/", "wave "),
                "status": "skipped" if stage["skipped"] else status,
                "members": dict(sorted(tally.waves[wave].items())),
                "gates": [gate for gate in gates if gate["stage"] == stage["key"]],
                "planned_gates": stage["gates"],
            }
        )
    return shown


def _shown_stage(rollout: Rollout) -> str:
    """The current stage; after the end, the last one that was passed."""
    if rollout.stage != RolloutStage.DONE:
        return stage_of(rollout).key
    return str(next(s["key"] for s in reversed(rollout.plan["stages"]) if not s["skipped"]))


def _ended_stage(rollout: Rollout) -> str:
    return _shown_stage(rollout).partition("/")[0]


def _outcome(rollout: Rollout) -> str | None:
    if rollout.state == RolloutState.ABORTED:
        return str(RolloutState.ROLLED_BACK)
    final = (RolloutState.PROMOTED, RolloutState.ROLLED_BACK, RolloutState.HELD)
    return rollout.state if rollout.state in final else None


def _key(stage: str, wave: int) -> str:
    return f"{stage}/{wave}" if stage == RolloutStage.WAVES else stage
