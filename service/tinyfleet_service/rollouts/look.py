"""One look: freeze counters of the analysed devices, judge the gates on them, store both in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import numpy as np
from sqlmodel import Session, col, select

from tinyfleet_service.analysis import next_look_s
from tinyfleet_service.database.keep_lease import Keep, keep_nothing
from tinyfleet_service.database.models import (
    FIRMWARE,
    Decision,
    DesiredEntry,
    MemberStatus,
    Rollout,
    RolloutMember,
    RolloutStage,
    SnapshotPage,
)
from tinyfleet_service.rollouts.frozen import Columns, Frozen, counter_columns, decode, flag_columns
from tinyfleet_service.rollouts.gates import GateKey, GateResult, Look, judge
from tinyfleet_service.rollouts.ledger import Ledger, StoredPage
from tinyfleet_service.rollouts.members import AnyDevice, AnyMember
from tinyfleet_service.rollouts.observe import HARM, heard_at, image_id, silence_s
from tinyfleet_service.rollouts.records import build_of, last_look, note, spec_of, stage_from_key, stage_of
from tinyfleet_service.rollouts.snapshots import (
    CANARY,
    CONTROL,
    Kind,
    Standing,
    Subject,
    compact,
    matched_starts,
)
from tinyfleet_service.rollouts.state_machine import Verdict

NO_IMAGE = "-"
MICROSECONDS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
GONE = (MemberStatus.SKIPPED, MemberStatus.UNDOING, MemberStatus.UNDONE)


def microseconds(at: datetime) -> int:
    """Since 1970, exactly."""
    return (at - _EPOCH) // timedelta(microseconds=1)


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

    def heard_since(self, device_id: str, at_us: int) -> bool:
        """Whether the device has said something after `at_us`, microseconds since 1970."""
        device = self.devices.get(device_id)
        heard = heard_at(device, self.heard.get(device_id)) if device else None
        return heard is not None and microseconds(heard) > at_us


def next_look_at(cohort: Cohort, number: int, at: datetime | None) -> datetime | None:
    """When this stage's next look is due, the newest being `number` at `at`; None after the last."""
    rollout = cohort.rollout
    devices = [cohort.devices[m.device_id] for m in cohort.members.values() if m.wave == rollout.wave]
    interval_s = float(max((d.report_interval_s for d in devices), default=1))
    last_s = max((at - rollout.stage_since).total_seconds(), 0.0) if at else 0.0
    age_s = next_look_s(number, last_s, interval_s, spec_of(rollout).deadline_s)
    return None if age_s is None else rollout.stage_since + timedelta(seconds=age_s)


def take_own_starts(session: Session, cohort: Cohort, telemetry: TelemetryReader) -> bool:
    """Freeze the counters of the canaries among these few members that begin now; whether there were any.

    Their controls follow with `look_now`, which needs the whole stage.
    """
    canaries = {m.device_id: cohort.started_at(m) for m in cohort.members.values() if cohort.arm_of(m) == CANARY}
    started = {device: at for device, at in canaries.items() if at is not None}
    pages = stored_pages(session, cohort.rollout, cohort.stage_key, 0, CANARY) if started else []
    known = {device for page in pages for device in page.devices}
    fresh = {device: at for device, at in started.items() if device not in known}
    session.add_all(page.row(cohort) for page in _start_pages(session, cohort, telemetry, fresh))
    return bool(fresh)


@dataclass(frozen=True)
class Looked:
    """What a look found, of which nothing is stored yet: verdicts and decisions only when one was due."""

    look_at: datetime | None = None
    pages: Sequence[FreshPage] = ()
    results: Sequence[GateResult] | None = None

    @property
    def verdicts(self) -> list[Verdict] | None:
        """What the gates say, None without a look."""
        return None if self.results is None else [result.verdict for result in self.results]


def look_now(session: Session, cohort: Cohort, telemetry: TelemetryReader, keep: Keep = keep_nothing) -> Looked:
    """Freeze the counters of devices whose comparison starts now, and when a look is due those of all in it, and judge
    them. Only reads; `keep` keeps the lease between earlier looks.
    """
    number, last_at, earlier = last_look(session, cohort.rollout)
    starts = stored_pages(session, cohort.rollout, cohort.stage_key, 0)
    pages = _start_pages(session, cohort, telemetry, _fresh_starts(cohort, starts))
    look_at = next_look_at(cohort, number, last_at)
    if look_at is None or cohort.now < look_at:
        return Looked(look_at, pages)
    starts = [*starts, *(page.page for page in pages)]
    seen = _look_pages(session, cohort, telemetry, starts, number + 1)
    ledger = ledger_of(session, cohort.rollout, cohort.members, starts)
    for before in range(1, number + 1):
        keep()
        ledger.add_look(before, stored_pages(session, cohort.rollout, cohort.stage_key, before))
    this = [page.page for page in seen]
    ledger.add_look(number + 1, this)
    keep()
    results = judge_look(cohort.rollout, cohort.members, cohort.stage_key, number + 1, ledger, this, earlier)
    looked_at = cohort.now if results else None  # as `last_look` will tell: of a stage without gates nothing is kept
    return Looked(next_look_at(cohort, number + 1, looked_at), [*pages, *seen], results)


