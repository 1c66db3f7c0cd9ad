"""Members brought up to what their devices last said: all of them as rows, or a few as objects of the session."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from sqlmodel import Session, col, select

from tinyfleet_service.database.models import DeviceState, Event, MemberStatus, Rollout
from tinyfleet_service.rollouts.assignments import Work, desired_of
from tinyfleet_service.rollouts.cohort import Cohort, reflashed
from tinyfleet_service.rollouts.members import PAGE, AnyAssigned, AnyDevice, AnyMember, MemberRow, read_pages
from tinyfleet_service.rollouts.observe import heard_at, image_id, see
from tinyfleet_service.rollouts.records import build_of, devices_of, member_view_of, members_at, note, store_member
from tinyfleet_service.rollouts.state_machine import (
    LEFT,
    LIVE,
    UNDECIDED,
    UNTOUCHED,
    MemberView,
    next_check,
    next_member,
)


@dataclass(frozen=True)
class Everybody:
    """All members of a rollout as they are now, of which nothing is written yet; `told` are lines of its history."""

    cohort: Cohort
    rows: list[MemberRow]
    views: list[MemberView]
    told: list[dict[str, Any]]


def observe_all(session: Session, work: Work, rollout: Rollout, page: int = PAGE) -> Everybody:
    """Bring all members up to what their devices last said, page by page; only reads."""
    members: dict[str, MemberRow] = {}
    devices: dict[str, AnyDevice] = {}
    heard: dict[str, datetime] = {}
    views: list[MemberView] = []
    told: list[dict[str, Any]] = []

    def tell(kind: str, device_id: str, **detail: Any) -> None:
        told.append({"device_id": device_id, "kind": kind, "detail": detail})

    for found in read_pages(session, rollout, page):
        work.keep()
        last = work.telemetry.last_heard(list(found.members))
        part = Cohort(rollout, found.members, found.devices, last, work.now, silence_from=work.silence_from)
        views += observe(session, part, found.desired, tell)
        for device in found.devices.values():
            device.twin = None
        members |= found.members
        devices |= found.devices
        heard |= part.heard
    cohort = Cohort(rollout, members, devices, heard, work.now, reflashed(session, rollout), work.silence_from)
    return Everybody(cohort, list(members.values()), views, told)


def observe_some(session: Session, work: Work, rollout: Rollout, changed: Sequence[str]) -> tuple[Cohort, bool]:
    """Members among these devices and those whose time has come, few, as objects of the session; whether one left."""
    found = members_at(session, rollout, changed, work.now)
    members = {member.device_id: member for member in found}
    heard, out = work.telemetry.last_heard(sorted(members)), reflashed(session, rollout, sorted(members))
    cohort = Cohort(rollout, members, devices_of(session, found), heard, work.now, out, work.silence_from)
    before = {member.device_id for member in found if member.status not in LEFT}
    views = observe(session, cohort, desired_of(session, rollout, sorted(members)), partial(note, session, rollout))
    return cohort, any(view.status in LEFT and view.device_id in before for view in views)


def observe(
    session: Session, cohort: Cohort, desired: Mapping[str, AnyAssigned], tell: Callable[..., None]
) -> list[MemberView]:
    """Bring every member of `cohort` up to what its device last said, and `tell` what became of it; the new views."""
    rollout, members, devices, now = cohort.rollout, cohort.members, cohort.devices, cohort.now
    images = {m.build_id: None for m in members.values()}
    candidates = {i: image_id(b.image_sha256) if (b := build_of(session, i)) else None for i in images}
    views = []
    for device_id, member in members.items():
        device = devices.get(device_id)
        view = member_view_of(member, device)
        if _leaves(rollout, view, device):
            view = replace(view, status=MemberStatus.SKIPPED)
        candidate = candidates[member.build_id]
        has = desired.get(device_id)
        if has is not None and _is_anothers(rollout, view, has.rollout_id):
            member.due_at = None
            _leave_to_newer(member, view)
            views.append(member_view_of(member, device))
            continue
        if has is None and view.status == MemberStatus.UNDOING and not view.has_previous:
            view = replace(view, status=MemberStatus.UNDONE, finished_at=now)  # its assignment is withdrawn
        if device is not None and candidate is not None and view.status not in UNTOUCHED:
            contact = heard_at(device, cohort.heard.get(device_id))
            seen = see(device, has, rollout.component, candidate, contact)
            view = next_member(view, seen, now, cohort.silence_from)
        if store_member(member, view):
            tell(f"member_{view.status}", device_id, reason=view.reason)
        if (due_at := next_check(view, now)) != member.due_at:
            member.due_at = due_at
        views.append(view)
    _count_bytes(session, members.values(), candidates)
    return views


def _leaves(rollout: Rollout, view: MemberView, device: AnyDevice | None) -> bool:
    """Whether the device takes no part any more: not enrolled before its turn, or revoked, which is for good."""
    if view.status == MemberStatus.PLANNED:
        return device is None or device.state != DeviceState.ENROLLED
    revoked = device is not None and device.state == DeviceState.REVOKED
    return revoked and (view.status in UNDECIDED or (view.status == MemberStatus.CONFIRMED and rollout.state in LIVE))


def _is_anothers(rollout: Rollout, view: MemberView, owner: int | None) -> bool:
    """Whether a newer rollout has the device, or an older one that was undone after this one was taken back."""
    return owner is not None and (
        owner > (rollout.id or 0) or (view.status == MemberStatus.UNDOING and owner != rollout.id)
    )


def _leave_to_newer(member: AnyMember, view: MemberView) -> None:
    """A newer rollout has the device: what it does from now on says nothing about this one, which waits for nothing."""
    if view.status == MemberStatus.UNDOING:
        member.status = MemberStatus.UNDONE
    elif view.status in (*UNDECIDED, MemberStatus.SILENT):
        member.status = MemberStatus.SKIPPED


def _count_bytes(session: Session, members: Iterable[AnyMember], candidates: Mapping[int, str | None]) -> None:
    """Bytes of each download, from the device's own event of the image being staged."""
    open_ones = {
        m.device_id: (m, m.assigned_at)
        for m in members
        if not m.bytes_sent and m.assigned_at is not None and m.status != MemberStatus.ASSIGNED
    }
    for device_id, at, detail in _staged_events(session, sorted(open_ones)):
        member, since = open_ones[device_id]
        if at >= since and detail.get("image") == candidates[member.build_id]:
            build = build_of(session, member.build_id)
            member.bytes_sent = int(detail["received_bytes"])
            member.bytes_full = (build.image_bytes or 0) if build else 0


def _staged_events(session: Session, devices: Sequence[str]) -> Iterator[tuple[str, datetime, Mapping[str, Any]]]:
    """Device, time and detail of events that tell how many bytes a staged image took."""
    for start in range(0, len(devices), 500):
        query = select(Event.device_id, Event.at, Event.detail).where(
            col(Event.device_id).in_(devices[start : start + 500]), col(Event.boot).is_not(None)
        )
        for device_id, at, detail in session.exec(query):
            if device_id and detail.get("to") == "STAGED" and detail.get("received_bytes"):
                yield device_id, at, detail
