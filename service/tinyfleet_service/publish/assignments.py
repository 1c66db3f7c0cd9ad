"""Assignments: what a device shall run, signed by the director key, written together with their outbox row.

The sequence lies above everything stored and everything the device has reported, so that after a restore from backup no
device takes an assignment for an old one; the newest nonce is echoed, so that a device can tell a fresh one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import and_, not_, or_
from sqlmodel import Session, col, select

from tinyfleet_ota import Assignment, AssignmentEntry, KeyFileError, Signer, make_assignment, parse_assignment, topics
from tinyfleet_ota.protocol import Codec, SlotState
from tinyfleet_ota.wire_types import UINT_MAX
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import NO_FENCE, check_fence
from tinyfleet_service.database.models import (
    Build,
    BuildState,
    Desired,
    Device,
    DeviceState,
    ProjectClass,
    TransferBlob,
    utc_now,
)
from tinyfleet_service.errors import (
    CorruptError,
    FleetError,
    NotFoundError,
    SettingsError,
    StateConflictError,
    UnavailableError,
)
from tinyfleet_service.publish.back_off import BackOff
from tinyfleet_service.publish.bases import Assignee, base_build, holds
from tinyfleet_service.publish.encrypted import ensure_encrypted, is_encrypted, remake_blob, wrap_for
from tinyfleet_service.publish.outbox import CONTROLLER_LEASE, enqueue
from tinyfleet_service.publish.transfers import (
    CHUNK_BYTES,
    blob_id,
    ensure_transfer,
    is_delta,
    publish_blob,
    publish_release,
    republish_blob,
)

REPUBLISH_AFTER = timedelta(seconds=5)
"""A device that waits for a chunk longer than this gets the blob published again, at most this often."""
FULL_AFTER = timedelta(seconds=60)
"""A device that still waits after this gets the full image assigned instead of the delta."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DirectorKeys:
    """The director's key, the epoch in which it is valid, and every root so far, oldest first."""

    director: Signer
    director_epoch: int
    roots: tuple[bytes, ...] = ()
    former: tuple[bytes, ...] = ()
    """Public keys of directors before: what they signed stands in the database until it is signed anew."""
    content: ec.EllipticCurvePrivateKey | None = None
    """Opens the content keys of encrypted blobs; not there, nothing can be encrypted."""

    @property
    def known(self) -> list[bytes]:
        """Public keys of all directors so far."""
        return [self.director.public_key, *self.former]


def assign(
    session: Session,
    store: BlobStore,
    keys: DirectorKeys,
    device: Device,
    build: Build,
    until: SlotState | int,
    *,
    rollout_id: int | None = None,
    fence: int = NO_FENCE,
    full: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
    component: str = "model/0",
    **entry: Any,
) -> Desired:
    """Tell `device` to run `build` until it is `until` (SHADOW or CONFIRMED); `entry`: further AssignmentEntry fields.

    Publishes manifest and blob first where the broker lacks them. `full` forces the whole image instead of a delta.
    Raises StateConflictError (device not enrolled, other class, build not ready), LeaseLostError.
    """
    check_fence(session, CONTROLLER_LEASE, fence)
    check_pair(device, build)
    desired = session.get(Desired, device.id) or Desired(
        device_id=device.id, sequence=0, build_id=0, until=0, blob_id=0, payload=b""
    )
    kept = desired.blob_id if desired.build_id == build.id and not full else None
    blob = choose_blob(session, store, keys, device, build, kept, full=full, chunk_bytes=chunk_bytes)
    publish_blob(session, store, build, blob, fence)
    item = entry_of(keys, device, build, blob, component=component, until=SlotState(until), **entry)
    desired.component, desired.build_id, desired.until = component, build.id or 0, int(until)
    desired.blob_id, desired.rollout_id = blob.id or 0, rollout_id
    desired.wrapped_for = device.public_key if blob.encrypted else None
    return _write(session, keys, device, desired, (item,), fence)


