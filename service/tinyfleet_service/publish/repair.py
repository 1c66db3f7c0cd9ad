"""Publishing again what a device found damaged on the broker.

The sentinel tells when a broker lost what it retained, not when some of it changed. A device tells: by the reason for
which it refused its assignment or gave a download up. What is published again comes from database and blob store.
"""

from __future__ import annotations

from sqlmodel import Session, col, select

from tinyfleet_ota import topics
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import check_fence
from tinyfleet_service.database.models import Build, Desired, DesiredEntry, Device, Outbox, TransferBlob, utc_now
from tinyfleet_service.database.reasons import DAMAGED, FORGED
from tinyfleet_service.publish.anew import REPUBLISH_AFTER
from tinyfleet_service.publish.bases import holds
from tinyfleet_service.publish.outbox import CONTROLLER_LEASE, enqueue
from tinyfleet_service.publish.transfers import republish_blob


def repair_broker(session: Session, store: BlobStore, device: Device, fence: int) -> str:
    """Publish again what the device's last report finds fault with: "desired", "blob" or "" (no fault, or done).

    Once for each report, so that somebody who goes on forging does not keep the service publishing.
    Raises LeaseLostError, NotFoundError, CorruptError.
    """
    reason = device.reported.get("last_reason")
    desired = session.get(Desired, device.id) if reason in FORGED | DAMAGED else None
    if desired is None or device.reported_at is None:
        return ""
    check_fence(session, CONTROLLER_LEASE, fence)
    if reason in FORGED and "refused_sequence" in device.reported:
        return _repair_desired(session, device, desired)
    if reason in DAMAGED and device.reported.get("sequence") == desired.sequence:
        entries = session.exec(select(DesiredEntry).where(DesiredEntry.device_id == device.id)).all()
        done = [_repair_blob(session, store, device, entry, fence) for entry in entries]
        return next(filter(None, done), "")
    return ""


def _repair_desired(session: Session, device: Device, desired: Desired) -> str:
    """The same bytes, not a new sequence: every one of those costs a write of the device's flash."""
    topic = topics.desired(device.id)
    query = select(Outbox.created_at).where(Outbox.topic == topic).order_by(col(Outbox.id).desc()).limit(1)
    written_at = session.exec(query).first()
    if written_at is not None and device.reported_at is not None and written_at >= device.reported_at:
        return ""
    enqueue(session, topic, desired.payload)
    return "desired"


def _repair_blob(session: Session, store: BlobStore, device: Device, entry: DesiredEntry, fence: int) -> str:
    """The report does not say which component's download it was: all that the device does not hold are repaired."""
    blob, build = session.get(TransferBlob, entry.blob_id), session.get(Build, entry.build_id)
    if blob is None or build is None or blob.published_at is None or holds(device, (build.image_sha256 or "")[:32]):
        return ""
    answered = device.reported_at is not None and blob.published_at >= device.reported_at
    if answered or utc_now() - blob.published_at < REPUBLISH_AFTER:
        return ""
    republish_blob(session, store, build, blob, fence)
    return "blob"
