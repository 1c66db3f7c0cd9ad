"""One look: freeze counters of the analysed devices, judge the gates on them, store both in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import Session

from tinyfleet_service.analysis import next_look_s
from tinyfleet_service.database.keep_lease import Keep, keep_nothing
from tinyfleet_service.database.models import FIRMWARE, Decision, Rollout
from tinyfleet_service.rollouts.cohort import Cohort, images_of, subject_of, with_model
from tinyfleet_service.rollouts.freeze import (
    FreshPage,
    TelemetryReader,
    fresh_starts,
    look_pages,
    start_images,
    start_pages,
    stored_pages,
)
from tinyfleet_service.rollouts.gates import GateKey, GateResult, Look, judge
from tinyfleet_service.rollouts.ledger import Ledger, StoredPage
from tinyfleet_service.rollouts.members import AnyMember
from tinyfleet_service.rollouts.records import last_look, looks_before, note, spec_of, stage_from_key
from tinyfleet_service.rollouts.snapshots import CANARY, Kind
from tinyfleet_service.rollouts.state_machine import Verdict


def next_look_at(cohort: Cohort, number: int, at: datetime | None) -> datetime:
    """When this stage's next look is due, the newest since it began or was resumed being its `number`th, at `at`."""
    rollout = cohort.rollout
    last_s = max((at - rollout.stage_since).total_seconds(), 0.0) if at else 0.0
    age_s = next_look_s(number, last_s, _interval_s(cohort), spec_of(rollout).deadline_s)
    return rollout.stage_since + timedelta(seconds=age_s)


def _interval_s(cohort: Cohort) -> float:
    """How often all devices of the stage report."""
    devices = [cohort.devices[m.device_id] for m in cohort.members.values() if m.wave == cohort.rollout.wave]
    return float(max((d.report_interval_s for d in devices), default=1)) or 1.0


def take_own_starts(session: Session, cohort: Cohort, telemetry: TelemetryReader) -> bool:
    """Freeze the counters of the canaries among these few members that begin now; whether there were any.

    Their controls follow with `look_now`, which needs the whole stage.
    """
    canaries = {m.device_id: cohort.started_at(m) for m in cohort.members.values() if cohort.arm_of(m) == CANARY}
    started = {device: at for device, at in canaries.items() if at is not None}
    pages = stored_pages(session, cohort.rollout, cohort.stage_key, 0, CANARY) if started else []
    known = {device for page in pages for device in page.devices}
    fresh = {device: at for device, at in started.items() if device not in known}
    session.add_all(page.row(cohort) for page in start_pages(session, cohort, telemetry, fresh))
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
    passed = looks_before(session, cohort.rollout)
    starts = stored_pages(session, cohort.rollout, cohort.stage_key, 0)
    pages = start_pages(session, cohort, telemetry, fresh_starts(cohort, starts))
    look_at = next_look_at(cohort, number - passed, last_at)
    if cohort.now < look_at:
        return Looked(look_at, pages)
    starts = [*starts, *(page.page for page in pages)]
    seen = look_pages(session, cohort, telemetry, starts, number + 1)
    ledger = ledger_of(session, cohort.rollout, cohort.members, starts)
    for before in range(1, number + 1):
        keep()
        ledger.add_look(before, stored_pages(session, cohort.rollout, cohort.stage_key, before))
    this = [page.page for page in seen]
    ledger.add_look(number + 1, this)
    keep()
    results = judge_look(cohort.rollout, cohort.members, cohort.stage_key, number + 1, ledger, this, earlier, keep)
    if not results:  # no gate speaks yet, or the stage has none: nothing is kept, and no look is used up
        return Looked(cohort.now + timedelta(seconds=_interval_s(cohort)), pages, [])
    return Looked(next_look_at(cohort, number + 1 - passed, cohort.now), [*pages, *seen], results)


def store_look(session: Session, cohort: Cohort, found: Looked) -> None:
    """Store what `look_now` found."""
    session.add_all(page.row(cohort) for page in found.pages)
    if found.results:
        cohort.rollout.look += 1
        session.add_all(_decision(cohort.rollout, result, cohort.now) for result in found.results)
        for result in found.results:
            if result.numbers.get("alert"):
                note(session, cohort.rollout, f"{result.gate}_alert", stage=cohort.stage_key, summary=result.summary)
        session.add(cohort.rollout)


def ledger_of(
    session: Session, rollout: Rollout, members: Mapping[str, AnyMember], starts: Sequence[StoredPage]
) -> Ledger:
    """The stage with its starts and no look yet. Whose start is stored twice keeps the first."""
    images = images_of(session, members.values())
    arms = {device: page.arm for page in reversed(starts) for device in page.devices}
    subjects = {d: subject_of(members[d], arm, images) for d, arm in arms.items() if d in members}
    if rollout.component == FIRMWARE:
        began = start_images(starts)
        subjects = {d: with_model(subject, began[d]) for d, subject in subjects.items()}
    return Ledger(subjects, starts)


def judge_look(
    rollout: Rollout,
    members: Mapping[str, AnyMember],
    stage_key: str,
    number: int,
    ledger: Ledger,
    pages: Sequence[StoredPage],
    earlier: Mapping[GateKey, Mapping[str, Any]],
    keep: Keep = keep_nothing,
) -> list[GateResult]:
    """Judge the newest look of a ledger, whose `pages` these are: the tick and `explain` both come through here."""
    stage = next(s for s in rollout.plan["stages"] if s["key"] == stage_key)
    panel = ledger.panel()
    taken = [page for page in pages if page.kind == Kind.TAKEN]
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
        taken=sum(len(page.devices) for page in taken),
        taken_silent=sum(int(page.columns["silent"].sum()) for page in taken),
        taken_lost=sum(device in ledger.lost for page in taken for device in page.devices),
        keep=keep,
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
