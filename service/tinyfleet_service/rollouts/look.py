"""One look: freeze counters of the analysed devices, judge the gates on them, store both in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from sqlmodel import Session, col, select

from tinyfleet_service.analysis import next_look_s
from tinyfleet_service.database.models import (
    FIRMWARE,
    CounterSnapshot,
    Decision,
    DesiredEntry,
    MemberStatus,
    Rollout,
    RolloutMember,
    RolloutStage,
)
from tinyfleet_service.rollouts.gates import GateKey, GateResult, Look, judge
from tinyfleet_service.rollouts.members import AnyDevice, AnyMember
from tinyfleet_service.rollouts.observe import HARM, heard_at, image_id, silence_s
from tinyfleet_service.rollouts.panel import panel_of
from tinyfleet_service.rollouts.records import build_of, last_look, spec_of, stage_from_key, stage_of
from tinyfleet_service.rollouts.snapshots import (
    CANARY,
    CONTROL,
    Kind,
    Row,
    Standing,
    Subject,
    compact,
    matched_starts,
    records_of,
)
from tinyfleet_service.rollouts.state_machine import Verdict

NO_IMAGE = "-"
GONE = (MemberStatus.SKIPPED, MemberStatus.UNDOING, MemberStatus.UNDONE)


class TelemetryReader(Protocol):
    """What rollouts read of telemetry."""

    def read_counters(self, device_ids: Sequence[str], image_id: str) -> Mapping[str, Any]:
        """Counters by device of one image."""
        ...

    def last_heard(self, device_ids: Sequence[str]) -> Mapping[str, datetime]:
        """When each device's newest report arrived."""
        ...


@dataclass(frozen=True)
class Cohort:
    """The devices of one stage's analysis with their arms, and what is known of them now."""

    rollout: Rollout
    members: Mapping[str, AnyMember]
    devices: Mapping[str, AnyDevice]
    heard: Mapping[str, datetime]
    now: datetime
    reflashed: frozenset[str] = frozenset()
    """Devices that were told to run another firmware since: what they count from then on says nothing of a model."""

    @property
    def stage_key(self) -> str:
        """`shadow`, `canary` or `waves/2`."""
        return stage_of(self.rollout).key

    def arm_of(self, member: AnyMember) -> str | None:
        """canary for the stage's own devices, control for devices of later waves that were not touched.

        Devices that were taken back, left out or given another firmware leave the analysis.
        """
        if member.status in GONE or member.device_id in self.reflashed:
            return None
        if member.wave == self.rollout.wave:
            return CANARY
        return CONTROL if member.wave > self.rollout.wave and member.assigned_at is None else None

    def started_at(self, member: AnyMember) -> datetime | None:
        """When the candidate began to speak on this device: in shadow, active, or by being rejected for harm."""
        shadow = self.rollout.stage == RolloutStage.SHADOW
        return (member.shadowed_at if shadow else member.activated_at) or (
            member.finished_at if member.reason in HARM else None
        )

    def flags(self, member: AnyMember, arm: str) -> dict[str, bool]:
        """Whether the device is silent now, and whether it threw the candidate out."""
        device = self.devices.get(member.device_id)
        heard = heard_at(device, self.heard.get(member.device_id)) if device else None
        late = heard is None or (self.now - heard).total_seconds() > (silence_s(device) if device else 0.0)
        if arm == CONTROL:
            return {"silent": late, "failed": False}
        rejected = member.status == "rejected" and (member.activated_at is not None or member.reason in HARM)
        return {"silent": member.status == "silent", "failed": rejected}

    def heard_since(self, device_id: str, at: datetime) -> bool:
        """Whether the device has said something after `at`."""
        device = self.devices.get(device_id)
        heard = heard_at(device, self.heard.get(device_id)) if device else None
        return heard is not None and heard > at


def look_at(session: Session, cohort: Cohort) -> datetime | None:
    """When this stage's next look is due, None after the last."""
    rollout = cohort.rollout
    devices = [cohort.devices[m.device_id] for m in cohort.members.values() if m.wave == rollout.wave]
    interval_s = float(max((d.report_interval_s for d in devices), default=1))
    number, at, _ = last_look(session, rollout)
    last_s = max((at - rollout.stage_since).total_seconds(), 0.0) if at else 0.0
    age_s = next_look_s(number, last_s, interval_s, spec_of(rollout).deadline_s)
    return None if age_s is None else rollout.stage_since + timedelta(seconds=age_s)


