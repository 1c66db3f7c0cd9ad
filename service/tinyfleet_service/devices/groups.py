"""Groups: named sets of devices that people put together, selected by `group=NAME`.

Rules
 1. A group belongs to a project; its members are devices of that project, whatever their state.
 2. Adding a device that is in, or removing one that is not, changes nothing: a request may be repeated.
 3. A request changes at most `PAGE` members, in one transaction with one entry of the audit log, so that SQLite's one
    writer is not busy for long. By a selector it says from where to go on; devices that come to match meanwhile may be
    missed, as with any page.
 4. Changes of a group wait for each other (its row is locked), so that `DeviceGroup.devices` and `by_class` are the
    numbers of its members.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, delete, func, insert, select

from tinyfleet_service import audit
from tinyfleet_service.database.models import Device, DeviceGroup, DeviceState, GroupMember
from tinyfleet_service.devices.pages import Page, page_of_ids
from tinyfleet_service.errors import ConflictError, InvalidInputError, NotFoundError, QuotaError

MAX_GROUPS = 1000
MAX_DESCRIPTION = 200
PAGE = 2000
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_NAMED = 3
_APART = [state.value for state in DeviceState if state != DeviceState.ENROLLED]


class Change(NamedTuple):
    """Members that came or went, members there are now, and `after` of the next request; None at the end."""

    changed: int
    devices: int
    next: str | None


def create_group(session: Session, project_id: int, name: str, description: str, created_by: str) -> DeviceGroup:
    """A group without members. Raises InvalidInputError, ConflictError when the name is taken, QuotaError."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(f"bad group name {name!r}", next="use 1 to 64 of a-z, 0-9, '.', '_' and '-'")
    if len(description) > MAX_DESCRIPTION or not description.isprintable():
        raise InvalidInputError("bad description", next=f"use at most {MAX_DESCRIPTION} printable characters")
    if len(list_groups(session, project_id)) >= MAX_GROUPS:
        raise QuotaError(f"{MAX_GROUPS} groups are there already", next="delete one; tags have no such limit")
    group = DeviceGroup(project_id=project_id, name=name, description=description, created_by=created_by)
    try:
        with session.begin_nested():
            session.add(group)
    except IntegrityError as error:
        raise ConflictError(f"group {name!r} is there already", next="choose another name", name=name) from error
    return group


def list_groups(session: Session, project_id: int) -> list[DeviceGroup]:
    """Groups of the project, by name."""
    query = select(DeviceGroup).where(DeviceGroup.project_id == project_id).order_by(DeviceGroup.name)
    return list(session.exec(query))


def get_group(session: Session, project_id: int, name: str, *, lock: bool = False) -> DeviceGroup:
    """The group; with `lock` nobody else changes it until this transaction ends. Raises NotFoundError."""
    query = select(DeviceGroup).where(DeviceGroup.project_id == project_id, DeviceGroup.name == name)
    group = session.exec(query.with_for_update() if lock else query).first()
    if group is None:
        raise NotFoundError(f"no group {name!r}", next="`fleetctl group list` shows them", what="group", name=name)
    return group


def count_by_state(session: Session, group: DeviceGroup) -> dict[str, int]:
    """Members by state. Only those that do not take part are counted, as most do."""
    query = select(Device.state, func.count()).join(GroupMember, col(GroupMember.device_id) == col(Device.id))
    query = query.where(Device.project_id == group.project_id, GroupMember.group_id == group.id)
    others = dict(session.exec(query.where(col(Device.state).in_(_APART)).group_by(Device.state)).all())
    counts = {DeviceState.ENROLLED.value: group.devices - sum(others.values()), **others}
    return {state: devices for state, devices in sorted(counts.items()) if devices}


def groups_of(session: Session, device_ids: Sequence[str]) -> dict[str, list[str]]:
    """Names of the groups that each device is in, in order; devices in none are left out."""
    query = select(GroupMember.device_id, DeviceGroup.name).join(
        DeviceGroup, col(DeviceGroup.id) == col(GroupMember.group_id)
    )
    found: dict[str, list[str]] = {}
    query = query.where(col(GroupMember.device_id).in_(device_ids)).order_by(DeviceGroup.name)
    for device_id, name in session.exec(query):
        found.setdefault(device_id, []).append(name)
    return found


