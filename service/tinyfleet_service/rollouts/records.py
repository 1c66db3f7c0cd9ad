"""Between tables and the pure views of the state machine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import insert
from sqlmodel import Session, col, func, select

from tinyfleet_service.database.models import (
    Build,
    Decision,
    Device,
    Event,
    MemberStatus,
    Model,
    ModelVersion,
    Project,
    Rollout,
    RolloutMember,
    RolloutStage,
    RolloutState,
    utc_now,
)
from tinyfleet_service.errors import NotFoundError
from tinyfleet_service.rollouts.members import MEMBER_FIELDS, AnyDevice, AnyMember
from tinyfleet_service.rollouts.observe import silence_s
from tinyfleet_service.rollouts.spec import RolloutSpec
from tinyfleet_service.rollouts.state_machine import LIVE, MemberView, Outcome, RolloutView, Stage

DUE_AT_ONCE = 5000
_log = logging.getLogger(__name__)
_FIELDS = attrgetter(*MEMBER_FIELDS)


def get_rollout(session: Session, rollout_id: int, project_id: int | None = None, *, to_write: bool = False) -> Rollout:
    """The rollout, which with `project_id` must be of that project. Raises NotFoundError.

    `to_write`: as it is now, and nobody else writes it until the transaction ends; what refers to it may be added.
    """
    lock: Any = {"key_share": True} if to_write else None
    rollout = session.get(Rollout, rollout_id, with_for_update=lock, populate_existing=to_write)
    if rollout is None or (project_id is not None and rollout.project_id != project_id):
        raise NotFoundError(
            f"no rollout {rollout_id}", next="`fleetctl rollout list` shows them", what="rollout", name=str(rollout_id)
        )
    return rollout


def members_at(session: Session, rollout: Rollout, devices: Sequence[str], now: datetime) -> list[RolloutMember]:
    """The members among these devices and those whose time has come, by device id."""
    found: dict[str, RolloutMember] = {}
    of_rollout = select(RolloutMember).where(RolloutMember.rollout_id == rollout.id)
    for start in range(0, len(devices), 500):
        chunk = list(devices[start : start + 500])
        found |= {m.device_id: m for m in session.exec(of_rollout.where(col(RolloutMember.device_id).in_(chunk)))}
    due = of_rollout.where(col(RolloutMember.due_at) <= now).order_by(col(RolloutMember.due_at)).limit(DUE_AT_ONCE)
    found |= {member.device_id: member for member in session.exec(due)}
    return [found[device_id] for device_id in sorted(found)]


def devices_of(session: Session, members: list[RolloutMember]) -> dict[str, Device]:
    """Devices of the members, by id."""
    ids = [member.device_id for member in members]
    found: dict[str, Device] = {}
    for start in range(0, len(ids), 500):  # below every database's limit of parameters
        chunk = ids[start : start + 500]
        found.update({d.id: d for d in session.exec(select(Device).where(col(Device.id).in_(chunk)))})
    return found


def spec_of(rollout: Rollout) -> RolloutSpec:
    """The accepted spec."""
    return RolloutSpec.model_validate(rollout.spec)


def stage_of(rollout: Rollout) -> Stage:
    """The current stage."""
    return Stage(RolloutStage(rollout.stage), rollout.wave)


def stage_from_key(key: str) -> Stage:
    """`waves/2` -> Stage(WAVES, 2)."""
    name, _, wave = key.partition("/")
    return Stage(RolloutStage(name), int(wave or 0))


def rollout_view_of(rollout: Rollout, *, frozen: bool = False) -> RolloutView:
    """The rollout as the rules see it; `frozen` is its fleet's (`is_frozen`)."""
    spec = spec_of(rollout)
    return RolloutView(
        state=RolloutState(rollout.state),
        stage=stage_of(rollout),
        stage_since=rollout.stage_since,
        stages=tuple(stage_from_key(stage["key"]) for stage in rollout.plan["stages"] if not stage["skipped"]),
        soak_s=spec.soak_s,
        deadline_s=spec.deadline_s,
        coverage=spec.coverage,
        on_harm=spec.on_harm,
        requested=rollout.requested,
        frozen=frozen,
    )


