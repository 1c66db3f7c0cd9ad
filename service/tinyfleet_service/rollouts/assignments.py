"""Carry out what members want: assign the difference between wanted and assigned, in small transactions."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, false, func, not_, or_, true
from sqlalchemy.orm import load_only
from sqlmodel import Session, col, select

from tinyfleet_ota.protocol import SlotState
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import check_fence, held_get, session_scope, transaction_cache
from tinyfleet_service.database.models import (
    Build,
    Desired,
    Device,
    DeviceState,
    MemberStatus,
    Rollout,
    RolloutMember,
    RolloutStage,
    RolloutState,
    StableBuild,
    TransferBlob,
)
from tinyfleet_service.errors import FleetError, NotFoundError, UnavailableError
from tinyfleet_service.publish import base_ids, enqueued_together, hold, prepare_transfers
from tinyfleet_service.rollouts.admit import parse_window
from tinyfleet_service.rollouts.beginning import allowed_to_begin
from tinyfleet_service.rollouts.observe import image_id
from tinyfleet_service.rollouts.records import (
    get_rollout,
    is_frozen,
    member_view_of,
    rollout_view_of,
    spec_of,
)
from tinyfleet_service.rollouts.spec import RolloutSpec
from tinyfleet_service.rollouts.state_machine import GOING_BACK, LIVE, RolloutView, Target, wanted

LEASE = "controller"
PAGE = 500
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
    """Assign what the rollout's members want and do not have; how many assignments were made.

    Page by page: memory does not grow with the fleet, and each page is a transaction under the fence.
    """
    with session_scope(work.engine, read_only=True) as session:
        beginning = allowed_to_begin(session, get_rollout(session, rollout_id), work.now)
    made, after = 0, ""
    while True:
        with session_scope(work.engine, read_only=True) as session:
            page, after = missing_assignments(session, get_rollout(session, rollout_id), beginning, after)
        if not after:
            return made
        prepare_transfers(work.engine, work.store, [(want.build_id, want.base_id) for want in page])
        with session_scope(work.engine) as session:
            check_fence(session, LEASE, work.fence)
            made += assign_page(session, work, page)


def missing_assignments(
    session: Session, rollout: Rollout, beginning: Sequence[str] | None, after: str = ""
) -> tuple[list[Wanted], str]:
    """Wanted minus assigned, of the next `PAGE` members behind device `after` that may lack something, and the last
    device looked at; "" at the end. `beginning`: who may get the candidate for the first time, by id; None: everybody.
    A device that a newer rollout has taken is that one's business.
    """
    view = rollout_view_of(rollout, frozen=is_frozen(session, rollout.project_id))
    rows = list(session.exec(_perhaps_missing(rollout, view, beginning, after)))
    found = [_missing(rollout, view, member, device, desired) for member, device, desired in rows]
    missing = _with_bases(session, [want for want in found if want], {device.id: device for _, device, _ in rows})
    return missing, rows[-1][0].device_id if rows else ""


def _with_bases(session: Session, missing: list[Wanted], devices: Mapping[str, Device]) -> list[Wanted]:
    """Each with the build its delta starts from: what the device runs now, not what it ran when the rollout began."""
    builds = {want.build_id: session.get_one(Build, want.build_id) for want in missing}
    bases = base_ids(session, ((devices[want.device_id], builds[want.build_id]) for want in missing))
    return [replace(want, base_id=bases[want.device_id]) for want in missing]


def _perhaps_missing(rollout: Rollout, view: RolloutView, beginning: Sequence[str] | None, after: str) -> Any:
    """Members, devices and assignments without those that surely have what they want."""
    on_shadow = view.state != RolloutState.PROMOTED and view.stage.name == RolloutStage.SHADOW
    until = int(SlotState.SHADOW if on_shadow else SlotState.CONFIRMED)
    back = col(RolloutMember.status).in_(GOING_BACK)
    has_candidate = and_(
        col(Desired.rollout_id) == rollout.id,
        col(Desired.build_id) == col(RolloutMember.build_id),
        col(Desired.until) == until,
    )
    has_previous = and_(
        col(Desired.build_id) == col(RolloutMember.previous_build_id), col(Desired.until) == int(SlotState.CONFIRMED)
    )
    reached = true() if view.state == RolloutState.PROMOTED else col(RolloutMember.wave) <= view.stage.wave
    lacks = or_(not_(func.coalesce(has_candidate, False)), col(RolloutMember.status) == MemberStatus.PLANNED)
    goes_on = view.state in LIVE or view.state == RolloutState.PROMOTED
    goes_there = and_(not_(back), col(RolloutMember.status) != MemberStatus.SKIPPED, reached)
    lacks_candidate = and_(goes_there, lacks, _begun(beginning, after)) if goes_on else false()
    lacks_previous = and_(back, not_(func.coalesce(has_previous, False)))
    this = and_(col(Desired.device_id) == col(Device.id), col(Desired.component) == rollout.component)
    query = select(RolloutMember, Device, Desired).join(Device, col(Device.id) == col(RolloutMember.device_id))
    query = query.options(load_only(Desired.build_id, Desired.until, Desired.rollout_id))  # type: ignore[arg-type]
    query = query.outerjoin(Desired, this).where(
        RolloutMember.rollout_id == rollout.id,
        col(RolloutMember.device_id) > after,
        Device.state == DeviceState.ENROLLED,
        func.coalesce(col(Desired.rollout_id) <= rollout.id, True),
        or_(lacks_candidate, lacks_previous),
    )
    return query.order_by(col(RolloutMember.device_id)).limit(PAGE)


def _begun(beginning: Sequence[str] | None, after: str) -> ColumnElement[bool]:
    """Members that were assigned the candidate before, or may be now."""
    if beginning is None:
        return true()
    first = bisect_right(beginning, after)  # a page reaches no further than the next `PAGE` of them
    next_ids = col(RolloutMember.device_id).in_(beginning[first : first + PAGE])
    return or_(col(RolloutMember.assigned_at).is_not(None), next_ids)


def _missing(
    rollout: Rollout, view: RolloutView, member: RolloutMember, device: Device, has: Desired | None
) -> Wanted | None:
    want = wanted(view, member_view_of(member, device))
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


def desired_of(session: Session, rollout: Rollout) -> dict[str, Desired]:
    """Newest assignments of the rollout's members, by device."""
    members = select(RolloutMember.device_id).where(RolloutMember.rollout_id == rollout.id)
    query = select(Desired).where(Desired.component == rollout.component, col(Desired.device_id).in_(members))
    return {row.device_id: row for row in session.exec(query)}