def refresh_assignment(session: Session, keys: DirectorKeys, device: Device, fence: int = NO_FENCE) -> Desired | None:
    """Sign the same assignment again with the device's newest nonce and the next sequence; None when nothing changed.

    For a device that was away for long, or that refused an assignment because it echoed an old nonce.
    """
    check_fence(session, CONTROLLER_LEASE, fence)
    desired = session.get(Desired, device.id)
    if desired is None or device.nonce is None or desired.nonce == device.nonce:
        return None
    entries = parse_assignment(desired.payload, keys.known).entries
    return _write(session, keys, device, desired, entries, fence)


def outrun(device: Device, desired: Desired) -> bool:
    """The device has followed a later assignment than the database knows: it was restored from a backup."""
    return (device.director_epoch, device.reported_sequence) > (desired.director_epoch, desired.sequence)


def overtake(session: Session, store: BlobStore, keys: DirectorKeys, device: Device, fence: int = NO_FENCE) -> Desired:
    """Assign what the database wants again, above all that the device has seen, with bytes that need no base."""
    desired = session.get_one(Desired, device.id)
    build = session.get_one(Build, desired.build_id)
    _assign_again(session, store, keys, device, build, desired, fence, full=True)
    return desired


def reissue(session: Session, keys: DirectorKeys, fence: int = NO_FENCE, limit: int = 500) -> int:
    """Sign what a former director signed anew, in today's epoch, at most `limit` at a time; how many.

    A device that does not hold its image yet gets the release manifest as it is signed today, too: the key that signed
    the older one may be revoked.
    """
    check_fence(session, CONTROLLER_LEASE, fence)
    query = select(Desired, Device, Build).join(Device, col(Device.id) == col(Desired.device_id))
    query = query.join(Build, col(Build.id) == col(Desired.build_id))
    old = query.where(Desired.director_epoch < keys.director_epoch, Device.state == DeviceState.ENROLLED).limit(limit)
    rows = list(session.exec(old))
    for desired, device, build in rows:
        entries = parse_assignment(desired.payload, keys.known).entries
        if not holds(device, (build.image_sha256 or "")[:32]) and build.manifest_sha256 is not None:
            publish_release(session, build, fence)
            digest = bytes.fromhex(build.manifest_sha256)
            entries = tuple(replace(entry, manifest_digest=digest) for entry in entries)
        _write(session, keys, device, desired, entries, fence)
    return len(rows)


def renew_content_keys(
    session: Session,
    store: BlobStore,
    keys: DirectorKeys,
    fence: int = NO_FENCE,
    limit: int = 100,
    back_off: BackOff | None = None,
) -> int:
    """Sign anew what devices could not open or anybody could read, at most `limit` assignments; how many.

    For devices with another key than their content key was wrapped for, and for classes encrypted since. Devices for
    which it failed rest as `back_off` says, so that they neither fill the log nor keep others from their turn.
    """
    back_off = back_off or BackOff()
    check_fence(session, CONTROLLER_LEASE, fence)
    if not _encryption_in_use(session):
        return 0
    query = select(Desired, Device, Build, TransferBlob).join(Device, col(Device.id) == col(Desired.device_id))
    query = query.join(Build, col(Build.id) == col(Desired.build_id))
    query = query.join(TransferBlob, col(TransferBlob.id) == col(Desired.blob_id))
    query = query.join(
        ProjectClass,
        and_(
            col(ProjectClass.project_id) == col(Device.project_id), col(ProjectClass.name) == col(Device.device_class)
        ),
    )
    other_key = col(Desired.wrapped_for) != col(Device.public_key)
    readable = and_(
        col(ProjectClass.encrypted), not_(col(TransferBlob.encrypted)), col(Build.state) == BuildState.READY
    )
    query = query.where(
        Device.state == DeviceState.ENROLLED, col(Device.public_key).is_not(None), or_(other_key, readable)
    ).where(col(Device.id).not_in(back_off.resting()))
    done = 0
    for desired, device, build, blob in list(session.exec(query.limit(limit))):
        try:
            with session.begin_nested():
                if blob.encrypted:
                    _wrap_anew(session, keys, device, desired, blob, fence)
                else:
                    _assign_again(session, store, keys, device, build, desired, fence)
            done += 1
            back_off.succeeded(device.id)
        except UnavailableError:
            raise
        except FleetError as error:  # one device in trouble stops no other
            pause = back_off.failed(device.id)
            log.error("cannot sign the assignment of %s anew, next try in %s: %s", device.id, pause, error)
    return done


