"""Carry out what members want: assign the difference between wanted and assigned, in small transactions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, case, false, func, not_, or_, true, update
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select

from tinyfleet_ota.protocol import SlotState
from tinyfleet_service import publish
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import check_fence, session_scope
from tinyfleet_service.database.keep_lease import Keep, keep_nothing
from tinyfleet_service.database.models import (
    Build,
    DesiredEntry,
    Device,
    DeviceState,
    MemberStatus,
    Rollout,
    RolloutMember,
    RolloutProgress,
    RolloutStage,
    RolloutState,
    TransferBlob,
)
from tinyfleet_service.database.reported import REPORTED_TEXT, has_component
from tinyfleet_service.publish import CONTROLLER_LEASE, Assigned, Order, base_ids, prepare_transfers, running_image
from tinyfleet_service.rollouts.admit import parse_window
from tinyfleet_service.rollouts.beginning import allowed_to_begin
from tinyfleet_service.rollouts.changes import look_again, progress_of
from tinyfleet_service.rollouts.observe import image_id
from tinyfleet_service.rollouts.records import get_rollout, is_frozen, rollout_view_of, spec_of
from tinyfleet_service.rollouts.spec import RolloutSpec
from tinyfleet_service.rollouts.stable import StableBuilds
from tinyfleet_service.rollouts.state_machine import (
    GOING_BACK,
    LIVE,
    MemberView,
    RolloutView,
    Target,
    Want,
    wanted,
)

FIRST_CHECK = timedelta(seconds=60)
"""A device that was just assigned is listened for after so long, or once it reports."""
PAGE = 1000
PAGES = 10
log = logging.getLogger(__name__)

Assign = Callable[..., Assigned]
_MEMBER_COLUMNS: tuple[Any, ...] = tuple(
    getattr(RolloutMember, name)
    for name in ("device_id", "device_class", "wave", "build_id", "previous_build_id", "status", "assigned_at")
)


@dataclass(frozen=True)
class Work:
    """What a tick works with. `assign` is `publish.assign_many`."""

    engine: Engine
    store: BlobStore
    telemetry: Any
    keys: Any
    fence: int
    now: datetime
    assign: Assign
    keep: Keep = keep_nothing
    """Renews the controller's lease: called between pages and transactions, since a tick may take longer than it."""
    silence_from: datetime | None = None
    """Nobody could be heard before: what a device did not say until then is no silence of its own."""

    def inside(self, session: Session) -> Work:
        """For a transaction under the fence: it holds the lease's row, so the lease is renewed as part of it."""
        keep = partial(self.keep, session)
        return replace(self, keep=keep, telemetry=replace(self.telemetry, keep=keep))


@dataclass(frozen=True)
class Wanted:
    """One assignment to make, without a build one to withdraw; `base_id` is the build a delta would start from."""

    device_id: str
    build_id: int | None
    until: SlotState
    wave: int = 0
    base_id: int | None = None
    taken_over: bool = False
    """Another rollout assigned it before, which is to notice."""


def reconcile(work: Work, rollout_id: int, changed: Sequence[str] = ()) -> int:
    """Assign what the rollout's members want and do not have; how many assignments were made.

    A pass through all members follows each decision that moved the rollout. Otherwise only `changed` devices and those
    that may begin now are looked at. Page by page, each a transaction under the fence: memory does not grow with the
    fleet. At most `PAGES` of a pass in a tick, so that what was assigned is published in between; the next tick goes
    on.
    """
    with session_scope(work.engine, read_only=True) as session:
        beginning = allowed_to_begin(session, get_rollout(session, rollout_id), work.now)
        progress = session.get(RolloutProgress, rollout_id)
        after = progress.pass_after if progress else ""
    some = sorted({*changed, *(beginning or ())})
    made = sum(
        _assign_missing(work, rollout_id, beginning, some[at : at + PAGE])[0] for at in range(0, len(some), PAGE)
    )
    for _ in range(PAGES if after is not None else 0):
        count, after = _assign_missing(work, rollout_id, beginning, after or "")
        made += count
        if after is None:
            break
    return made


