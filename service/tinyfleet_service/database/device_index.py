"""What a fleet's queries and ticks read instead of every twin: counts of devices, tags as rows, and who has changed.

All follow every write of a `Device` through a session, in its transaction. Counts are kept as changes that are only
ever added, so that two writers never wait for each other's row; `fold_counts` adds them up. `rebuild` makes both anew
from the twins, for rows that were written around the session.

Kinds of a count: class, state, image (active as model/0, "" for none), beside (active as another component), slot
(`image|STATE`, FALLBACK for a confirmed one that is not active), updating (a slot holds an image that is not settled).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import delete, event, insert
from sqlalchemy.orm import Session as AnySession
from sqlalchemy.orm.attributes import get_history
from sqlmodel import Session, col, func, select

from tinyfleet_service.database.models import MODEL, Device, DeviceChange, DeviceTag, FleetCount
from tinyfleet_service.database.reported import active_images

UPDATING = ("WRITING", "STAGED", "SHADOW", "TESTING")
FOLD_FROM = 1000
PAGE = 5000
_COUNTED = ("project_id", "device_class", "state", "active_image", "reported")

Key = tuple[int, str, str]


def keys_of(
    project_id: int, device_class: str, state: str, active_image: str | None, reported: Mapping[str, Any] | None
) -> Counter[Key]:
    """The counts that one device is part of."""
    found = [("class", device_class), ("state", str(state)), ("image", active_image or "")]
    updating = False
    beside = active_images(reported).items()
    found += [("beside", image) for component, image in beside if component != MODEL and image]
    for component in (reported or {}).get("components", []):
        for number, slot in enumerate(component["slots"]):
            updating = updating or slot["state"] in UPDATING
            if slot["image"] and slot["state"] != "EMPTY":
                fallback = slot["state"] == "CONFIRMED" and component["active"] != number
                found.append(("slot", f"{slot['image']}|{'FALLBACK' if fallback else slot['state']}"))
    return Counter((project_id, kind, key) for kind, key in [*found, *([("updating", "")] if updating else [])])


def read_counts(session: Session, project_id: int) -> dict[str, dict[str, int]]:
    """Devices by kind and key, those of zero left out."""
    total = func.sum(FleetCount.change)
    query = select(FleetCount.kind, FleetCount.key, total).where(FleetCount.project_id == project_id)
    counts: dict[str, dict[str, int]] = {}
    for kind, key, number in session.exec(query.group_by(col(FleetCount.kind), col(FleetCount.key))):
        if number:
            counts.setdefault(kind, {})[key] = int(number)
    return counts


def fold_counts(session: Session, at_least: int = FOLD_FROM) -> None:
    """Add up changes once there are many; those that come meanwhile stay as they are."""
    rows = session.connection().execute(select(FleetCount).order_by(col(FleetCount.id)).limit(10 * FOLD_FROM)).all()
    if len(rows) < at_least:
        return
    sums: Counter[Key] = Counter()
    for row in rows:
        sums[(row.project_id, row.kind, row.key)] += row.change
    for at in range(0, len(rows), FOLD_FROM):
        ids = [row.id for row in rows[at : at + FOLD_FROM]]
        session.connection().execute(delete(FleetCount).where(col(FleetCount.id).in_(ids)))
    _add(session, sums)


def rebuild(session: Session) -> None:
    """Counts and tag rows anew from every twin."""
    session.connection().execute(delete(FleetCount))
    session.connection().execute(delete(DeviceTag))
    sums: Counter[Key] = Counter()
    last: str | None = ""
    while last is not None:
        columns = [getattr(Device, name) for name in ("id", "tags", *_COUNTED)]
        query = select(*columns).where(col(Device.id) > last).order_by(col(Device.id)).limit(PAGE)
        rows = session.connection().execute(query).all()
        for row in rows:
            sums.update(keys_of(*row[2:]))
        _add_tags(session, ((row.id, row.project_id, row.tags) for row in rows))
        last = rows[-1].id if rows else None
    _add(session, sums)


def _add(session: AnySession, sums: Mapping[Key, int]) -> None:
    rows = [{"project_id": p, "kind": kind, "key": key, "change": n} for (p, kind, key), n in sums.items() if n]
    if rows:
        session.connection().execute(insert(FleetCount), rows)


def _add_tags(session: AnySession, devices: Iterable[tuple[str, int, Mapping[str, str]]]) -> None:
    rows = [
        {"device_id": device_id, "project_id": project_id, "name": name, "value": value}
        for device_id, project_id, tags in devices
        for name, value in tags.items()
    ]
    if rows:
        session.connection().execute(insert(DeviceTag), rows)


def listen() -> None:
    """Follow what sessions of this process write; once is enough."""
    if not event.contains(AnySession, "after_flush", _follow):
        event.listen(AnySession, "after_flush", _follow)


def _follow(session: AnySession, _context: Any) -> None:
    """Take over what this flush wrote: histories are still those of before."""
    sums: Counter[Key] = Counter()
    tagged, stale, changed = [], [], []
    for device in (one for one in (*session.new, *session.dirty, *session.deleted) if isinstance(one, Device)):
        if session.is_modified(device) or device in session.deleted:
            changed.append({"device_id": device.id})
        before, after = _before(device, session), _after(device, session)
        if before != after:
            sums.update(after)
            sums.subtract(before)
        if get_history(device, "tags").has_changes() or device in session.deleted:
            stale.append(device.id)
        if get_history(device, "tags").has_changes() and device not in session.deleted:
            tagged.append((device.id, device.project_id, device.tags))
    if stale:
        session.connection().execute(delete(DeviceTag).where(col(DeviceTag.device_id).in_(stale)))
    _add_tags(session, tagged)
    _add(session, sums)
    if changed:
        session.connection().execute(insert(DeviceChange), changed)


def _before(device: Device, session: AnySession) -> Counter[Key]:
    if device in session.new:
        return Counter()
    return keys_of(*(_old(device, name) for name in _COUNTED))


def _old(device: Device, name: str) -> Any:
    history = get_history(device, name)
    return history.deleted[0] if history.deleted else getattr(device, name)


def _after(device: Device, session: AnySession) -> Counter[Key]:
    return Counter() if device in session.deleted else keys_of(*(getattr(device, name) for name in _COUNTED))
