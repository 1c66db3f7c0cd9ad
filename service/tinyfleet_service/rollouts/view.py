"""A rollout as API, CLI and dashboard show it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlmodel import Session, col, select

from tinyfleet_service.database.models import (
    Build,
    Decision,
    Event,
    MemberStatus,
    Rollout,
    RolloutMember,
    RolloutStage,
    RolloutState,
    utc_now,
)
from tinyfleet_service.rollouts.observe import image_id
from tinyfleet_service.rollouts.records import build_of, get_rollout, members_of, spec_of, stage_of, version_name
from tinyfleet_service.rollouts.snapshots import compact

TIMELINE = 200
QUIET_KINDS = ("member_assigned",)


def rollout_view(session: Session, rollout_id: int, telemetry: Any = None) -> dict[str, Any]:
    """Everything about one rollout, as plain JSON. `telemetry` adds accuracy on devices. Raises NotFoundError."""
    rollout = get_rollout(session, rollout_id)
    members = members_of(session, rollout)
    gates = latest_gates(session, rollout)
    return rollout_summary(session, rollout, members) | {
        "plan": rollout.plan,
        "stages": _stages(rollout, members, gates),
        "gates": [gate for gate in gates if gate["stage"] == _shown_stage(rollout)],
        "timeline": timeline(session, rollout_id),
        **accuracy(session, rollout, members, telemetry),
    }


def rollout_summary(session: Session, rollout: Rollout, members: list[RolloutMember] | None = None) -> dict[str, Any]:
    """The short form, for lists."""
    members = members_of(session, rollout) if members is None else members
    counts = Counter(m.status for m in members)
    end = rollout.finished_at or utc_now()
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
        "devices": len(members),
        "canary_devices": sum(m.wave == 0 and not m.joiner for m in members),
        "canaries": [m.device_id for m in members if m.wave == 0 and not m.joiner],
        "members": dict(sorted(counts.items())),
        "unreached_devices": sum(m.assigned_at is not None and m.heard_at is None for m in members),
        "silent_devices": [m.device_id for m in members if _is_silent(m)],
        "recovered_devices": [m.device_id for m in members if m.silent_at is not None and not _is_silent(m)],
        "downloads": sum(m.bytes_full > 0 for m in members),
        "bytes_full": sum(m.bytes_full for m in members),
        "bytes_sent": sum(m.bytes_sent for m in members),
        "created_by": rollout.created_by,
        "created_at": rollout.created_at.isoformat(),
        "stage_since": rollout.stage_since.isoformat(),
        "finished_at": rollout.finished_at.isoformat() if rollout.finished_at else None,
        "seconds": round((end - rollout.created_at).total_seconds(), 1),
    }


def list_rollouts(session: Session, project_id: int) -> list[dict[str, Any]]:
    """All rollouts of a project in short form, the newest first."""
    query = select(Rollout).where(Rollout.project_id == project_id).order_by(col(Rollout.id).desc())
    return [rollout_summary(session, rollout) for rollout in session.exec(query)]


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


def accuracy(session: Session, rollout: Rollout, members: list[RolloutMember], telemetry: Any) -> dict[str, Any]:
    """Accuracy of the candidate: labelled inferences on all devices that ran or shadowed it, and on the server."""
    builds = {i: build_of(session, i) for i in sorted({m.build_id for m in members})}
    labelled, correct = 0, 0
    for build_id, build in builds.items():
        image = image_id(build.image_sha256) if build else None
        if telemetry is None or image is None:
            continue
        devices = [m.device_id for m in members if m.build_id == build_id]
        for counters in telemetry.read_counters(devices, image).values():
            counts = compact(counters)
            both, _, candidate_only, _ = counts["shadow_pairs"]
            labelled += counts["labelled"] + sum(counts["shadow_pairs"])
            correct += counts["correct"] + both + candidate_only
    return {
        "labelled": labelled,
        "accuracy_device": correct / labelled if labelled else None,
        "accuracy_server": _accuracy_server([b for b in builds.values() if b], members),
    }


def _accuracy_server(builds: list[Build], members: list[RolloutMember]) -> float | None:
    """Quantised accuracy of the builds' reports, weighted by the devices that get them."""
    weights = Counter(m.build_id for m in members)
    known = [
        (float(accuracy["quantized"]), weights[build.id])
        for build in builds
        if build.id is not None
        and isinstance(accuracy := (build.report or {}).get("accuracy"), dict)
        and accuracy.get("quantized") is not None
    ]
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


def _stages(rollout: Rollout, members: list[RolloutMember], gates: list[dict[str, Any]]) -> list[dict[str, Any]]:
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
                "members": dict(Counter(m.status for m in members if m.wave == wave)),
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
    if rollout.stage == RolloutStage.DONE:
        return str(RolloutStage.WAVES)
    return rollout.stage


def _outcome(rollout: Rollout) -> str | None:
    if rollout.state == RolloutState.ABORTED:
        return str(RolloutState.ROLLED_BACK)
    final = (RolloutState.PROMOTED, RolloutState.ROLLED_BACK, RolloutState.HELD)
    return rollout.state if rollout.state in final else None


def _is_silent(member: RolloutMember) -> bool:
    if member.silent_at is None:
        return False
    return member.status == MemberStatus.SILENT or (member.heard_at is not None and member.heard_at < member.silent_at)


def _key(stage: str, wave: int) -> str:
    return f"{stage}/{wave}" if stage == RolloutStage.WAVES else stage