def add_devices(session: Session, group: DeviceGroup, device_ids: Sequence[str]) -> Change:
    """Add devices by id; the group must be locked. Raises NotFoundError naming those that are not there."""
    ids = sorted(set(device_ids))
    _check_known(session, group.project_id, ids)
    return _add(session, group, ids, None)


def remove_devices(session: Session, group: DeviceGroup, device_ids: Sequence[str]) -> Change:
    """Remove devices by id; the group must be locked. Raises NotFoundError naming those that are not there."""
    ids = sorted(set(device_ids))
    _check_known(session, group.project_id, ids)
    return _remove(session, group, ids, None)


def add_selected(session: Session, group: DeviceGroup, where: str, after: str = "") -> Change:
    """Add a page of the devices that `where` selects, those behind `after`. Raises SelectorError, InvalidInputError."""
    page = _selected(session, group, where, after)
    return _add(session, group, page.found, where)._replace(next=page.next)


def remove_selected(session: Session, group: DeviceGroup, where: str, after: str = "") -> Change:
    """Remove a page of the members that `where` selects. Raises SelectorError, InvalidInputError."""
    page = _selected(session, group, where, after, members_only=True)
    return _remove(session, group, page.found, where)._replace(next=page.next)


def remove_group(session: Session, group: DeviceGroup) -> None:
    """Forget the group; its devices stay. `rollouts.delete_group` asks first whether a rollout needs it."""
    session.connection().execute(delete(GroupMember).where(col(GroupMember.group_id) == group.id))
    session.delete(group)


def _selected(session: Session, group: DeviceGroup, where: str, after: str, *, members_only: bool = False) -> Page:
    if not where.strip():
        raise InvalidInputError("an empty selector means every device", next="write id=* when that is meant")
    member_of = group.id if members_only else None
    return page_of_ids(session, where, project_id=group.project_id, after=after, limit=PAGE, member_of=member_of)


def _check_known(session: Session, project_id: int, ids: Sequence[str]) -> None:
    query = select(Device.id).where(Device.project_id == project_id, col(Device.id).in_(ids))
    known = session.exec(query).all()
    unknown = sorted(set(ids) - set(known))
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        raise NotFoundError(
            f"no device {', '.join(map(repr, unknown[:_NAMED]))}{more}; nothing was changed",
            next="`fleetctl device list` shows them",
            what="device",
            name=unknown[0],
        )


def _members(session: Session, group: DeviceGroup, ids: Sequence[str]) -> set[str]:
    query = select(GroupMember.device_id).where(GroupMember.group_id == group.id, col(GroupMember.device_id).in_(ids))
    return set(session.exec(query))


def _add(session: Session, group: DeviceGroup, ids: Sequence[str], where: str | None) -> Change:
    present = _members(session, group, ids)
    new = [device_id for device_id in ids if device_id not in present]
    if new:
        rows = [{"group_id": group.id, "device_id": device_id} for device_id in new]
        session.connection().execute(insert(GroupMember), rows)
    audit.note_rows(session, "group_member", "insert", group.name, new, where=where)
    return _counted(session, group, new, 1)


def _remove(session: Session, group: DeviceGroup, ids: Sequence[str], where: str | None) -> Change:
    present = _members(session, group, ids)
    gone = [device_id for device_id in ids if device_id in present]
    theirs = (col(GroupMember.group_id) == group.id, col(GroupMember.device_id).in_(gone))
    session.connection().execute(delete(GroupMember).where(*theirs))
    audit.note_rows(session, "group_member", "delete", group.name, gone, where=where)
    return _counted(session, group, gone, -1)


def _counted(session: Session, group: DeviceGroup, ids: Sequence[str], sign: int) -> Change:
    """Add devices to the group's counts, or take them off."""
    counts = Counter(group.by_class)
    query = select(Device.device_class, func.count()).where(col(Device.id).in_(ids)).group_by(Device.device_class)
    for device_class, devices in session.exec(query):
        counts[device_class] += sign * devices
    group.by_class = {name: devices for name, devices in sorted(counts.items()) if devices}
    group.devices += sign * len(ids)
    session.add(group)
    session.flush()
    return Change(len(ids), group.devices, None)