def take_own_starts(session: Session, cohort: Cohort, telemetry: TelemetryReader) -> bool:
    """Freeze the counters of the canaries among these few members that begin now; whether there were any.

    Their controls follow with `take_starts`, which needs the whole stage.
    """
    canaries = {m.device_id: cohort.started_at(m) for m in cohort.members.values() if cohort.arm_of(m) == CANARY}
    started = {device: at for device, at in canaries.items() if at is not None}
    known = _stored_starts(session, cohort, sorted(started)) if started else {}
    fresh = {device: at for device, at in started.items() if device not in known}
    _freeze_starts(session, cohort, telemetry, fresh)
    return bool(fresh)


def take_starts(session: Session, cohort: Cohort, telemetry: TelemetryReader) -> None:
    """Freeze the counters of devices whose comparison starts now: canaries that have begun, controls matched to them.

    A control starts now, when its counters are frozen, also if its canary has begun a while ago.
    """
    known = _stored_starts(session, cohort)
    standings = [
        Standing(m.device_id, m.stratum, m.rank, arm, cohort.started_at(m))
        for m in cohort.members.values()
        if (arm := cohort.arm_of(m)) and (arm == CANARY or m.status == "planned")
    ]
    arms = {standing.device_id: standing.arm for standing in standings}
    fresh = {
        device: at if arms[device] == CANARY else cohort.now
        for device, at in matched_starts(standings).items()
        if device not in known
    }
    _freeze_starts(session, cohort, telemetry, fresh)


def _freeze_starts(session: Session, cohort: Cohort, telemetry: TelemetryReader, fresh: Mapping[str, datetime]) -> None:
    if not fresh:
        return
    pairs = [(s, image) for s in subjects_of(session, cohort) if s.device_id in fresh for image in _images_of(s)]
    counters = _read(telemetry, pairs)
    for subject, image in pairs:
        flags = cohort.flags(cohort.members[subject.device_id], subject.arm)
        found = counters.get((image, subject.device_id)) or compact(None)
        extra = {"started_at": fresh[subject.device_id].isoformat()}
        _add(session, cohort, subject, Kind.ACTIVATION, 0, image, found | flags | extra)


def take_look(session: Session, cohort: Cohort, telemetry: TelemetryReader) -> list[Verdict]:
    """Freeze counters under the next look number, judge, store the decisions; what the gates say."""
    rollout = cohort.rollout
    _, _, earlier = last_look(session, rollout)
    rollout.look += 1
    starts = _stored_starts(session, cohort)
    subjects = [s for s in subjects_of(session, cohort) if s.device_id in starts]
    if rollout.component == FIRMWARE:
        began = _start_images(session, cohort)
        subjects = [s for s in subjects if s.after_image == began[s.device_id]]  # whose model changed left the analysis
    late = [] if rollout.stage == RolloutStage.SHADOW else [s for s in subjects if s.arm == CANARY and _changes(s)]
    pairs = [*((s, s.after_image) for s in subjects), *((s, s.before_image) for s in late if s.before_image)]
    counters = _read(telemetry, pairs)
    for subject in late:
        image = subject.before_image or NO_IMAGE
        found = counters.get((image, subject.device_id)) or compact(None)
        _add(session, cohort, subject, Kind.LATE, rollout.look, image, found)
    for subject in subjects:
        at_risk_s = (cohort.now - starts[subject.device_id]).total_seconds()
        found = counters.get((subject.after_image, subject.device_id)) or compact(None)
        flags = cohort.flags(cohort.members[subject.device_id], subject.arm)
        flags["heard"] = cohort.heard_since(subject.device_id, starts[subject.device_id])
        _add(session, cohort, subject, Kind.LOOK, rollout.look, subject.after_image,
             found | flags | {"at_risk_s": at_risk_s})  # fmt: skip
    _add_taken(session, cohort, starts)
    session.flush()
    results = judge_stored(session, rollout, cohort.members, cohort.stage_key, rollout.look, earlier)
    for result in results:
        session.add(_decision(rollout, result, cohort.now))
    session.add(rollout)
    return [result.verdict for result in results]


