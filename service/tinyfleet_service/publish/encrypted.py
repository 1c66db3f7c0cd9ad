"""Encrypted blobs, for classes that ask for it: ota/SPEC.md section 8.

1. An encrypted blob is a row beside the plain one it was made from, with ciphertext and a content key of its own. So no
   two blobs share a key, whether they are deltas, full images or for different classes.
2. The content key rests wrapped for `content.pem` of the keys folder, in the same form as for a device.
3. In an assignment it is wrapped for the key of the device's newest certificate. `DesiredEntry.wrapped_for` keeps
   which: when a device renews or enrols again with another key, `renew_content_keys` signs its assignment anew.
4. A switch of the class counts from the next tick on: what devices of it follow is signed anew, encrypted, and
   the plain chunks leave the broker as those of any other blob that nobody names. Switched off, it counts for new
   assignments only.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from sqlmodel import Session, select

from tinyfleet_ota import EncryptionError, encrypt_blob, unwrap_key, wrap_key
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.models import Build, ProjectClass, TransferBlob
from tinyfleet_service.errors import SettingsError, StateConflictError
from tinyfleet_service.publish.bases import Assignee
from tinyfleet_service.publish.transfers import add_transfer, blob_id, find_transfer, remake_transfer

AT_REST = "content.pem"
"""Stands where a device's id stands otherwise; no device can have this id."""


def is_encrypted(session: Session, device: Assignee) -> bool:
    """Whether images for this device's class travel encrypted."""
    query = select(ProjectClass.encrypted).where(
        ProjectClass.project_id == device.project_id, ProjectClass.name == device.device_class
    )
    return bool(session.exec(query).first())


def ensure_encrypted(
    session: Session, store: BlobStore, content: ec.EllipticCurvePrivateKey, plain: TransferBlob, build: Build
) -> TransferBlob:
    """The encrypted form of `plain`, which brings `build`; made at the first call.

    Raises NotFoundError or CorruptError from the store.
    """
    found = find_transfer(session, plain.image_sha256, plain.base_sha256, encrypted=True)
    if found is not None:
        return found
    blob = TransferBlob(
        **plain.model_dump(include={"codec", "image_sha256", "base_sha256", "chunk_bytes", "choices"}),
        sha256="",
        blob_bytes=0,
        encrypted=True,
    )
    if not store.exists(plain.sha256):
        remake_transfer(session, store, plain, build)
    _encrypt(store, content, plain, blob)
    return add_transfer(session, blob)


def remake_blob(
    session: Session, store: BlobStore, content: ec.EllipticCurvePrivateKey, blob: TransferBlob, build: Build
) -> None:
    """Make a blob again whose bytes the store has lost; its id may be another one then.

    Raises NotFoundError when image or base are lost too, CorruptError, StorageError.
    """
    if not blob.encrypted:
        remake_transfer(session, store, blob, build)
        return
    plain = find_transfer(session, blob.image_sha256, blob.base_sha256)
    if plain is None:  # nobody was assigned it for long: it was forgotten
        alike = blob.model_dump(include={"image_sha256", "base_sha256", "chunk_bytes"})
        plain = TransferBlob(**alike, sha256="", blob_bytes=0, codec=blob.codec)
    if not plain.sha256 or not store.exists(plain.sha256):
        remake_transfer(session, store, plain, build)
    _encrypt(store, content, plain, blob)
    blob.published_at = None
    session.add(blob)
    session.flush()


def _encrypt(store: BlobStore, content: ec.EllipticCurvePrivateKey, plain: TransferBlob, blob: TransferBlob) -> None:
    """Fill `blob` in with the ciphertext of `plain` under a fresh key."""
    sealed = encrypt_blob(store.get(plain.sha256), plain.chunk_bytes)
    blob.sha256, blob.blob_bytes, blob.codec = store.put(sealed.data), len(sealed.data), plain.codec
    blob.content_key = wrap_key(sealed.key, content.public_key(), blob_id(blob), AT_REST)


def wrap_for(content: ec.EllipticCurvePrivateKey, blob: TransferBlob, device: Assignee) -> bytes:
    """The blob's content key for `device` alone, 96 bytes. Raises StateConflictError, SettingsError."""
    if device.public_key is None:
        raise StateConflictError(
            f"device {device.id} has no certificate of this service, so nothing can be encrypted for it",
            next="enrol it, or turn encryption of its class off: `fleetctl device-class encrypt CLASS --off`",
        )
    try:
        key = unwrap_key(blob.content_key or b"", content, blob_id(blob), AT_REST)
    except EncryptionError as error:
        raise SettingsError(
            f"content.pem of the keys folder does not open the key of blob {blob_id(blob).hex()}",
            next="restore content.pem from a backup of the keys folder",
        ) from error
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), device.public_key)
    return wrap_key(key, point, blob_id(blob), device.id)