def assign_page(session: Session, work: Work, page: Sequence[Wanted]) -> int:
    """Assign a page of one rollout at once; when one of them fails, one by one, so that it stops no other."""
    try:
        with session.begin_nested():
            held = _load(session, page)
            with enqueued_together(session):
                for want in page:
                    _assign(session, work, want, held)
        return len(page)
    except UnavailableError:
        raise
    except FleetError:
        return sum(assign_one(session, work, want) for want in page)


def _load(session: Session, page: Sequence[Wanted]) -> dict[str, RolloutMember]:
    """Bring everything a page touches into the session with a query per table; the members by device."""
    ids = [want.device_id for want in page]
    members = select(RolloutMember).where(col(RolloutMember.device_id).in_(ids))
    members = members.where(col(RolloutMember.rollout_id).in_({want.rollout_id for want in page}))
    for device in session.exec(select(Device).where(col(Device.id).in_(ids))):
        transaction_cache(session, Device.__name__)[device.id] = device
    desired = session.exec(select(Desired).where(col(Desired.device_id).in_(ids)))
    hold(session, dict.fromkeys(ids) | {row.device_id: row for row in desired})
    return {member.device_id: member for member in session.exec(members)}


def assign_one(session: Session, work: Work, want: Wanted) -> bool:
    """Sign and enqueue one assignment; False when this device cannot be assigned now (said in the log)."""
    try:
        with session.begin_nested():
            _assign(session, work, want, _load(session, [want]))
    except UnavailableError:
        raise
    except FleetError as error:
        log.error("cannot assign build %s to %s: %s", want.build_id, want.device_id, error)
        return False
    return True


def _assign(session: Session, work: Work, want: Wanted, members: Mapping[str, RolloutMember]) -> None:
    device, build = held_get(session, Device, want.device_id), held_get(session, Build, want.build_id)
    if device is None or build is None:
        raise NotFoundError(f"device {want.device_id} or build {want.build_id} is gone", next="nothing to do")
    rollout = held_get(session, Rollout, want.rollout_id) if want.rollout_id else None
    component = rollout.component if rollout else "model/0"
    desired = work.assign(
        session, work.store, work.keys, device, build, want.until,
        rollout_id=want.rollout_id, fence=work.fence, component=component, **_fields(session, rollout),
    )  # fmt: skip
    if rollout is not None:
        _note_assignment(session, members[device.id], desired, build, work.now)


def _fields(session: Session, rollout: Rollout | None) -> dict[str, Any]:
    """`entry_fields` of a rollout, read once per transaction."""
    known = transaction_cache(session, "entry_fields")
    key = rollout.id if rollout else None
    if key not in known:
        known[key] = entry_fields(spec_of(rollout) if rollout else None)
    fields: dict[str, Any] = known[key]
    return fields


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


def _note_assignment(session: Session, member: RolloutMember, desired: Desired, build: Build, now: datetime) -> None:
    if build.id != member.build_id:
        return
    if member.status == MemberStatus.PLANNED:
        member.status, member.assigned_at = MemberStatus.ASSIGNED, now
    blob = held_get(session, TransferBlob, desired.blob_id)
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