def _add_taken(session: Session, cohort: Cohort, starts: Mapping[str, datetime]) -> None:
    """A row for each canary that has taken its assignment up, and whether it fell silent before it began."""
    for subject in subjects_of(session, cohort):
        member = cohort.members[subject.device_id]
        taken = member.status in (MemberStatus.DOWNLOADING, MemberStatus.SILENT)
        if subject.arm == CANARY and subject.device_id not in starts and taken:
            found = {"silent": member.status == "silent"}
            _add(session, cohort, subject, Kind.TAKEN, cohort.rollout.look, subject.after_image, found)


def judge_stored(
    session: Session,
    rollout: Rollout,
    members: Mapping[str, AnyMember],
    stage_key: str,
    number: int,
    earlier: Mapping[GateKey, Mapping[str, Any]],
) -> list[GateResult]:
    """Judge one look from stored rows alone: the tick and `explain` both come through here.

    Only devices with a row at this very look take part: those that left the analysis before have none.
    """
    query = select(CounterSnapshot).where(
        CounterSnapshot.rollout_id == rollout.id, CounterSnapshot.stage == stage_key, CounterSnapshot.look <= number
    )
    rows = list(session.exec(query.order_by(CounterSnapshot.id)))  # type: ignore[arg-type]
    arms = {row.device_id: row.arm for row in rows if row.look == number and row.kind == Kind.LOOK}
    images = _images(session, members.values())
    subjects = [_subject(members[device], arm, images) for device, arm in arms.items() if device in members]
    if rollout.component == FIRMWARE:
        models = {row.device_id: row.image_id for row in rows if row.look == number and row.kind == Kind.LOOK}
        subjects = [_with_model(subject, models[subject.device_id]) for subject in subjects]
    stage = next(s for s in rollout.plan["stages"] if s["key"] == stage_key)
    taken = [row.counters["silent"] for row in rows if row.look == number and row.kind == Kind.TAKEN]
    kept = [Row(r.device_id, r.arm, r.kind, r.look, r.image_id, r.counters) for r in rows]
    look = Look(
        spec=spec_of(rollout),
        stage=stage_key,
        gates=tuple(stage["gates"]),
        shares=rollout.plan["alpha"],
        number=number,
        seed_text=rollout.salt,
        panel=panel_of(records_of(subjects, kept), number),
        earlier=earlier,
        sizes=_drawn_sizes(members.values(), {s.device_class for s in subjects if s.arm == CANARY}, stage_key),
        taken=len(taken),
        taken_silent=sum(taken),
    )
    return judge(look)


def _drawn_sizes(members: Iterable[AnyMember], classes: set[str], stage_key: str) -> tuple[tuple[int, int], ...]:
    """Devices of the stage and of later waves per stratum, in the classes that are still in the analysis."""
    wave = stage_from_key(stage_key).wave
    counts: dict[str, list[int]] = {}
    for member in members:
        if member.wave >= wave and member.device_class in classes and not member.joiner:
            counts.setdefault(member.stratum, [0, 0])[member.wave > wave] += 1
    return tuple((own, later) for own, later in counts.values())


def subjects_of(session: Session, cohort: Cohort) -> list[Subject]:
    """Subjects of the current stage, by device id."""
    images = _images(session, cohort.members.values())
    subjects = [
        _subject(member, arm, images)
        for _, member in sorted(cohort.members.items())
        if (arm := cohort.arm_of(member)) is not None
    ]
    if cohort.rollout.component != FIRMWARE:
        return subjects
    known = [(subject, cohort.devices.get(subject.device_id)) for subject in subjects]
    return [_with_model(subject, device.active_image if device else None) for subject, device in known]


def _with_model(subject: Subject, image: str | None) -> Subject:
    """A firmware is judged by what the device's model counts before and after: the same image on both sides."""
    return replace(subject, before_image=image, after_image=image or NO_IMAGE)


def _changes(subject: Subject) -> bool:
    """Whether there is an image before that is another one than after."""
    return subject.before_image not in (None, subject.after_image)


