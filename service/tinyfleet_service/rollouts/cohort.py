"""The devices whose comparison a stage makes: which arm each is in, since when, and which images stand for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from math import ceil

from sqlmodel import Session, col, select

from tinyfleet_service.database.models import FIRMWARE, DesiredEntry, Rollout, RolloutMember, RolloutStage
from tinyfleet_service.rollouts.members import AnyDevice, AnyMember
from tinyfleet_service.rollouts.observe import HARM, heard_at, image_id, silence_s
from tinyfleet_service.rollouts.records import build_of, stage_of
from tinyfleet_service.rollouts.snapshots import CANARY, CONTROL, Subject
from tinyfleet_service.rollouts.state_machine import LEFT

NO_IMAGE = "-"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(at: datetime) -> int:
    """Since 1970, exactly."""
    return (at - _EPOCH) // timedelta(microseconds=1)


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
    silence_from: datetime | None = None
    """As `Work.silence_from`."""

    @property
    def stage_key(self) -> str:
        """`shadow`, `canary` or `waves/2`."""
        return stage_of(self.rollout).key

    def arm_of(self, member: AnyMember) -> str | None:
        """canary for the stage's own devices, control for devices of later waves that were not touched.

        Devices that were taken back, left out or given another firmware leave the analysis.
        """
        if member.status in LEFT or member.device_id in self.reflashed:
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
        if arm == CONTROL:
            patient_to = self._patient_to(member.device_id)
            return {"silent": patient_to is None or self.now > patient_to, "failed": False}
        rejected = member.status == "rejected" and (member.activated_at is not None or member.reason in HARM)
        return {"silent": member.status == "silent", "failed": rejected}

    def gone_s(self, device_id: str) -> int:
        """For how many seconds, at least 1, the device has been silent, 0 unless another was heard meanwhile.

        When nobody is heard, it may be the network between them and us that is silent.
        """
        patient_to, newest = self._patient_to(device_id), self._last_of_all
        if patient_to is None or newest is None or newest <= patient_to or self.now <= patient_to:
            return 0
        return ceil((self.now - patient_to).total_seconds())

    def heard_since(self, device_id: str, at_us: int) -> bool:
        """Whether the device has said something after `at_us`, microseconds since 1970."""
        heard = self._heard_at(device_id)
        return heard is not None and microseconds(heard) > at_us

    def _heard_at(self, device_id: str) -> datetime | None:
        device = self.devices.get(device_id)
        return heard_at(device, self.heard.get(device_id)) if device else None

    def _patient_to(self, device_id: str) -> datetime | None:
        """Until when the device may say nothing; None for one that never said anything."""
        heard = self._heard_at(device_id)
        if heard is None:
            return None
        return max(heard, self.silence_from or heard) + timedelta(seconds=silence_s(self.devices[device_id]))

    @cached_property
    def _last_of_all(self) -> datetime | None:
        return max(filter(None, map(self._heard_at, self.devices)), default=None)


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


def subjects_of(session: Session, cohort: Cohort) -> list[Subject]:
    """Subjects of the current stage, by device id."""
    images = images_of(session, cohort.members.values())
    subjects = [
        subject_of(member, arm, images)
        for _, member in sorted(cohort.members.items())
        if (arm := cohort.arm_of(member)) is not None
    ]
    if cohort.rollout.component != FIRMWARE:
        return subjects
    known = [(subject, cohort.devices.get(subject.device_id)) for subject in subjects]
    return [with_model(subject, device.active_image if device else None) for subject, device in known]


def subject_of(member: AnyMember, arm: str, images: Mapping[int, str | None]) -> Subject:
    """The member with the images that stand for before and after in this arm; `images` by build, of `images_of`."""
    before = images.get(member.previous_build_id) if member.previous_build_id else None
    after = images[member.build_id] if arm == CANARY else before
    return Subject(member.device_id, member.device_class, member.stratum, arm, member.joiner, before, after or NO_IMAGE)


def with_model(subject: Subject, image: str | None) -> Subject:
    """A firmware is judged by what the device's model counts before and after: the same image on both sides."""
    return replace(subject, before_image=image, after_image=image or NO_IMAGE)


def images_of(session: Session, members: Iterable[AnyMember]) -> dict[int, str | None]:
    """Image id of every build that these members get or go back to."""
    ids = {i for m in members for i in (m.build_id, m.previous_build_id) if i is not None}
    builds = {i: build_of(session, i) for i in sorted(ids)}
    return {i: image_id(build.image_sha256) if build else None for i, build in builds.items()}