def is_analysed(rollout: Rollout) -> bool:
    """Whether gates are looked at: the rollout is under way and has a stage."""
    return rollout.state in LIVE and rollout.stage != RolloutStage.DONE


def is_frozen(session: Session, project_id: int) -> bool:
    """Whether the project's fleet is frozen now."""
    project = session.get(Project, project_id)
    return project is not None and project.frozen_at is not None


def member_view_of(member: AnyMember, device: AnyDevice | None) -> MemberView:
    """The member as the rules see it."""
    status, *others = _FIELDS(member)
    has_previous, silent_s = member.previous_build_id is not None, silence_s(device) if device else 0.0
    return MemberView(
        member.device_id, member.device_class, member.wave, has_previous, silent_s, MemberStatus(status), *others
    )


def store_member(member: AnyMember, view: MemberView) -> bool:
    """Write what changed; whether anything but the last contact did."""
    if _FIELDS(member) == _FIELDS(view):
        return False
    changed = False
    for name in MEMBER_FIELDS:
        value = getattr(view, name)
        value = str(value) if name == "status" else value
        if getattr(member, name) != value:
            setattr(member, name, value)
            changed |= name != "heard_at"
    return changed


def harmed_classes(session: Session, rollout: Rollout) -> set[str]:
    """Classes that a required gate took back (rule 7 of the state machine)."""
    query = select(Decision.numbers).where(
        Decision.rollout_id == rollout.id, col(Decision.required).is_(True), Decision.outcome == Outcome.ROLLBACK.value
    )
    return {str(numbers["scope"]) for numbers in session.exec(query)}


def version_name(session: Session, version_id: int | None) -> str | None:
    """`model:v3`."""
    version = session.get(ModelVersion, version_id) if version_id else None
    if version is None:
        return None
    model = session.get(Model, version.model_id)
    return f"{model.name if model else '?'}:{version.version}"


def build_of(session: Session, build_id: int | None) -> Build | None:
    """The build, None for None."""
    return session.get(Build, build_id) if build_id is not None else None


def server_accuracy(build: Build) -> float | None:
    """Accuracy of the quantised image on the evaluation set, a fraction; None where the build's report has none."""
    accuracy = (build.report or {}).get("accuracy")
    value = accuracy.get("quantized") if isinstance(accuracy, dict) else None
    return None if value is None else float(value)


def looks_before(session: Session, rollout: Rollout) -> int:
    """Looks at this stage before it began or was resumed: those since are counted anew."""
    query = select(func.max(Decision.look)).where(
        Decision.rollout_id == rollout.id, Decision.stage == rollout.stage, Decision.wave == rollout.wave
    )
    return session.exec(query.where(col(Decision.at) < rollout.stage_since)).one() or 0


def last_look(session: Session, rollout: Rollout) -> tuple[int, datetime | None, dict[tuple[str, str], dict[str, Any]]]:
    """Number and time of this stage's newest look, and its numbers by (gate, scope)."""
    query = (
        select(Decision)
        .where(Decision.rollout_id == rollout.id, Decision.stage == rollout.stage, Decision.wave == rollout.wave)
        .where(Decision.look == rollout.look)
    )
    decisions = list(session.exec(query)) if rollout.look else []
    at = max((d.at for d in decisions), default=None)
    return rollout.look, at, {(d.gate, d.numbers.get("scope", "all")): d.numbers for d in decisions}


def note(session: Session, rollout: Rollout, kind: str, device_id: str | None = None, **detail: Any) -> None:
    """One line of the rollout's history, and of the log unless it is about one member."""
    if device_id is None:
        _log.info(kind, extra={"rollout": rollout.id, "version_id": rollout.version_id, "detail": detail})
    session.add(
        Event(project_id=rollout.project_id, device_id=device_id, rollout_id=rollout.id, kind=kind, detail=detail)
    )


def note_many(session: Session, rollout: Rollout, lines: Sequence[dict[str, Any]]) -> None:
    """Lines of the rollout's history about members: `kind`, `device_id` and `detail` of each."""
    common = {"project_id": rollout.project_id, "rollout_id": rollout.id, "at": utc_now()}
    if lines:
        session.connection().execute(insert(Event), [common | line for line in lines])
