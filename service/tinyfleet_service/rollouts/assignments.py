"""Carry out what members want: assign the difference between wanted and assigned, in small transactions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tinyfleet_ota.protocol import SlotState
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import check_fence, session_scope
from tinyfleet_service.database.models import (
    Build,
    Desired,
    Device,
    DeviceState,
    MemberStatus,
    Rollout,
    RolloutMember,
    StableBuild,
    TransferBlob,
)
from tinyfleet_service.errors import FleetError, UnavailableError
from tinyfleet_service.publish import base_ids, prepare_transfers
from tinyfleet_service.rollouts.admit import HOUR, Limits, Start, admitted, parse_window
from tinyfleet_service.rollouts.observe import image_id
from tinyfleet_service.rollouts.records import (
    build_of,
    devices_of,
    get_rollout,
    is_frozen,
    member_view_of,
    members_of,
    rollout_view_of,
    spec_of,
)
from tinyfleet_service.rollouts.spec import RolloutSpec
from tinyfleet_service.rollouts.state_machine import Target, Want, wanted

LEASE = "controller"
BATCH = 100
log = logging.getLogger(__name__)

Assign = Callable[..., Desired]


@dataclass(frozen=True)
class Work:
    """What a tick works with. `assign` is `publish.assign`."""

    engine: Engine
    store: BlobStore
    telemetry: Any
    keys: Any
    fence: int
    now: datetime
    assign: Assign


@dataclass(frozen=True)
class Wanted:
    """One assignment to make; `base_id` is the build a delta would start from."""

    device_id: str
    build_id: int
    until: SlotState
    rollout_id: int | None
    base_id: int | None = None


def reconcile(work: Work, rollout_id: int) -> int:
    """Assign what the rollout's members want and do not have; how many assignments were made."""
    with session_scope(work.engine, read_only=True) as session:
        missing = missing_assignments(session, get_rollout(session, rollout_id), work.now)
    prepare_transfers(work.engine, work.store, [(want.build_id, want.base_id) for want in missing])
    made = 0
    for start in range(0, len(missing), BATCH):
        with session_scope(work.engine) as session:
            check_fence(session, LEASE, work.fence)
            made += sum(assign_one(session, work, want) for want in missing[start : start + BATCH])
    return made


def missing_assignments(session: Session, rollout: Rollout, now: datetime) -> list[Wanted]:
    """Wanted minus assigned, of the devices that may begin now. A device that a newer rollout has is that one's."""
    view = rollout_view_of(rollout, frozen=is_frozen(session, rollout.project_id))
    members = members_of(session, rollout)
    devices = devices_of(session, members)
    desired = desired_of(session, members, rollout.component)
    missing: list[Wanted] = []
    waiting: dict[str, Wanted] = {}
    for member in members:
        device, has = devices.get(member.device_id), desired.get(member.device_id)
        if device is None or device.state != DeviceState.ENROLLED:
            continue
        found = _missing(rollout, member, has, wanted(view, member_view_of(member, device)))
        if found is not None and found.build_id == member.build_id and member.assigned_at is None:
            waiting[member.device_id] = found
        elif found is not None:
            missing.append(found)
    beginning = _beginning(session, rollout, members, devices, waiting, now)
    return _with_bases(session, [*missing, *beginning], devices)


def _with_bases(session: Session, missing: list[Wanted], devices: Mapping[str, Device]) -> list[Wanted]:
    """Each with the build its delta starts from: what the device runs now, not what it ran when the rollout began."""
    builds = {want.build_id: session.get_one(Build, want.build_id) for want in missing}
    bases = base_ids(session, ((devices[want.device_id], builds[want.build_id]) for want in missing))
    return [replace(want, base_id=bases[want.device_id]) for want in missing]


def _missing(rollout: Rollout, member: RolloutMember, has: Desired | None, want: Want | None) -> Wanted | None:
    if want is None:
        return None
    candidate = want.target == Target.CANDIDATE
    build_id = member.build_id if candidate else member.previous_build_id
    until = SlotState.SHADOW if want.shadow_only else SlotState.CONFIRMED
    if build_id is None or (has and has.rollout_id and has.rollout_id > (rollout.id or 0)):
        return None
    same = has is not None and (has.build_id, has.until) == (build_id, until)
    again = candidate and member.status == MemberStatus.PLANNED  # retried: the device needs a higher sequence
    if same and not again and not (candidate and has is not None and has.rollout_id != rollout.id):
        return None
    return Wanted(member.device_id, build_id, until, rollout.id)


def _beginning(
    session: Session,
    rollout: Rollout,
    members: Sequence[RolloutMember],
    devices: Mapping[str, Device],
    waiting: Mapping[str, Wanted],
    now: datetime,
) -> list[Wanted]:
    """Of the devices that would get the candidate for the first time, those that the rollout's limits let begin."""
    limits = spec_of(rollout).limits
    if limits == Limits():
        return list(waiting.values())
    sizes = transfer_sizes(session, rollout)
    starts = [
        Start(m.device_id, m.rank, sizes(m), devices[m.device_id].tags.get("timezone"))
        for m in members
        if m.device_id in waiting
    ]
    lately = [m for m in members if m.assigned_at is not None and now - m.assigned_at < HOUR]
    views = [member_view_of(m, devices.get(m.device_id)) for m in members]
    chosen = admitted(limits, starts, views, sum(sizes(m) for m in lately), now)
    return [waiting[device_id] for device_id in chosen]