def store_look(session: Session, cohort: Cohort, found: Looked) -> None:
    """Store what `look_now` found."""
    session.add_all(page.row(cohort) for page in found.pages)
    if found.results is not None:
        cohort.rollout.look += 1
        session.add_all(_decision(cohort.rollout, result, cohort.now) for result in found.results)
        for result in found.results:
            if result.numbers.get("alert"):
                note(session, cohort.rollout, f"{result.gate}_alert", stage=cohort.stage_key, summary=result.summary)
        session.add(cohort.rollout)


@dataclass(frozen=True)
class FreshPage:
    """A page that is not stored yet, as it will be read."""

    data: bytes
    page: StoredPage

    def row(self, cohort: Cohort) -> SnapshotPage:
        """The row that stores it."""
        assert cohort.rollout.id is not None
        page = self.page
        return SnapshotPage(
            rollout_id=cohort.rollout.id, stage=cohort.stage_key, look=page.look, arm=page.arm, kind=page.kind,
            image_id=page.image_id, devices=len(page.devices), columns=self.data, taken_at=cohort.now,
        )  # fmt: skip


def _fresh_page(arm: str, kind: Kind, look: int, image: str, frozen: Frozen) -> FreshPage:
    return FreshPage(frozen.encode(), StoredPage(arm, str(kind), look, image, frozen.devices, frozen.columns))


def stored_pages(
    session: Session, rollout: Rollout, stage_key: str, look: int, arm: str | None = None
) -> list[StoredPage]:
    """The pages of one look of a stage (0: its starts), of both arms or of one."""
    query = select(SnapshotPage).where(
        SnapshotPage.rollout_id == rollout.id, SnapshotPage.stage == stage_key, SnapshotPage.look == look
    )
    query = query if arm is None else query.where(SnapshotPage.arm == arm)
    pages = []
    for row in session.exec(query.order_by(col(SnapshotPage.id))):
        frozen = decode(row.columns)
        pages.append(StoredPage(row.arm, row.kind, row.look, row.image_id, frozen.devices, frozen.columns))
    return pages


def _fresh_starts(cohort: Cohort, starts: Sequence[StoredPage]) -> dict[str, datetime]:
    """Canaries that have begun and controls matched to them, as far as they have no start yet.

    A control starts now, when its counters are frozen, also if its canary has begun a while ago.
    """
    known = {device for page in starts for device in page.devices}
    standings = [
        Standing(m.device_id, m.stratum, m.rank, arm, cohort.started_at(m))
        for m in cohort.members.values()
        if (arm := cohort.arm_of(m)) and (arm == CANARY or m.status == "planned")
    ]
    arms = {standing.device_id: standing.arm for standing in standings}
    return {
        device: at if arms[device] == CANARY else cohort.now
        for device, at in matched_starts(standings).items()
        if device not in known
    }


def _start_pages(
    session: Session, cohort: Cohort, telemetry: TelemetryReader, fresh: Mapping[str, datetime]
) -> list[FreshPage]:
    subjects = [s for s in subjects_of(session, cohort) if s.device_id in fresh] if fresh else []
    pairs = [(subject, image) for subject in subjects for image in _images_of(subject)]
    pages = []
    for (arm, image), group in _by_page(pairs).items():
        flags = [cohort.flags(cohort.members[s.device_id], arm) for s in group]
        columns = _counters(telemetry, group, image) | flag_columns(flags, ("silent", "failed"))
        columns["started_us"] = np.array([microseconds(fresh[s.device_id]) for s in group], np.int64)
        frozen = Frozen(tuple(s.device_id for s in group), columns)
        pages.append(_fresh_page(arm, Kind.ACTIVATION, 0, image, frozen))
    return pages


def _look_pages(
    session: Session, cohort: Cohort, telemetry: TelemetryReader, starts: Sequence[StoredPage], number: int
) -> list[FreshPage]:
    """The counters of all devices that have started, those of the image before on canaries, and who has not begun."""
    started_us = {
        d: us for page in starts for d, us in zip(page.devices, page.columns["started_us"].tolist(), strict=True)
    }
    everybody = subjects_of(session, cohort)
    subjects = [s for s in everybody if s.device_id in started_us]
    if cohort.rollout.component == FIRMWARE:
        began = _start_images(starts)
        subjects = [s for s in subjects if s.after_image == began[s.device_id]]  # whose model changed left the analysis
    pages = [] if cohort.rollout.stage == RolloutStage.SHADOW else _late_pages(telemetry, subjects, number)
    for (arm, image), group in _by_page((s, s.after_image) for s in subjects).items():
        columns = _counters(telemetry, group, image) | _look_columns(cohort, group, arm, started_us)
        pages.append(_fresh_page(arm, Kind.LOOK, number, image, Frozen(_ids(group), columns)))
    return [*pages, *_taken_pages(cohort, [s for s in everybody if s.device_id not in started_us], number)]


