"""Freezing counters: pages of what devices had counted when their comparison began, and of what they had at a look.

Only reads and makes pages; `FreshPage.row` is what a transaction stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from sqlmodel import Session, col, select

from tinyfleet_service.database.models import FIRMWARE, MemberStatus, Rollout, RolloutStage, SnapshotPage
from tinyfleet_service.rollouts.cohort import NO_IMAGE, Cohort, microseconds, subjects_of
from tinyfleet_service.rollouts.frozen import Columns, Frozen, counter_columns, decode, flag_columns
from tinyfleet_service.rollouts.ledger import StoredPage
from tinyfleet_service.rollouts.snapshots import CANARY, Kind, Standing, Subject, matched_starts
from tinyfleet_service.telemetry.columns import Columns as CounterColumns

MICROSECONDS = 1_000_000


class TelemetryReader(Protocol):
    """What rollouts read of telemetry."""

    def read_columns(self, device_ids: Sequence[str], image_id: str) -> CounterColumns:
        """Counters of one image, `(N,)` int64 by counter and bucket, in the order of these devices."""
        ...

    def last_heard(self, device_ids: Sequence[str]) -> Mapping[str, datetime]:
        """When each device's newest report arrived."""
        ...


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


def fresh_starts(cohort: Cohort, starts: Sequence[StoredPage]) -> dict[str, datetime]:
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


def start_pages(
    session: Session, cohort: Cohort, telemetry: TelemetryReader, fresh: Mapping[str, datetime]
) -> list[FreshPage]:
    """The counters of these devices, whose comparison began at the time given, with both images."""
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


def start_images(starts: Sequence[StoredPage]) -> dict[str, str]:
    """The image that each device's comparison with itself began with, in a rollout of firmware: it has only one."""
    return {device: page.image_id for page in reversed(starts) for device in page.devices}


def look_pages(
    session: Session, cohort: Cohort, telemetry: TelemetryReader, starts: Sequence[StoredPage], number: int
) -> list[FreshPage]:
    """The counters of all devices that have started, those of the image before on canaries, and who has not begun."""
    started_us = {
        d: us for page in starts for d, us in zip(page.devices, page.columns["started_us"].tolist(), strict=True)
    }
    everybody = subjects_of(session, cohort)
    subjects = [s for s in everybody if s.device_id in started_us]
    if cohort.rollout.component == FIRMWARE:
        began = start_images(starts)
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
    columns = flag_columns(flags, ("silent", "failed", "heard")) | {"at_risk_s": at_risk_us / MICROSECONDS}
    return columns | {"gone_s": _gone_s(cohort, group)}


def _gone_s(cohort: Cohort, group: Sequence[Subject]) -> Any:
    return np.array([cohort.gone_s(subject.device_id) for subject in group], np.int64)


def _taken_pages(cohort: Cohort, waiting: Sequence[Subject], number: int) -> list[FreshPage]:
    """Canaries that have taken their assignment up and not begun, and whether they fell silent meanwhile."""
    begun = (MemberStatus.DOWNLOADING, MemberStatus.SILENT)
    taken = [s for s in waiting if s.arm == CANARY and cohort.members[s.device_id].status in begun]
    if not taken:
        return []
    silent = np.array([cohort.members[s.device_id].status == MemberStatus.SILENT for s in taken], dtype=bool)
    columns = {"silent": silent, "gone_s": _gone_s(cohort, taken)}
    return [_fresh_page(CANARY, Kind.TAKEN, number, NO_IMAGE, Frozen(_ids(taken), columns))]


def _changes(subject: Subject) -> bool:
    """Whether there is an image before that is another one than after."""
    return subject.before_image not in (None, subject.after_image)


def _images_of(subject: Subject) -> list[str]:
    return list(dict.fromkeys(image for image in (subject.before_image, subject.after_image) if image))


def _by_page(pairs: Iterable[tuple[Subject, str]]) -> dict[tuple[str, str], list[Subject]]:
    """Subjects by (arm, image): a page each."""
    groups: dict[tuple[str, str], list[Subject]] = {}
    for subject, image in pairs:
        groups.setdefault((subject.arm, image), []).append(subject)
    return groups


def _counters(telemetry: TelemetryReader, group: Sequence[Subject], image: str) -> Columns:
    found = telemetry.read_columns(_ids(group), image) if image != NO_IMAGE else {}
    return counter_columns(found, len(group))


def _ids(group: Sequence[Subject]) -> tuple[str, ...]:
    return tuple(subject.device_id for subject in group)
