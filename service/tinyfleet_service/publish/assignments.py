"""Assignments: what a device shall run, signed by the director key, written together with their outbox row.

An assignment names every component of its device. Where one changes, the entries of the others are taken over from the
signed bytes as they are, with the sequence that brought them: a device that rejected one of them does not try it again.
The sequence lies above everything stored and everything the device has reported, so that after a restore from backup no
device takes an assignment for an old one; the newest nonce is echoed, so that a device can tell a fresh one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from sqlmodel import Session, select

from tinyfleet_ota import (
    Assignment,
    AssignmentEntry,
    KeyFileError,
    OtaError,
    Signer,
    make_assignment,
    parse_assignment,
    topics,
)
from tinyfleet_ota.protocol import Codec, SlotState
from tinyfleet_ota.wire_types import UINT_MAX
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import check_fence
from tinyfleet_service.database.models import (
    MODEL,
    Build,
    Desired,
    DesiredEntry,
    Device,
    DeviceState,
    TransferBlob,
    utc_now,
)
from tinyfleet_service.errors import SettingsError, StateConflictError, UnavailableError
from tinyfleet_service.publish.bases import Assignee, base_build, lacks_component
from tinyfleet_service.publish.encrypted import ensure_encrypted, is_encrypted, remake_blob, wrap_for
from tinyfleet_service.publish.outbox import CONTROLLER_LEASE, enqueue
from tinyfleet_service.publish.transfers import blob_id, ensure_transfer, is_delta, publish_blob

Entries = Mapping[str, AssignmentEntry]
"""Entries of one assignment by component."""


@dataclass(frozen=True)
class DirectorKeys:
    """The director's key, the epoch in which it is valid, and every root so far, oldest first."""

    director: Signer
    director_epoch: int
    content: ec.EllipticCurvePrivateKey
    """Opens the content keys of encrypted blobs."""
    roots: tuple[bytes, ...] = ()
    former: tuple[bytes, ...] = ()
    """Public keys of directors before: what they signed stands in the database until it is signed anew."""

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
    fence: int,
    rollout_id: int | None = None,
    full: bool = False,
    component: str = MODEL,
    **entry: Any,
) -> Desired:
    """Tell `device` to run `build` until it is `until` (SHADOW or CONFIRMED); `entry`: further AssignmentEntry fields.

    Publishes manifest and blob first where the broker lacks them. `full` forces the whole image instead of a delta.
    What its other components run stays as it is.
    Raises StateConflictError (device not enrolled, other class, build not ready), LeaseLostError.
    """
    check_fence(session, CONTROLLER_LEASE, fence)
    check_pair(device, build)
    desired = session.get(Desired, device.id) or Desired(device_id=device.id, sequence=0, payload=b"")
    rows = rows_of(session, device.id)
    row = rows.pop(component, None) or DesiredEntry(
        device_id=device.id, component=component, build_id=0, until=0, blob_id=0, sequence=0
    )
    kept = row.blob_id if row.build_id == build.id and not full else None
    blob = choose_blob(session, store, keys, device, build, kept, component, full=full)
    publish_blob(session, store, build, blob, fence)
    item = entry_of(keys, device, build, blob, component=component, until=SlotState(until), **entry)
    row.build_id, row.until, row.blob_id, row.rollout_id = build.id or 0, int(until), blob.id or 0, rollout_id
    row.wrapped_for, row.since = device.public_key if blob.encrypted else None, utc_now()
    others = take_over(keys, device, desired.payload, rows) if rows else {}
    for gone in rows.keys() - others.keys():
        session.delete(rows[gone])
    return write_entries(session, keys, device, desired, others, {component: item}, [row], fence)


def rows_of(session: Session, device_id: str) -> dict[str, DesiredEntry]:
    """The rows of a device's assignment, by component."""
    query = select(DesiredEntry).where(DesiredEntry.device_id == device_id)
    return {row.component: row for row in session.exec(query)}


def take_over(
    keys: DirectorKeys, device: Assignee, payload: bytes, rows: Mapping[str, Any]
) -> dict[str, AssignmentEntry]:
    """The entries of these `rows` as they were signed, each with the sequence that brought it.

    Without those of components that the device says it has not (another agent runs there now): it would refuse all.
    Raises SettingsError for a `payload` that no director of ours signed.
    """
    kept = {}
    for item in signed_entries(keys, device.id, payload):
        row = rows.get(item.component)
        if row is not None and not lacks_component(device, item.component):
            kept[item.component] = replace(item, brought_by=_brought_by(keys, row))
    return kept


