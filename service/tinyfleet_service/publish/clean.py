"""Blobs that nobody needs any more: first their chunks leave the broker, much later their bytes leave the store.

A blob is needed while an entry of any `desired` names it, for whichever component: a device that wakes after months
then finds what its assignment names. When it is needed again after all, `publish_blob` publishes it from the store, and
`ensure_transfer` computes it anew.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlmodel import Session, col, func, select

from tinyfleet_ota import topics
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.models import Build, DesiredEntry, TransferBlob, utc_now
from tinyfleet_service.publish.outbox import enqueue
from tinyfleet_service.publish.transfers import blob_id, chunk_count

STORED = timedelta(days=30)
"""How long the bytes of a blob outlive its chunks."""


def clean_blobs(session: Session, before: datetime, fence: int) -> int:
    """Remove the chunks of blobs that no `desired` names any more and that were published before `before`; how many.

    The bytes stay in the store, so a later assignment publishes them again.
    """
    named = select(TransferBlob.sha256).join(DesiredEntry, col(DesiredEntry.blob_id) == col(TransferBlob.id))
    query = select(TransferBlob).where(col(TransferBlob.published_at) < before, col(TransferBlob.sha256).not_in(named))
    blobs = list(session.exec(query))
    for blob in blobs:
        for n in range(chunk_count(blob)):
            enqueue(session, topics.chunk(blob_id(blob), blob.chunk_bytes, n), b"", fence=fence)
        blob.published_at, blob.withdrawn_at = None, utc_now()
        session.add(blob)
    return len(blobs)


def forget_blobs(session: Session, store: BlobStore, before: datetime | None = None) -> int:
    """Remove rows and bytes of blobs that no `desired` names and that left the broker before `before`; how many.

    Bytes that are somebody else's too stay: an image that travels raw is also the image of its build.
    """
    before = before or utc_now() - STORED
    idle_since = func.coalesce(col(TransferBlob.withdrawn_at), col(TransferBlob.created_at))
    named = select(DesiredEntry.blob_id)
    query = select(TransferBlob).where(col(TransferBlob.published_at).is_(None), idle_since < before)
    blobs = list(session.exec(query.where(col(TransferBlob.id).not_in(named))))
    for blob in blobs:
        session.delete(blob)
    session.flush()
    for digest in {blob.sha256 for blob in blobs}:
        if not _is_used(session, digest):
            store.delete(digest)
    return len(blobs)


def _is_used(session: Session, digest: str) -> bool:
    blob = select(TransferBlob.id).where(TransferBlob.sha256 == digest)
    image = select(Build.id).where(Build.image_sha256 == digest)
    return any(session.exec(query.limit(1)).first() is not None for query in (blob, image))
