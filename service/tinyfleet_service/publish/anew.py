"""Signing a device's assignment anew though nobody asks for another build: a newer nonce, new keys of director or
release, another content key, a device ahead of the database, or a blob that does not come.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, not_, or_, update
from sqlmodel import Session, col, select

from tinyfleet_ota import AssignmentEntry
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import check_fence
from tinyfleet_service.database.models import (
    MODEL,
    Build,
    BuildState,
    Desired,
    DesiredEntry,
    Device,
    DeviceState,
    Project,
    ProjectClass,
    TransferBlob,
    utc_now,
)
from tinyfleet_service.errors import CorruptError, FleetError, NotFoundError, UnavailableError
from tinyfleet_service.publish.assignments import (
    DirectorKeys,
    check_pair,
    choose_blob,
    rows_of,
    signed_entries,
    take_over,
    transport_of,
    write_entries,
)
from tinyfleet_service.publish.back_off import BackOff
from tinyfleet_service.publish.bases import running_image
from tinyfleet_service.publish.encrypted import remake_blob, wrap_for
from tinyfleet_service.publish.outbox import CONTROLLER_LEASE
from tinyfleet_service.publish.transfers import blob_id, is_delta, publish_blob, publish_release, republish_blob

REPUBLISH_AFTER = timedelta(seconds=5)
"""A device that waits for a chunk longer than this gets the blob published again, at most this often."""
FULL_AFTER = timedelta(seconds=60)
"""A device that still waits after this gets the full image assigned instead of the delta."""
REFRESH_AFTER = timedelta(days=3)
"""Assignments older than this are signed again: devices call themselves stale a week after the last fresh one."""
AT_ONCE = 500
"""Assignments that one call signs."""
TO_SIGN_ANEW = 0
"""Epoch of no director: an assignment that bears it is signed anew as those of former ones are."""
log = logging.getLogger(__name__)


def refresh_assignment(session: Session, keys: DirectorKeys, device: Device, fence: int) -> Desired | None:
    """Sign the same assignment again with the device's newest nonce and the next sequence; None when nothing changed.

    For a device that was away for long, or that refused an assignment because it echoed an old nonce.
    """
    check_fence(session, CONTROLLER_LEASE, fence)
    desired = session.get(Desired, device.id)
    if desired is None or device.nonce is None or desired.nonce == device.nonce:
        return None
    items = _as_signed(keys, desired)
    return write_entries(session, keys, device, desired, {}, items, rows_of(session, device.id).values(), fence)


def refresh_settled(
    session: Session,
    keys: DirectorKeys,
    before: datetime,
    after: str = "",
    *,
    fence: int,
    portion: int = AT_ONCE,
    back_off: BackOff | None = None,
) -> tuple[int, str]:
    """Sign what was signed before `before` again with the device's newest nonce, of the next `portion` assignments
    behind device `after`: how many, and `after` of the next call, "" once all were looked at.

    Without it a fleet that has no rollout for a week would call itself stale, and nobody could tell that from a broker
    that holds assignments back. Only where a device runs all that it is assigned: it would try again what it rejected.
    """
    back_off = back_off or BackOff()
    check_fence(session, CONTROLLER_LEASE, fence)
    ids = select(Desired.device_id).where(Desired.device_id > after).order_by(Desired.device_id).limit(portion)
    window = session.exec(ids).all()
    query = (
        select(Desired, Device)
        .join(Device, col(Device.id) == col(Desired.device_id))
        .join(Project, col(Project.id) == col(Device.project_id))
        .where(col(Desired.device_id).in_(window), Desired.assigned_at < before)
        .where(Device.state == DeviceState.ENROLLED, col(Project.frozen_at).is_(None), col(Device.nonce).is_not(None))
        .where(col(Device.nonce).is_distinct_from(col(Desired.nonce)), col(Device.id).not_in(back_off.resting()))
    )
    done = 0
    for desired, device in session.exec(query).all():
        rows = rows_of(session, device.id)
        if outrun(device, desired) or not all(_runs(session, device, row) for row in rows.values()):
            continue
        with _apart(session, device.id, back_off):
            write_entries(session, keys, device, desired, {}, _as_signed(keys, desired), rows.values(), fence)
            done += 1
    return done, window[-1] if len(window) == portion else ""


def _runs(session: Session, device: Device, row: DesiredEntry) -> bool:
    build = session.get_one(Build, row.build_id)
    return running_image(device, row.component) == (build.image_sha256 or "")[:32]


def outrun(device: Device, desired: Desired) -> bool:
    """The device has followed a later assignment than the database knows: it was restored from a backup."""
    return (device.director_epoch, device.reported_sequence) > (desired.director_epoch, desired.sequence)


def overtake(session: Session, store: BlobStore, keys: DirectorKeys, device: Device, fence: int) -> Desired:
    """Assign what the database wants again, above all that the device has seen, with bytes that need no base."""
    check_fence(session, CONTROLLER_LEASE, fence)
    desired, rows = session.get_one(Desired, device.id), rows_of(session, device.id)
    old = _as_signed(keys, desired)
    items = {
        name: _by_another_blob(session, store, keys, device, row, old[name], fence, full=True)
        for name, row in rows.items()
    }
    return write_entries(session, keys, device, desired, {}, items, rows.values(), fence)


def follow_signature(session: Session, build: Build) -> None:
    """A build that devices were told of has another signature, as its release key was replaced.

    Its manifest is published, and `reissue` names it to all that do not run the image: what the old key signed they
    install no more.
    """
    told = select(DesiredEntry.device_id).join(Device, col(Device.id) == col(DesiredEntry.device_id))
    told = told.where(DesiredEntry.build_id == build.id)
    if session.exec(told.limit(1)).first() is None:
        return
    publish_release(session, build)
    image = (build.image_sha256 or "")[:32]
    lacking = told.where(or_(col(DesiredEntry.component) != MODEL, col(Device.active_image).is_distinct_from(image)))
    anew = update(Desired).where(col(Desired.device_id).in_(lacking)).values(director_epoch=TO_SIGN_ANEW)
    session.connection().execute(anew)


def reissue(session: Session, keys: DirectorKeys, fence: int, *, back_off: BackOff | None = None) -> int:
    """Sign what a former director signed anew, in today's epoch, and what `follow_signature` marked; how many, some
    hundreds at most.

    A device that does not run its images yet gets their release manifests as they are signed today, too: the key that
    signed the older ones may be revoked. Devices for which it failed rest as `back_off` says.
    """
    back_off = back_off or BackOff()
    check_fence(session, CONTROLLER_LEASE, fence)
    query = select(Desired, Device).join(Device, col(Device.id) == col(Desired.device_id))
    old = query.where(Desired.director_epoch < keys.director_epoch, Device.state == DeviceState.ENROLLED)
    done = 0
    for desired, device in list(session.exec(old.where(col(Device.id).not_in(back_off.resting())).limit(AT_ONCE))):
        with _apart(session, device.id, back_off):
            _reissue_one(session, keys, device, desired, fence)
            done += 1
    return done


def _reissue_one(session: Session, keys: DirectorKeys, device: Device, desired: Desired, fence: int) -> None:
    rows, items = rows_of(session, device.id), _as_signed(keys, desired)
    for name, row in rows.items():
        build = session.get_one(Build, row.build_id)
        digest = bytes.fromhex(build.manifest_sha256 or "")
        if digest not in (b"", items[name].manifest_digest) and not _runs(session, device, row):
            publish_release(session, build, fence)
            items[name] = replace(items[name], manifest_digest=digest)
    write_entries(session, keys, device, desired, {}, items, rows.values(), fence)


@contextmanager
def _apart(session: Session, device_id: str, back_off: BackOff) -> Iterator[None]:
    """One device in trouble stops no other: what was done for it is undone, and it rests."""
    try:
        with session.begin_nested():
            yield
        back_off.succeeded(device_id)
    except UnavailableError:
        raise
    except FleetError as error:
        pause = back_off.failed(device_id)
        log.error("cannot sign the assignment of %s anew, next try in %s: %s", device_id, pause, error)


def renew_content_keys(
    session: Session,
    store: BlobStore,
    keys: DirectorKeys,
    fence: int,
    *,
    limit: int = 100,
    back_off: BackOff | None = None,
) -> int:
    """Sign anew what devices could not open or anybody could read, at most `limit` entries; how many.

    For devices with another key than their content key was wrapped for, and for classes encrypted since. Devices for
    which it failed rest as `back_off` says, so that they neither fill the log nor keep others from their turn.
    """
    back_off = back_off or BackOff()
    check_fence(session, CONTROLLER_LEASE, fence)
    if not _encryption_in_use(session):
        return 0
    query = select(DesiredEntry, Device, Build, TransferBlob)
    query = query.join(Device, col(Device.id) == col(DesiredEntry.device_id))
    query = query.join(Build, col(Build.id) == col(DesiredEntry.build_id))
    query = query.join(TransferBlob, col(TransferBlob.id) == col(DesiredEntry.blob_id))
    query = query.join(
        ProjectClass,
        and_(
            col(ProjectClass.project_id) == col(Device.project_id), col(ProjectClass.name) == col(Device.device_class)
        ),
    )
    other_key = col(DesiredEntry.wrapped_for) != col(Device.public_key)
    readable = and_(
        col(ProjectClass.encrypted), not_(col(TransferBlob.encrypted)), col(Build.state) == BuildState.READY
    )
    query = query.where(
        Device.state == DeviceState.ENROLLED, col(Device.public_key).is_not(None), or_(other_key, readable)
    ).where(col(Device.id).not_in(back_off.resting()))
    done = 0
    for row, device, _, blob in list(session.exec(query.limit(limit))):
        with _apart(session, device.id, back_off):
            if blob.encrypted:
                _wrap_anew(session, keys, device, row, blob, fence)
            else:
                _assign_again(session, store, keys, device, row, fence)
            done += 1
    return done


def _encryption_in_use(session: Session) -> bool:
    """A few rows say that no assignment needs to be read at all."""
    classes = select(ProjectClass.name).where(col(ProjectClass.encrypted)).limit(1)
    blobs = select(TransferBlob.id).where(col(TransferBlob.encrypted)).limit(1)
    return session.exec(classes).first() is not None or session.exec(blobs).first() is not None


def _wrap_anew(
    session: Session, keys: DirectorKeys, device: Device, row: DesiredEntry, blob: TransferBlob, fence: int
) -> None:
    item = _as_signed(keys, session.get_one(Desired, device.id))[row.component]
    row.wrapped_for = device.public_key
    _write_one(session, keys, device, row, replace(item, content_key=wrap_for(keys.content, blob, device)), fence)


def handle_waiting(session: Session, store: BlobStore, keys: DirectorKeys, device: Device, fence: int) -> str:
    """Help a device whose `state` says that a chunk does not come.

    "republished", "full" (assigned instead of a delta), "assigned" (the blob was lost here too and made again) or ""
    (nothing to do yet). Raises NotFoundError when the images are lost too.
    """
    waiting = device.reported.get("waiting")
    desired = session.get(Desired, device.id)
    if not waiting or desired is None or device.reported_at is None:
        return ""
    items = _as_signed(keys, desired).values()
    item = next((item for item in items if item.blob.hex() == waiting[0]), None)
    row = session.get(DesiredEntry, (device.id, item.component)) if item else None
    if item is None or row is None:
        return ""  # it waits for a blob of an older assignment and will see the newer one
    blob, build = session.get_one(TransferBlob, row.blob_id), session.get_one(Build, row.build_id)
    if item.blob != blob_id(blob):  # made again for another device
        _assign_again(session, store, keys, device, row, fence)
        return "assigned"
    now = utc_now()
    if is_delta(blob) and now - desired.assigned_at > FULL_AFTER and blob.published_at is not None:
        _assign_again(session, store, keys, device, row, fence, full=True)
        return "full"
    if blob.published_at is not None and now - blob.published_at < REPUBLISH_AFTER:
        return ""
    try:
        republish_blob(session, store, build, blob, fence)
        return "republished"
    except (NotFoundError, CorruptError) as error:
        log.error("%s: making it again", error)
        remake_blob(session, store, keys.content, blob, build)
    _assign_again(session, store, keys, device, row, fence)
    return "assigned"


def _as_signed(keys: DirectorKeys, desired: Desired) -> dict[str, AssignmentEntry]:
    """The entries of the stored assignment, by component, to be looked at by the device anew."""
    entries = signed_entries(keys, desired.device_id, desired.payload)
    return {item.component: replace(item, brought_by=None) for item in entries}


def _assign_again(
    session: Session, store: BlobStore, keys: DirectorKeys, device: Device, row: DesiredEntry, fence: int, **how: Any
) -> None:
    """The same build under the same terms, another blob; the device's other components keep what they have."""
    check_fence(session, CONTROLLER_LEASE, fence)
    old = _as_signed(keys, session.get_one(Desired, device.id))[row.component]
    item = _by_another_blob(session, store, keys, device, row, old, fence, **how)
    _write_one(session, keys, device, row, item, fence)


def _by_another_blob(
    session: Session,
    store: BlobStore,
    keys: DirectorKeys,
    device: Device,
    row: DesiredEntry,
    old: AssignmentEntry,
    fence: int,
    *,
    full: bool = False,
) -> AssignmentEntry:
    """The entry with what travels chosen anew, `row` brought up to date with it."""
    build = session.get_one(Build, row.build_id)
    check_pair(device, build)
    kept = None if full else row.blob_id
    blob = choose_blob(session, store, keys, device, build, kept, row.component, full=full)
    publish_blob(session, store, build, blob, fence)
    row.blob_id, row.wrapped_for = blob.id or 0, device.public_key if blob.encrypted else None
    return replace(old, **transport_of(keys, device, build, blob))


def _write_one(
    session: Session, keys: DirectorKeys, device: Device, row: DesiredEntry, item: AssignmentEntry, fence: int
) -> None:
    desired, rows = session.get_one(Desired, device.id), rows_of(session, device.id)
    del rows[row.component]
    others = take_over(keys, device, desired.payload, rows) if rows else {}
    for gone in rows.keys() - others.keys():
        session.delete(rows[gone])
    write_entries(session, keys, device, desired, others, {row.component: item}, [row], fence)