def _late_pages(telemetry: TelemetryReader, subjects: Sequence[Subject], number: int) -> list[FreshPage]:
    late = [(s, s.before_image) for s in subjects if s.arm == CANARY and s.before_image and _changes(s)]
    return [
        _fresh_page(arm, Kind.LATE, number, image, Frozen(_ids(group), _counters(telemetry, group, image)))
        for (arm, image), group in _by_page(late).items()
    ]


def _look_columns(cohort: Cohort, group: Sequence[Subject], arm: str, started_us: Mapping[str, int]) -> Columns:
    flags = []
    for subject in group:
        flags.append(cohort.flags(cohort.members[subject.device_id], arm))
        flags[-1]["heard"] = cohort.heard_since(subject.device_id, started_us[subject.device_id])
    at_risk_us = microseconds(cohort.now) - np.array([started_us[s.device_id] for s in group], np.int64)
    return flag_columns(flags, ("silent", "failed", "heard")) | {"at_risk_s": at_risk_us / MICROSECONDS}


def _taken_pages(cohort: Cohort, waiting: Sequence[Subject], number: int) -> list[FreshPage]:
    """Canaries that have taken their assignment up and not begun, and whether they fell silent meanwhile."""
    begun = (MemberStatus.DOWNLOADING, MemberStatus.SILENT)
    taken = [s for s in waiting if s.arm == CANARY and cohort.members[s.device_id].status in begun]
    if not taken:
        return []
    silent = np.array([cohort.members[s.device_id].status == MemberStatus.SILENT for s in taken], dtype=bool)
    return [_fresh_page(CANARY, Kind.TAKEN, number, NO_IMAGE, Frozen(_ids(taken), {"silent": silent}))]


def ledger_of(
    session: Session, rollout: Rollout, members: Mapping[str, AnyMember], starts: Sequence[StoredPage]
) -> Ledger:
    """The stage with its starts and no look yet. Whose start is stored twice keeps the first."""
    images = _images(session, members.values())
    arms = {device: page.arm for page in reversed(starts) for device in page.devices}
    subjects = {d: _subject(members[d], arm, images) for d, arm in arms.items() if d in members}
    if rollout.component == FIRMWARE:
        began = _start_images(starts)
        subjects = {d: _with_model(subject, began[d]) for d, subject in subjects.items()}
    return Ledger(subjects, starts)


def _start_images(starts: Sequence[StoredPage]) -> dict[str, str]:
    """The image that each device's comparison with itself began with, in a rollout of firmware: it has only one."""
    return {device: page.image_id for page in reversed(starts) for device in page.devices}


def judge_look(
    rollout: Rollout,
    members: Mapping[str, AnyMember],
    stage_key: str,
    number: int,
    ledger: Ledger,
    pages: Sequence[StoredPage],
    earlier: Mapping[GateKey, Mapping[str, Any]],
) -> list[GateResult]:
    """Judge the newest look of a ledger, whose `pages` these are: the tick and `explain` both come through here."""
    stage = next(s for s in rollout.plan["stages"] if s["key"] == stage_key)
    panel = ledger.panel()
    taken = [page.columns["silent"] for page in pages if page.kind == Kind.TAKEN]
    look = Look(
        spec=spec_of(rollout),
        stage=stage_key,
        gates=tuple(stage["gates"]),
        shares=rollout.plan["alpha"],
        number=number,
        seed_text=rollout.salt,
        panel=panel,
        earlier=earlier,
        sizes=_drawn_sizes(members.values(), set(panel.canary_classes), stage_key),
        taken=sum(len(silent) for silent in taken),
        taken_silent=sum(int(silent.sum()) for silent in taken),
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


def _images_of(subject: Subject) -> list[str]:
    return list(dict.fromkeys(image for image in (subject.before_image, subject.after_image) if image))


def _by_page(pairs: Iterable[tuple[Subject, str]]) -> dict[tuple[str, str], list[Subject]]:
    """Subjects by (arm, image): a page each."""
    groups: dict[tuple[str, str], list[Subject]] = {}
    for subject, image in pairs:
        groups.setdefault((subject.arm, image), []).append(subject)
    return groups


def _counters(telemetry: TelemetryReader, group: Sequence[Subject], image: str) -> Columns:
    found = telemetry.read_counters(_ids(group), image) if image != NO_IMAGE else {}
    nothing = compact(None)
    return counter_columns([compact(found[d]) if d in found else nothing for d in _ids(group)])


def _ids(group: Sequence[Subject]) -> tuple[str, ...]:
    return tuple(subject.device_id for subject in group)


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