def _assign_missing(
    work: Work, rollout_id: int, beginning: Sequence[str] | None, where: str | Sequence[str]
) -> tuple[int, str | None]:
    """Assign what is missing on the page behind device `where` or on these devices; how many, and the last one looked
    at, None at the end of the pass.
    """
    work.keep()
    with session_scope(work.engine, read_only=True) as session:
        page, last = missing_assignments(session, get_rollout(session, rollout_id), beginning, where)
    in_pass, made = isinstance(where, str), 0
    pairs = [(want.build_id, want.base_id) for want in page if want.build_id is not None]
    prepare_transfers(work.engine, work.store, pairs, keep=work.keep)
    work.telemetry.set_cohorts({want.device_id: cohort_of(rollout_id, want.wave) for want in page})
    if page or in_pass:
        with session_scope(work.engine) as session:
            check_fence(session, CONTROLLER_LEASE, work.fence)
            made = assign_page(session, work, get_rollout(session, rollout_id), page) if page else 0
            if in_pass:
                progress_of(session, rollout_id).pass_after = last
    return made, last


def cohort_of(rollout_id: int, wave: int) -> str:
    """The cohort under which rollups count a device from its first assignment on: `12/canary`, `12/wave-1`."""
    return f"{rollout_id}/{f'wave-{wave}' if wave else 'canary'}"


def missing_assignments(
    session: Session, rollout: Rollout, beginning: Sequence[str] | None, where: str | Sequence[str] = ""
) -> tuple[list[Wanted], str | None]:
    """Wanted minus assigned, of the next `PAGE` members behind device `where` that may lack something, or of those
    among these devices; and the last device looked at, None at the end. `beginning`: who may get the candidate for the
    first time, by id; None: everybody. A device that a newer rollout has taken is that one's business.
    """
    view = rollout_view_of(rollout, frozen=is_frozen(session, rollout.project_id))
    rows = session.connection().execute(_perhaps_missing(rollout, view, beginning, where)).all()
    wishes = _Wishes(view)
    missing = {row.device_id: want for row in rows if (want := _missing(rollout, wishes, row)) is not None}
    pairs = [(row, missing[row.device_id]) for row in rows if row.device_id in missing]
    bases = _bases(session, pairs, rollout.component)
    wants = [replace(want, base_id=bases.get(device_id)) for device_id, want in missing.items()]
    return wants, rows[-1].device_id if len(rows) == PAGE else None


def _bases(session: Session, missing: Iterable[tuple[Any, Wanted]], component: str) -> dict[str, int | None]:
    """What each delta starts from: what the device runs now, not what it ran when the rollout began."""
    builds: dict[int, Build] = {}
    pairs = []
    for device, want in missing:
        if want.build_id is None:
            continue
        if want.build_id not in builds:
            builds[want.build_id] = session.get_one(Build, want.build_id)
        pairs.append((device, builds[want.build_id]))
    return base_ids(session, pairs, component)


def _perhaps_missing(
    rollout: Rollout, view: RolloutView, beginning: Sequence[str] | None, where: str | Sequence[str]
) -> Any:
    """Members, devices and assignments without those that surely have what they want."""
    device_id = col(RolloutMember.device_id)
    here = device_id > where if isinstance(where, str) else device_id.in_(where)
    on_shadow = view.state != RolloutState.PROMOTED and view.stage.name == RolloutStage.SHADOW
    until = int(SlotState.SHADOW if on_shadow else SlotState.CONFIRMED)
    back = col(RolloutMember.status).in_(GOING_BACK)
    has_candidate = and_(
        col(DesiredEntry.rollout_id) == rollout.id,
        col(DesiredEntry.build_id) == col(RolloutMember.build_id),
        col(DesiredEntry.until) == until,
    )
    own = func.coalesce(col(DesiredEntry.rollout_id) == rollout.id, True)
    has_previous = and_(
        col(DesiredEntry.build_id) == col(RolloutMember.previous_build_id),
        col(DesiredEntry.until) == int(SlotState.CONFIRMED),
    )
    reached = true() if view.state == RolloutState.PROMOTED else col(RolloutMember.wave) <= view.stage.wave
    lacks = or_(not_(func.coalesce(has_candidate, False)), col(RolloutMember.status) == MemberStatus.PLANNED)
    goes_on = view.state in LIVE or view.state == RolloutState.PROMOTED
    goes_there = and_(not_(back), col(RolloutMember.status) != MemberStatus.SKIPPED, reached)
    lacks_candidate = and_(goes_there, lacks, _begun(beginning, where)) if goes_on else false()
    to_nothing = col(RolloutMember.previous_build_id).is_(None)
    held = case(
        (to_nothing, col(DesiredEntry.rollout_id) == rollout.id),
        else_=and_(own, not_(func.coalesce(has_previous, False))),
    )
    lacks_previous = and_(back, held)
    this = and_(col(DesiredEntry.device_id) == col(Device.id), col(DesiredEntry.component) == rollout.component)
    columns: list[Any] = [*_MEMBER_COLUMNS, Device.id, Device.active_image, REPORTED_TEXT]
    columns += [col(getattr(DesiredEntry, name)).label(f"has_{name}") for name in ("build_id", "until", "rollout_id")]
    query = select_columns(*columns)
    query = query.join(Device, col(Device.id) == col(RolloutMember.device_id)).outerjoin(DesiredEntry, this)
    return (
        query.where(
            col(RolloutMember.rollout_id) == rollout.id,
            here,
            col(Device.state) == DeviceState.ENROLLED,
            has_component(rollout.component),
            func.coalesce(col(DesiredEntry.rollout_id) <= rollout.id, True),
            or_(lacks_candidate, lacks_previous),
        )
        .order_by(col(RolloutMember.device_id))
        .limit(PAGE)
    )