def signed_entries(keys: DirectorKeys, device_id: str, payload: bytes) -> tuple[AssignmentEntry, ...]:
    """The entries of a stored assignment. Raises SettingsError for one that no director of ours signed."""
    try:
        return parse_assignment(payload, keys.known).entries
    except OtaError as error:
        raise SettingsError(
            f"the stored assignment of {device_id} does not hold: {error}",
            next="restore keys folder and database from backups of one fleet",
        ) from error


def _brought_by(keys: DirectorKeys, row: Any) -> int | None:
    """None under a new director: the device is to look at it anew."""
    return int(row.sequence) if row.director_epoch == keys.director_epoch else None


def choose_blob(
    session: Session,
    store: BlobStore,
    keys: DirectorKeys,
    device: Assignee,
    build: Build,
    kept_id: int | None,
    component: str,
    *,
    full: bool = False,
) -> TransferBlob:
    """What travels to `device` for its `component`: the blob `kept_id` it is at already, or the smallest.

    One that is to be published and whose bytes the store has lost is made again. Raises NotFoundError or CorruptError
    when the images are lost too.
    """
    encrypted = is_encrypted(session, device)
    if kept_id is not None:
        kept = session.get(TransferBlob, kept_id)  # a download under way must not start again
        if kept is not None and kept.encrypted == encrypted:
            return kept
    base = None if full else base_build(session, device, build, component)
    blob = ensure_transfer(session, store, build, base)
    if encrypted:
        blob = ensure_encrypted(session, store, keys.content, blob, build)
    if blob.published_at is None and not store.exists(blob.sha256):
        remake_blob(session, store, keys.content, blob, build)
    return blob


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
    given = {name: value for name, value in further.items() if value is not None}
    return AssignmentEntry(component=component, until=until, **transport_of(keys, device, build, blob), **given)


def transport_of(keys: DirectorKeys, device: Assignee, build: Build, blob: TransferBlob) -> dict[str, Any]:
    """Fields of an entry that say which release comes, and how its bytes come."""
    return {
        "manifest_digest": bytes.fromhex(build.manifest_sha256 or ""),
        "content_key": wrap_for(keys.content, blob, device) if blob.encrypted else None,
        "blob": blob_id(blob),
        "blob_bytes": blob.blob_bytes,
        "chunk_bytes": blob.chunk_bytes,
        "codec": Codec(blob.codec),
        "base_digest": bytes.fromhex(blob.base_sha256) if is_delta(blob) else None,
    }


def write_entries(
    session: Session,
    keys: DirectorKeys,
    device: Device,
    desired: Desired,
    others: Entries,
    changed: Entries,
    rows: Iterable[DesiredEntry],
    fence: int,
) -> Desired:
    """Sign `others` and `changed` together, store and enqueue them; `rows` are those of `changed`."""
    stored, items = (desired.director_epoch, desired.sequence), in_order({**others, **changed})
    for name, value in next_values(keys, device, stored, items, utc_now()).items():
        setattr(desired, name, value)
    session.add(desired)
    session.flush()  # its entries refer to it
    for row in rows:
        row.director_epoch, row.sequence = desired.director_epoch, desired.sequence
        session.add(row)
    message = enqueue(session, topics.desired(device.id), desired.payload)
    message.fence = fence  # checked by whoever calls
    session.flush()
    return desired


def in_order(items: Entries) -> tuple[AssignmentEntry, ...]:
    """Entries as an assignment has them."""
    return tuple(items[component] for component in sorted(items))


def next_values(
    keys: DirectorKeys,
    device: Assignee,
    stored: tuple[int, int],
    entries: tuple[AssignmentEntry, ...],
    now: datetime,
) -> dict[str, Any]:
    """Columns of `Desired` for the next assignment: above `stored` (epoch, sequence) and what the device reported.

    Raises SettingsError for a director of an older epoch, StateConflictError where no sequence lies above,
    UnavailableError.
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
    with director_signs():
        assignment = Assignment(device.id, keys.director_epoch, sequence, nonce, entries)
        payload = make_assignment(assignment, keys.director)
    return {
        "sequence": sequence,
        "director_epoch": keys.director_epoch,
        "nonce": device.nonce,
        "assigned_at": now,
        "payload": payload,
    }


@contextmanager
def director_signs() -> Iterator[None]:
    """For signatures by the director key. Raises UnavailableError when its token or program is away."""
    try:
        yield
    except KeyFileError as error:
        raise UnavailableError(f"the director key does not sign: {error}", next="check its token or program") from error


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