def _encryption_in_use(session: Session) -> bool:
    """A few rows say that no assignment needs to be read at all."""
    classes = select(ProjectClass.name).where(col(ProjectClass.encrypted)).limit(1)
    blobs = select(TransferBlob.id).where(col(TransferBlob.encrypted)).limit(1)
    return session.exec(classes).first() is not None or session.exec(blobs).first() is not None


def _wrap_anew(
    session: Session, keys: DirectorKeys, device: Device, desired: Desired, blob: TransferBlob, fence: int
) -> None:
    (old,) = parse_assignment(desired.payload, keys.known).entries
    assert keys.content is not None
    desired.wrapped_for = device.public_key
    _write(session, keys, device, desired, (replace(old, content_key=wrap_for(keys.content, blob, device)),), fence)


def handle_waiting(
    session: Session, store: BlobStore, keys: DirectorKeys, device: Device, fence: int = NO_FENCE
) -> str:
    """Help a device whose `state` says that a chunk does not come.

    "republished", "full" (assigned instead of a delta), "assigned" (the blob was lost here too and made again) or ""
    (nothing to do yet). Raises NotFoundError when the images are lost too.
    """
    waiting = device.reported.get("waiting")
    desired = session.get(Desired, device.id)
    if not waiting or desired is None or device.reported_at is None:
        return ""
    blob, build = session.get(TransferBlob, desired.blob_id), session.get(Build, desired.build_id)
    if blob is None or build is None or waiting[0] != _blob_named(keys, desired).hex():
        return ""  # it waits for a blob of an older assignment and will see the newer one
    if _blob_named(keys, desired) != blob_id(blob):  # made again for another device
        _assign_again(session, store, keys, device, build, desired, fence)
        return "assigned"
    now = utc_now()
    if is_delta(blob) and now - desired.assigned_at > FULL_AFTER and blob.published_at is not None:
        _assign_again(session, store, keys, device, build, desired, fence, full=True)
        return "full"
    if blob.published_at is not None and now - blob.published_at < REPUBLISH_AFTER:
        return ""
    try:
        republish_blob(session, store, build, blob, fence)
        return "republished"
    except (NotFoundError, CorruptError) as error:
        log.error("%s: making it again", error)
        remake_blob(session, store, keys.content, blob, build)
    _assign_again(session, store, keys, device, build, desired, fence)
    return "assigned"


def _blob_named(keys: DirectorKeys, desired: Desired) -> bytes:
    """The blob id in the signed assignment."""
    (entry,) = parse_assignment(desired.payload, keys.known).entries
    return entry.blob


def _assign_again(
    session: Session,
    store: BlobStore,
    keys: DirectorKeys,
    device: Device,
    build: Build,
    desired: Desired,
    fence: int,
    *,
    full: bool = False,
) -> None:
    """The same build under the same terms, another blob."""
    (old,) = parse_assignment(desired.payload, keys.known).entries
    kept = ("shadow_min_inferences", "confirm_min_inferences", "confirm_timeout_s", "start_spread_s")
    further = {name: getattr(old, name) for name in (*kept, "not_before", "window", "latency_budget_us")}
    chunk_bytes = old.chunk_bytes
    assign(
        session,
        store,
        keys,
        device,
        build,
        old.until,
        rollout_id=desired.rollout_id,
        fence=fence,
        full=full,
        chunk_bytes=chunk_bytes,
        component=old.component,
        **further,
    )