def _begun(beginning: Sequence[str] | None, where: str | Sequence[str]) -> ColumnElement[bool]:
    """Members that were assigned the candidate before, or may be now: in a pass those are left to the call that names
    them.
    """
    if beginning is None:
        return true()
    named = [] if isinstance(where, str) else sorted(set(where).intersection(beginning))
    return or_(col(RolloutMember.assigned_at).is_not(None), col(RolloutMember.device_id).in_(named))


class _Wishes:
    """`wanted` of one page: it follows from a few columns, which most of its members have in common."""

    def __init__(self, view: RolloutView) -> None:
        self._view = view
        self._known: dict[tuple[Any, ...], Want | None] = {}

    def of(self, row: Any) -> Want | None:
        """What the member of this row should have."""
        kind = (row.status, row.wave, row.previous_build_id is None, row.assigned_at is None)
        if kind not in self._known:
            member = MemberView(
                row.device_id, row.device_class, row.wave, row.previous_build_id is not None, silence_s=0.0
            )
            begun = replace(member, status=MemberStatus(row.status), assigned_at=row.assigned_at)
            self._known[kind] = wanted(self._view, begun)
        return self._known[kind]


def _missing(rollout: Rollout, wishes: _Wishes, row: Any) -> Wanted | None:
    want = wishes.of(row)
    if want is None:
        return None
    if want.target == Target.NOTHING:
        return Wanted(row.device_id, None, SlotState.EMPTY) if row.has_rollout_id == rollout.id else None
    candidate = want.target == Target.CANDIDATE
    build_id = row.build_id if candidate else row.previous_build_id
    until = SlotState.SHADOW if want.shadow_only else SlotState.CONFIRMED
    if build_id is None or (row.has_rollout_id or 0) > (rollout.id or 0):
        return None
    same = (row.has_build_id, row.has_until) == (build_id, until)
    again = candidate and row.status == MemberStatus.PLANNED  # retried: the device needs a higher sequence
    if same and not again and not (candidate and row.has_rollout_id != rollout.id):
        return None
    return Wanted(row.device_id, build_id, until, row.wave, taken_over=row.has_rollout_id not in (None, rollout.id))


def take_over_ended(session: Session, rollout: Rollout) -> None:
    """Make assignments of newer rollouts that were taken back this one's again: it is undone, and they do not know."""
    ended = select(Rollout.id).where(
        col(Rollout.id) > rollout.id, col(Rollout.state).in_((RolloutState.ROLLED_BACK, RolloutState.ABORTED))
    )
    touched = select(RolloutMember.device_id).where(
        RolloutMember.rollout_id == rollout.id, col(RolloutMember.assigned_at).is_not(None)
    )
    theirs = and_(
        col(DesiredEntry.component) == rollout.component,
        col(DesiredEntry.rollout_id).in_(ended),
        col(DesiredEntry.device_id).in_(touched),
    )
    session.connection().execute(update(DesiredEntry).where(theirs).values(rollout_id=rollout.id))


