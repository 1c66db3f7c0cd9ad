"""Transfer blobs: what travels to devices. Computed once per pair of digests, stored, cut into chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, select

from tinyfleet_ota import choose_transfer, topics
from tinyfleet_ota.protocol import Codec
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import NO_FENCE, Lease, session_scope
from tinyfleet_service.database.keep_lease import Keep, keep_nothing
from tinyfleet_service.database.models import Build, BuildState, DesiredEntry, TransferBlob, utc_now
from tinyfleet_service.errors import NotFoundError, StateConflictError
from tinyfleet_service.publish.outbox import enqueue

CHUNK_BYTES = 1024
WORTH_SHARE = 0.99
CLAIMS = "transfer/"
"""So begin the names of claims, leases that last as long as one delta is made."""
CLAIM_S = 60.0
"""Whoever computes a pair holds a claim on it for so long: no other process computes the same meanwhile."""
CLAIM_POLL_S = 0.1


def ensure_transfer(session: Session, store: BlobStore, build: Build, base_build: Build | None) -> TransferBlob:
    """What travels to a device that runs `base_build` (or nothing) and shall run `build`: the smaller of both forms.

    A full image travels packed where that is smaller. Packing takes up to seconds: `prepare_transfers` does it outside
    of a transaction beforehand. Raises StateConflictError for a build that is not ready, NotFoundError or CorruptError
    from the store.
    """
    full = _ensure(session, store, build, None)
    if base_build is None or _image_of(base_build) == full.image_sha256:
        return full
    return worth_sending(full, _ensure(session, store, build, base_build))


def worth_sending(full: TransferBlob, delta: TransferBlob) -> TransferBlob:
    """The delta where it saves at least a hundredth of the full image, which all devices share."""
    return delta if delta.blob_bytes <= WORTH_SHARE * full.blob_bytes else full


def is_delta(blob: TransferBlob) -> bool:
    """Whether the blob needs its base on the device; a packed full image has the same codec and none."""
    return blob.codec == Codec.DELTA and bool(blob.base_sha256)


def prepare_transfers(
    engine: Engine, store: BlobStore, pairs: list[tuple[int, int | None]], *, keep: Keep = keep_nothing
) -> int:
    """Compute what is missing for (build id, base build id) pairs, holding no transaction meanwhile; how many.

    `keep` keeps the caller's lease between pairs, and while another process computes the same.
    """
    wanted = dict.fromkeys((build_id, base) for build_id, base_id in pairs for base in (None, base_id))
    return sum(_prepare(engine, store, build_id, base_id, keep) for build_id, base_id in wanted)


def _prepare(engine: Engine, store: BlobStore, build_id: int, base_id: int | None, keep: Keep) -> bool:
    keep()
    with session_scope(engine, read_only=True) as session:
        build = _get_build(session, build_id)
        base = _get_build(session, base_id) if base_id is not None else None
    image, base_image = _image_of(build), _image_of(base) if base else ""
    if image == base_image or _known(engine, image, base_image):
        return False
    claim, owner = f"{CLAIMS}{image[:24]}/{base_image[:24]}", uuid.uuid4().hex
    while Lease.acquire(engine, claim, owner, CLAIM_S) is None:
        time.sleep(CLAIM_POLL_S)
        keep()
    try:
        if _known(engine, image, base_image):
            return False  # who held the claim before has made it
        computed = _compute(store, build, base)
        with session_scope(engine) as session:
            _store(session, store, image, base_image, computed)
        return True
    finally:
        Lease.drop(engine, claim, owner)


def _known(engine: Engine, image: str, base: str) -> bool:
    with session_scope(engine, read_only=True) as session:
        return find_transfer(session, image, base) is not None


def publish_release(session: Session, build: Build, fence: int = NO_FENCE) -> None:
    """Publish the build's release manifest. Raises StateConflictError for a build that is not signed."""
    enqueue(session, *release_message(build), fence=fence)


def publish_blob(session: Session, store: BlobStore, build: Build, blob: TransferBlob, fence: int) -> bool:
    """Publish manifest and chunks unless the broker has them; True when it had not the chunks.

    Builds of the same image share its blobs, and each has a manifest of its own: another version, or component.
    """
    if blob.published_at is not None:
        told = select(DesiredEntry.build_id).where(DesiredEntry.build_id == build.id).limit(1)
        if session.exec(told).first() is None:
            publish_release(session, build, fence)
        return False
    republish_blob(session, store, build, blob, fence)
    return True