def _start_images(session: Session, cohort: Cohort) -> dict[str, str]:
    """The image that each device's comparison started with."""
    query = select(CounterSnapshot.device_id, CounterSnapshot.image_id).where(
        CounterSnapshot.rollout_id == cohort.rollout.id,
        CounterSnapshot.stage == cohort.stage_key,
        CounterSnapshot.look == 0,
        CounterSnapshot.kind == Kind.ACTIVATION,
    )
    return dict(session.exec(query).all())


def reflashed(session: Session, rollout: Rollout, devices: Sequence[str] | None = None) -> frozenset[str]:
    """Members that were assigned another firmware since a rollout of a model began, all or some thousand of them."""
    firmware = select(Rollout.id).where(Rollout.component == FIRMWARE, Rollout.project_id == rollout.project_id)
    if rollout.component == FIRMWARE or session.exec(firmware.limit(1)).first() is None:
        return frozenset()
    members = select(RolloutMember.device_id).where(RolloutMember.rollout_id == rollout.id)
    query = select(DesiredEntry.device_id).where(
        DesiredEntry.component == FIRMWARE,
        DesiredEntry.since > rollout.created_at,
        col(DesiredEntry.device_id).in_(members if devices is None else devices),
    )
    return frozenset(session.exec(query))


def _subject(member: AnyMember, arm: str, images: Mapping[int, str | None]) -> Subject:
    before = images.get(member.previous_build_id) if member.previous_build_id else None
    after = images[member.build_id] if arm == CANARY else before
    return Subject(member.device_id, member.device_class, member.stratum, arm, member.joiner, before, after or NO_IMAGE)


def _images(session: Session, members: Any) -> dict[int, str | None]:
    ids = {i for m in members for i in (m.build_id, m.previous_build_id) if i is not None}
    builds = {i: build_of(session, i) for i in sorted(ids)}
    return {i: image_id(build.image_sha256) if build else None for i, build in builds.items()}


def _stored_starts(session: Session, cohort: Cohort, devices: Sequence[str] | None = None) -> dict[str, datetime]:
    """Starts of the stage, of at most as many devices as a tick looks at, or of all."""
    query = select(CounterSnapshot).where(
        CounterSnapshot.rollout_id == cohort.rollout.id,
        CounterSnapshot.stage == cohort.stage_key,
        CounterSnapshot.look == 0,
        CounterSnapshot.kind == Kind.ACTIVATION,
    )
    if devices is not None:
        query = query.where(col(CounterSnapshot.device_id).in_(devices))
    return {row.device_id: datetime.fromisoformat(row.counters["started_at"]) for row in session.exec(query)}


def _images_of(subject: Subject) -> list[str]:
    return list(dict.fromkeys(image for image in (subject.before_image, subject.after_image) if image))


def _read(telemetry: TelemetryReader, pairs: Iterable[tuple[Subject, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Counters by (image, device), one query per image."""
    by_image: dict[str, list[str]] = {}
    for subject, image in pairs:
        if image != NO_IMAGE:
            by_image.setdefault(image, []).append(subject.device_id)
    return {
        (image, device): compact(counters)
        for image, devices in by_image.items()
        for device, counters in telemetry.read_counters(devices, image).items()
    }


def _add(
    session: Session, cohort: Cohort, subject: Subject, kind: Kind, look: int, image: str, counters: dict[str, Any]
) -> None:
    assert cohort.rollout.id is not None
    session.add(
        CounterSnapshot(
            rollout_id=cohort.rollout.id,
            device_id=subject.device_id,
            stage=cohort.stage_key,
            look=look,
            arm=subject.arm,
            kind=str(kind),
            image_id=image,
            counters=counters,
            taken_at=cohort.now,
        )
    )


def _decision(rollout: Rollout, result: GateResult, now: datetime) -> Decision:
    assert rollout.id is not None
    return Decision(
        rollout_id=rollout.id,
        stage=rollout.stage,
        wave=rollout.wave,
        look=rollout.look,
        gate=result.gate,
        required=result.required,
        outcome=str(result.outcome),
        summary=result.summary,
        numbers={"scope": result.scope} | result.numbers,
        at=now,
    )