def transfer_sizes(session: Session, rollout: Rollout) -> Callable[[RolloutMember], int]:
    """Bytes that a member's transfer takes: its delta where one is ready, else the full image."""
    images = {i: build_of(session, i) for i in sorted({c["build_id"] for c in rollout.plan["classes"]})}
    digests = [build.image_sha256 for build in images.values() if build]
    blobs = session.exec(select(TransferBlob).where(col(TransferBlob.image_sha256).in_(digests)))
    sizes = {(blob.image_sha256, blob.base_sha256): blob.blob_bytes for blob in blobs}
    bases: dict[int | None, str] = {None: ""}

    def size(member: RolloutMember) -> int:
        build = images.get(member.build_id) or build_of(session, member.build_id)
        if build is None:
            return 0
        if member.previous_build_id not in bases:
            previous = build_of(session, member.previous_build_id)
            bases[member.previous_build_id] = (previous.image_sha256 if previous else None) or ""
        found = [sizes.get((build.image_sha256 or "", base)) for base in (bases[member.previous_build_id], "")]
        return min((known for known in found if known is not None), default=build.image_bytes or 0)

    return size


def desired_of(session: Session, members: Iterable[RolloutMember], component: str) -> dict[str, Desired]:
    """Newest assignments of the members, by device."""
    wanted_ids = {member.device_id for member in members}
    rows = session.exec(select(Desired).where(Desired.component == component))
    return {row.device_id: row for row in rows if row.device_id in wanted_ids}


def assign_one(session: Session, work: Work, want: Wanted) -> bool:
    """Sign and enqueue one assignment; False when this device cannot be assigned now (said in the log)."""
    device, build = session.get(Device, want.device_id), session.get(Build, want.build_id)
    if device is None or build is None:
        return False
    rollout = session.get(Rollout, want.rollout_id) if want.rollout_id else None
    component = rollout.component if rollout else "model/0"
    fields = entry_fields(spec_of(rollout)) if rollout else entry_fields(None)
    try:
        with session.begin_nested():
            desired = work.assign(
                session, work.store, work.keys, device, build, want.until,
                rollout_id=want.rollout_id, fence=work.fence, component=component, **fields,
            )  # fmt: skip
            if rollout is not None:
                _note_assignment(session, rollout, desired, build, work.now)
    except UnavailableError:
        raise
    except FleetError as error:
        log.error("cannot assign %s to %s: %s", build.id, device.id, error)
        return False
    return True


def entry_fields(spec: RolloutSpec | None) -> dict[str, Any]:
    """Fields of the assignment entry that the spec sets."""
    spec = spec or RolloutSpec(model="-", version="-")
    fields: dict[str, Any] = {
        "shadow_min_inferences": spec.min_inferences,
        "confirm_min_inferences": spec.confirm_min_inferences,
        "confirm_timeout_s": spec.confirm_timeout_s,
        "start_spread_s": spec.start_spread_s,
    }
    if spec.window is not None:
        fields["window"] = parse_window(spec.window)
    if spec.latency_budget_us is not None:
        fields["latency_budget_us"] = spec.latency_budget_us
    return fields


def _note_assignment(session: Session, rollout: Rollout, desired: Desired, build: Build, now: datetime) -> None:
    query = select(RolloutMember).where(
        RolloutMember.rollout_id == rollout.id, RolloutMember.device_id == desired.device_id
    )
    member = session.exec(query).one()
    if build.id != member.build_id:
        return
    if member.status == MemberStatus.PLANNED:
        member.status, member.assigned_at = MemberStatus.ASSIGNED, now
    blob = session.get(TransferBlob, desired.blob_id)
    member.codec = blob.codec if blob else member.codec
    session.add(member)


def assign_stable(work: Work, device_id: str) -> bool:
    """Give a device its class's stable build; False when there is none."""
    with session_scope(work.engine, read_only=True) as session:
        device = session.get(Device, device_id)
        stable = stable_build(session, device) if device else None
        if device is None or stable is None or device.active_image == image_id(stable.image_sha256):
            return False
        assert stable.id is not None
        base_id = base_ids(session, [(device, stable)])[device.id]
    prepare_transfers(work.engine, work.store, [(stable.id, base_id)])
    with session_scope(work.engine) as session:
        check_fence(session, LEASE, work.fence)
        return assign_one(session, work, Wanted(device_id, stable.id, SlotState.CONFIRMED, None))


def stable_build(session: Session, device: Device, component: str = "model/0") -> Build | None:
    """The promoted build of the device's class."""
    query = select(StableBuild).where(
        StableBuild.project_id == device.project_id,
        StableBuild.component == component,
        StableBuild.device_class == device.device_class,
    )
    row = session.exec(query).first()
    return session.get(Build, row.build_id) if row else None