def republish_blob(session: Session, store: BlobStore, build: Build, blob: TransferBlob, fence: int) -> None:
    """Publish manifest and chunks again, whatever the broker was thought to hold."""
    publish_release(session, build, fence)
    for topic, payload in blob_messages(blob, store.get(blob.sha256)):
        enqueue(session, topic, payload)  # the fence was checked for the manifest, in this transaction
    blob.published_at, blob.withdrawn_at = utc_now(), None
    session.add(blob)


def release_message(build: Build) -> tuple[str, bytes]:
    """Topic and payload of a build's newest release manifest, also while it waits for another signature.

    Raises StateConflictError for a build that never was signed.
    """
    if build.manifest is None or build.manifest_sha256 is None:
        raise StateConflictError(f"build {build.id} has no signed release", next="sign it with the release key")
    return topics.manifest(bytes.fromhex(build.manifest_sha256)[: topics.ID_BYTES]), build.manifest


def blob_messages(blob: TransferBlob, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Topic and payload of each chunk, in order."""
    for n in range(chunk_count(blob)):
        at = n * blob.chunk_bytes
        yield topics.chunk(blob_id(blob), blob.chunk_bytes, n), data[at : at + blob.chunk_bytes]


def chunk_count(blob: TransferBlob) -> int:
    """Chunks of a blob; the last may be shorter."""
    return -(-blob.blob_bytes // blob.chunk_bytes)


def blob_id(blob: TransferBlob) -> bytes:
    """16 bytes that name the blob in topics and assignments."""
    return bytes.fromhex(blob.sha256)[: topics.ID_BYTES]


def remake_transfer(session: Session, store: BlobStore, blob: TransferBlob, build: Build) -> None:
    """Compute a plain blob once more whose bytes the store has lost; they may be others than before.

    Raises NotFoundError when image or base are lost too, CorruptError, StorageError.
    """
    base = None
    if blob.base_sha256:
        query = select(Build).where(Build.image_sha256 == blob.base_sha256, Build.state == BuildState.READY)
        base = session.exec(query).first()
        if base is None:
            raise NotFoundError(f"no build has the base {blob.base_sha256}", next="assign the full image")
    codec, data, choices = _compute(store, build, base)
    blob.sha256, blob.blob_bytes, blob.codec, blob.choices = store.put(data), len(data), codec, choices
    blob.published_at = None
    session.add(blob)
    session.flush()


def find_transfer(session: Session, image: str, base: str, *, encrypted: bool = False) -> TransferBlob | None:
    """The blob that makes `image` from `base` (digests, "" for none), when it was computed already."""
    query = select(TransferBlob).where(TransferBlob.image_sha256 == image, TransferBlob.base_sha256 == base)
    return session.exec(query.where(TransferBlob.encrypted == encrypted)).first()


def add_transfer(session: Session, blob: TransferBlob) -> TransferBlob:
    """Keep a blob that was computed; the one that is there when another process was faster."""
    try:
        with session.begin_nested():
            session.add(blob)
            session.flush()
        return blob
    except IntegrityError:
        found = find_transfer(session, blob.image_sha256, blob.base_sha256, encrypted=blob.encrypted)
        assert found is not None
        return found


def _ensure(session: Session, store: BlobStore, build: Build, base: Build | None) -> TransferBlob:
    image, base_image = _image_of(build), _image_of(base) if base is not None else ""
    found = find_transfer(session, image, base_image)
    return found or _store(session, store, image, base_image, _compute(store, build, base))


def _store(
    session: Session, store: BlobStore, image: str, base: str, computed: tuple[int, bytes, dict[str, Any]]
) -> TransferBlob:
    codec, data, choices = computed
    blob = TransferBlob(
        sha256=store.put(data),
        blob_bytes=len(data),
        codec=codec,
        image_sha256=image,
        base_sha256=base,
        chunk_bytes=CHUNK_BYTES,
        choices=choices,
    )
    return add_transfer(session, blob)


def _compute(store: BlobStore, build: Build, base: Build | None) -> tuple[int, bytes, dict[str, Any]]:
    new = store.get(_image_of(build))
    if base is None:
        transfer = choose_transfer(new, new_sections=build.sections, pack=True)
    else:
        transfer = choose_transfer(
            new, store.get(_image_of(base)), base_sections=base.sections, new_sections=build.sections
        )
    return int(transfer.codec), transfer.data, dict(transfer.choices)


def _image_of(build: Build | None) -> str:
    if build is None or build.state != BuildState.READY or build.image_sha256 is None:
        raise StateConflictError(
            f"build {build.id if build else '?'} is {build.state if build else 'missing'}, not ready",
            next="wait for the build, or look at its error",
        )
    return build.image_sha256


def _get_build(session: Session, build_id: int) -> Build:
    build = session.get(Build, build_id)
    if build is None:
        raise NotFoundError(f"no build {build_id}", next="see the model's builds", what="build", name=str(build_id))
    return build
