"""Release signatures: builds wait in `awaiting-signature` until the release key has signed their manifest."""

from __future__ import annotations

import hashlib
import logging

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tinyfleet_ota import OtaError, Root, Signer, draft_release, key_id, read_release, sign_release
from tinyfleet_service.builds.events import add_build_event
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import database_now, session_scope
from tinyfleet_service.database.models import Build, BuildState, Model, ModelVersion
from tinyfleet_service.errors import FleetError, SettingsError, StateConflictError, UnavailableError
from tinyfleet_service.keys import key_folder
from tinyfleet_service.keys.ceremony import check_signed
from tinyfleet_service.publish import BackOff, follow_signature
from tinyfleet_service.settings import Settings

_log = logging.getLogger(__name__)


def load_release_signer(settings: Settings) -> Signer | None:
    """The local release key, or None where releases are signed elsewhere, or no device would take what it signs now.

    Raises SettingsError when it is unusable.
    """
    folder = key_folder(settings)
    if not folder.has("release"):
        return None
    signer, trusted = folder.load("release"), folder.newest().release_keys
    return signer if signer.public_key in trusted else None


def waiting_builds(engine: Engine) -> list[int]:
    """Builds that wait for the release key's signature, oldest first."""
    with session_scope(engine, read_only=True) as session:
        query = select(Build.id).where(Build.state == BuildState.AWAITING_SIGNATURE).order_by(col(Build.id))
        return [build_id for build_id in session.exec(query).all() if build_id is not None]


def sign_waiting(engine: Engine, store: BlobStore, signer: Signer, back_off: BackOff | None = None) -> int:
    """Sign every waiting build; how many became READY.

    One that cannot be signed keeps no other waiting, and rests as `back_off` says. Raises UnavailableError.
    """
    back_off = back_off or BackOff()
    resting = back_off.resting()
    waiting = [build_id for build_id in waiting_builds(engine) if str(build_id) not in resting]
    return sum(_sign_apart(engine, store, signer, build_id, back_off) for build_id in waiting)


def _sign_apart(engine: Engine, store: BlobStore, signer: Signer, build_id: int, back_off: BackOff) -> bool:
    try:
        signed = _sign(engine, store, signer, build_id)
        back_off.succeeded(str(build_id))
        return signed
    except UnavailableError:
        raise
    except FleetError as error:
        pause = back_off.failed(str(build_id))
        _log.error("cannot sign, next try in %s: %s", pause, error, extra={"build": build_id})
        return False


def _sign(engine: Engine, store: BlobStore, signer: Signer, build_id: int) -> bool:
    with session_scope(engine) as session:
        query = select(Build).where(Build.id == build_id, Build.state == BuildState.AWAITING_SIGNATURE)
        build = session.exec(query.with_for_update()).first()
        if build is None or build.image_sha256 is None:
            return False
        _set_manifest(session, build, _manifest(session, build, store.get(build.image_sha256), signer))
        return True


def sign_build(session: Session, build: Build, image: bytes, signer: Signer) -> None:
    """Sign the release of `image`: READY. Raises SettingsError and leaves the build as it was."""
    build.manifest = _manifest(session, build, image, signer)
    build.manifest_sha256 = hashlib.sha256(build.manifest).hexdigest()
    build.state = BuildState.READY


def waiting_manifests(engine: Engine, store: BlobStore, project_id: int) -> dict[int, bytes]:
    """Build id -> manifest of what waits for the release key: what `fleetctl keys export` carries to it."""
    with session_scope(engine, read_only=True) as session:
        query = select(Build).join(ModelVersion, col(ModelVersion.id) == col(Build.version_id))
        query = query.join(Model, col(Model.id) == col(ModelVersion.model_id)).where(Model.project_id == project_id)
        builds = session.exec(query.where(Build.state == BuildState.AWAITING_SIGNATURE).order_by(col(Build.id))).all()
        return {build.id or 0: draft_manifest(session, build, store) for build in builds}


def take_signature(session: Session, build: Build, store: BlobStore, envelope: bytes, root: Root) -> None:
    """Take a release signed elsewhere: READY. Raises InvalidInputError, StateConflictError when it does not wait."""
    if build.state != BuildState.AWAITING_SIGNATURE:
        raise StateConflictError(f"build {build.id} is {build.state}", next="only a build that waits takes a signature")
    check_signed(draft_manifest(session, build, store), envelope, root)
    _set_manifest(session, build, envelope)


def withdraw_revoked(engine: Engine, root: Root) -> list[int]:
    """Builds whose release was signed by a key that `root` no longer names wait for a signature again."""
    trusted = {key_id(key) for key in root.release_keys}
    withdrawn = []
    with session_scope(engine) as session:
        for build in session.exec(select(Build).where(Build.state == BuildState.READY)):
            if build.manifest is not None and read_release(build.manifest).kid not in trusted:
                build.state = BuildState.AWAITING_SIGNATURE
                add_build_event(session, build)
                withdrawn.append(build.id or 0)
    return withdrawn


def draft_manifest(session: Session, build: Build, store: BlobStore) -> bytes:
    """The manifest of a build, not signed. Raises SettingsError, NotFoundError or CorruptError from the store."""
    return _draft(session, build, store.get(build.image_sha256 or ""))


def _set_manifest(session: Session, build: Build, envelope: bytes) -> None:
    build.manifest, build.manifest_sha256 = envelope, hashlib.sha256(envelope).hexdigest()
    build.state, build.finished_at = BuildState.READY, database_now(session)
    add_build_event(session, build)
    follow_signature(session, build)


def _manifest(session: Session, build: Build, image: bytes, signer: Signer) -> bytes:
    try:
        return sign_release(_draft(session, build, image), signer)
    except OtaError as error:
        raise SettingsError(f"build {build.id} cannot be signed: {error}", next="check the release key") from error


def _draft(session: Session, build: Build, image: bytes) -> bytes:
    version = session.get_one(ModelVersion, build.version_id)
    model = session.get_one(Model, version.model_id)
    assert build.abi is not None
    assert build.release_counter is not None
    try:
        return draft_release(
            image,
            device_class=build.device_class,
            abi=build.abi,
            release_counter=build.release_counter,
            security_floor=build.security_floor,
            component=model.component,
            version=version.version,
        )
    except OtaError as error:
        raise SettingsError(f"build {build.id} has no manifest: {error}", next="look at its version's name") from error