def desired_of(session: Session, rollout: Rollout, devices: Sequence[str] | None = None) -> dict[str, DesiredEntry]:
    """What its component shall run, of the rollout's members, or of some thousand of these devices, by device."""
    members = select(RolloutMember.device_id).where(RolloutMember.rollout_id == rollout.id)
    these = col(DesiredEntry.device_id).in_(members if devices is None else devices)
    query = select(DesiredEntry).where(DesiredEntry.component == rollout.component, these)
    return {row.device_id: row for row in session.exec(query)}


def assign_page(session: Session, work: Work, rollout: Rollout, page: Sequence[Wanted]) -> int:
    """Sign and enqueue a page of one rollout; how many. What cannot be assigned now is said in the log."""
    fields = entry_fields(spec_of(rollout))
    done = _assign(session, work, page, rollout_id=rollout.id, component=rollout.component, **fields)
    _note_assignments(session, rollout, page, done.blobs, work.now)
    look_again(session, [want.device_id for want in page if want.taken_over])
    return len(done.blobs) + _withdraw(session, work, page, rollout.component)


def _withdraw(session: Session, work: Work, page: Sequence[Wanted], component: str) -> int:
    """Take assignments back; the next tick looks at those devices, be it only to try again."""
    devices = [want.device_id for want in page if want.build_id is None]
    if not devices:
        return 0
    refused = publish.withdraw_many(session, work.keys, devices, component=component, fence=work.fence)
    for device_id, error in refused.items():
        log.error("cannot withdraw what %s shall run as %s: %s", device_id, component, error)
    look_again(session, devices)
    return len(devices) - len(refused)


def _assign(session: Session, work: Work, page: Sequence[Wanted], **common: Any) -> Assigned:
    """Sign and enqueue; who could not be assigned comes up again at the next tick."""
    orders = {want.device_id: Order(want.build_id, want.until) for want in page if want.build_id is not None}
    done = work.assign(session, work.store, work.keys, orders, fence=work.fence, **common)
    for device_id, error in done.refused.items():
        log.error("cannot assign build %s to %s: %s", orders[device_id].build_id, device_id, error)
    look_again(session, sorted(done.refused))
    return done


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


def _note_assignments(
    session: Session, rollout: Rollout, page: Sequence[Wanted], blobs: Mapping[str, TransferBlob], now: datetime
) -> None:
    """Members that got the candidate: how it travels, and that they have begun."""
    groups: dict[tuple[int, int], list[str]] = {}
    for want in page:
        if want.device_id in blobs and want.build_id is not None:
            groups.setdefault((want.build_id, blobs[want.device_id].codec), []).append(want.device_id)
    for (build_id, codec), names in groups.items():
        of_group = and_(
            col(RolloutMember.rollout_id) == rollout.id,
            col(RolloutMember.build_id) == build_id,
            col(RolloutMember.device_id).in_(names),
        )
        begins = and_(of_group, col(RolloutMember.status) == MemberStatus.PLANNED)
        session.connection().execute(update(RolloutMember).where(of_group).values(codec=codec))
        values = {"status": MemberStatus.ASSIGNED.value, "assigned_at": now, "due_at": now + FIRST_CHECK}
        session.connection().execute(update(RolloutMember).where(begins).values(values))


def assign_stable(work: Work, device_id: str, component: str) -> bool:
    """Give a device its class's stable build of a component; False when there is none."""
    with session_scope(work.engine, read_only=True) as session:
        device = session.get(Device, device_id)
        stable = StableBuilds(session, device.project_id, component).of(device) if device else None
        if device is None or stable is None or running_image(device, component) == image_id(stable.image_sha256):
            return False
        assert stable.id is not None
        base_id = base_ids(session, [(device, stable)], component)[device.id]
    prepare_transfers(work.engine, work.store, [(stable.id, base_id)], keep=work.keep)
    with session_scope(work.engine) as session:
        check_fence(session, CONTROLLER_LEASE, work.fence)
        want = Wanted(device_id, stable.id, SlotState.CONFIRMED)
        return bool(_assign(session, work, [want], rollout_id=None, component=component, **entry_fields(None)).blobs)