def choose_blob(
    session: Session,
    store: BlobStore,
    keys: DirectorKeys,
    device: Assignee,
    build: Build,
    kept_id: int | None,
    *,
    full: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
) -> TransferBlob:
    """What travels to `device`: the blob `kept_id` it is at already, or the smallest. Raises SettingsError."""
    encrypted = is_encrypted(session, device)
    if kept_id is not None:
        kept = session.get(TransferBlob, kept_id)  # a download under way must not start again
        if kept is not None and kept.encrypted == encrypted:
            return kept
    base = None if full else base_build(session, device, build)
    plain = ensure_transfer(session, store, build, base, chunk_bytes)
    if not encrypted:
        return plain
    if keys.content is None:
        raise SettingsError("no key for encrypted images", next="restore content.pem of the keys folder")
    return ensure_encrypted(session, store, keys.content, plain)


def entry_of(
    keys: DirectorKeys,
    device: Assignee,
    build: Build,
    blob: TransferBlob,
    *,
    component: str,
    until: SlotState,
    **further: Any,
) -> AssignmentEntry:
    """The entry that tells `device` to run `build`, which comes as `blob`; fields of `further` may be None."""
    return AssignmentEntry(
        component=component,
        manifest_digest=bytes.fromhex(build.manifest_sha256 or ""),
        until=until,
        content_key=wrap_for(keys.content, blob, device) if blob.encrypted and keys.content else None,
        blob=blob_id(blob),
        blob_bytes=blob.blob_bytes,
        chunk_bytes=blob.chunk_bytes,
        codec=Codec(blob.codec),
        base_digest=bytes.fromhex(blob.base_sha256) if is_delta(blob) else None,
        **{name: value for name, value in further.items() if value is not None},
    )


def _write(
    session: Session,
    keys: DirectorKeys,
    device: Device,
    desired: Desired,
    entries: tuple[AssignmentEntry, ...],
    fence: int,
) -> Desired:
    stored = (desired.director_epoch, desired.sequence)
    for name, value in next_values(keys, device, stored, entries, utc_now()).items():
        setattr(desired, name, value)
    session.add(desired)
    row = enqueue(session, topics.desired(device.id), desired.payload)
    row.fence = fence  # checked by `assign` and `refresh`
    session.flush()
    return desired


def next_values(
    keys: DirectorKeys,
    device: Assignee,
    stored: tuple[int, int],
    entries: tuple[AssignmentEntry, ...],
    now: datetime,
) -> dict[str, Any]:
    """Columns of `Desired` for the next assignment: above `stored` (epoch, sequence) and what the device reported.

    Raises SettingsError for a director of an older epoch, StateConflictError where no sequence lies above.
    """
    epoch, sequence = stored
    if max(device.director_epoch, epoch) > keys.director_epoch:
        raise SettingsError(
            f"device {device.id} knows director epoch {device.director_epoch}, this key is of {keys.director_epoch}",
            next="restore the newest keys folder: devices refuse what an older director signs",
        )
    if device.reported_sequence >= UINT_MAX:
        raise StateConflictError(
            f"device {device.id} reports sequence {device.reported_sequence}: no assignment lies above it",
            next="its agent is broken or forged: revoke it and enrol it anew",
        )
    sequence = max(sequence, device.reported_sequence) + 1
    nonce = bytes.fromhex(device.nonce) if device.nonce else None
    assignment = Assignment(device.id, keys.director_epoch, sequence, nonce, entries)
    return {
        "sequence": sequence,
        "director_epoch": keys.director_epoch,
        "nonce": device.nonce,
        "assigned_at": now,
        "payload": _signed(assignment, keys),
    }


def _signed(assignment: Assignment, keys: DirectorKeys) -> bytes:
    try:
        return make_assignment(assignment, keys.director)
    except KeyFileError as error:
        raise SettingsError(f"the director key does not sign: {error}", next="check its token or program") from error


def check_pair(device: Assignee, build: Build) -> None:
    """Raises StateConflictError unless the device takes part, is of the build's class, and the build is signed."""
    if device.state != DeviceState.ENROLLED:
        raise StateConflictError(f"device {device.id} is {device.state}", next="reset it, or leave it out")
    if build.device_class != device.device_class:
        raise StateConflictError(
            f"device {device.id} is a {device.device_class}, the build is for {build.device_class}",
            next="assign the build of the device's own class",
        )
    if build.manifest_sha256 is None:
        raise StateConflictError(f"build {build.id} is {build.state}", next="wait until it is ready")
