"""Release signatures: builds wait in `awaiting-signature` until the release key has signed their manifest."""

from __future__ import annotations

import hashlib

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tinyfleet_ota import OtaError, Signer, make_release
from tinyfleet_service.builds.events import add_build_event
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import database_now, session_scope
from tinyfleet_service.database.models import Build, BuildState, Model, ModelVersion
from tinyfleet_service.errors import SettingsError
from tinyfleet_service.keys import load_signer
from tinyfleet_service.settings import Settings


def load_release_signer(settings: Settings) -> Signer | None:
    """The local release key, or None where releases are signed elsewhere. Raises SettingsError when it is unusable."""
    path = settings.dirs.keys / "release.key"
    return load_signer(settings, "release") if path.exists() else None


def waiting_builds(engine: Engine) -> list[int]:
    """Builds that wait for the release key's signature, oldest first."""
    with session_scope(engine, read_only=True) as session:
        query = select(Build.id).where(Build.state == BuildState.AWAITING_SIGNATURE).order_by(col(Build.id))
        return [build_id for build_id in session.exec(query).all() if build_id is not None]


def sign_waiting(engine: Engine, store: BlobStore, signer: Signer) -> int:
    """Sign every waiting build; how many became READY."""
    return sum(_sign(engine, store, signer, build_id) for build_id in waiting_builds(engine))


def _sign(engine: Engine, store: BlobStore, signer: Signer, build_id: int) -> bool:
    with session_scope(engine) as session:
        query = select(Build).where(Build.id == build_id, Build.state == BuildState.AWAITING_SIGNATURE)
        build = session.exec(query.with_for_update()).first()
        if build is None or build.image_sha256 is None:
            return False
        sign_build(session, build, store.get(build.image_sha256), signer)
        build.finished_at = database_now(session)
        add_build_event(session, build)
        return True


def sign_build(session: Session, build: Build, image: bytes, signer: Signer) -> None:
    """Sign the release of `image`: READY. Raises SettingsError and leaves the build as it was."""
    build.manifest = _manifest(session, build, image, signer)
    build.manifest_sha256 = hashlib.sha256(build.manifest).hexdigest()
    build.state = BuildState.READY


def _manifest(session: Session, build: Build, image: bytes, signer: Signer) -> bytes:
    version = session.get_one(ModelVersion, build.version_id)
    model = session.get_one(Model, version.model_id)
    assert build.abi is not None
    assert build.release_counter is not None
    try:
        return make_release(
            image,
            device_class=build.device_class,
            abi=build.abi,
            release_counter=build.release_counter,
            security_floor=build.security_floor,
            component=model.component,
            version=version.version,
            signer=signer,
        )
    except OtaError as error:
        raise SettingsError(f"build {build.id} cannot be signed: {error}", next="check the release key") from error
