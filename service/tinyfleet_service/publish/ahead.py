"""Which blobs a new build will need, before a rollout asks for them: a plan then waits for none of them."""

from __future__ import annotations

from datetime import timedelta

from sqlmodel import Session, col, exists, select

from tinyfleet_service.database.engine import database_now
from tinyfleet_service.database.models import Build, BuildState, TransferBlob
from tinyfleet_service.publish.bases import count_bases, find_base

NEW = timedelta(hours=1)
"""What is ready for longer is an old version, whose blobs may have been removed since: nobody waits for them."""
BASES = 8
"""A fleet may run many images by a few devices each: a delta from one of those is made when a plan wants it."""


def builds_to_prepare(session: Session) -> list[int]:
    """New builds whose full image was not packed yet, oldest first."""
    packed = select(TransferBlob.id).where(
        TransferBlob.image_sha256 == Build.image_sha256,
        TransferBlob.base_sha256 == "",
        col(TransferBlob.encrypted).is_(False),
    )
    query = select(Build.id).where(Build.state == BuildState.READY, ~exists(packed))
    query = query.where(col(Build.finished_at) > database_now(session) - NEW).order_by(col(Build.id))
    return [build_id for build_id in session.exec(query) if build_id is not None]


def pairs_to_prepare(session: Session, build_id: int) -> list[tuple[int, int | None]]:
    """(build, base) pairs as `prepare_transfers` takes them: the full image, and deltas from what most devices run."""
    build = session.get_one(Build, build_id)
    devices = count_bases(session, build)
    images = sorted(filter(None, devices), key=lambda image: (-devices[image], image))
    bases = (find_base(session, build.device_class, image) for image in images[:BASES])
    return [(build_id, None), *((build_id, base.id) for base in bases if base is not None)]
