"""Assignments of many devices in one transaction, from plain rows.

What thousands of devices share (build, blob, entry) is looked up and checked once; what is left for each is a
signature and its rows, written a statement a table. `make bench-assignment` counts what that takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import bindparam, insert, select, update
from sqlmodel import Session, col

from tinyfleet_ota import AssignmentEntry
from tinyfleet_ota.protocol import SlotState
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import check_fence
from tinyfleet_service.database.models import Build, Desired, Device, TransferBlob, utc_now
from tinyfleet_service.errors import FleetError, NotFoundError, UnavailableError
from tinyfleet_service.publish.assignments import DirectorKeys, check_pair, choose_blob, entry_of, next_values
from tinyfleet_service.publish.bases import REPORTED_TEXT, holds
from tinyfleet_service.publish.outbox import CONTROLLER_LEASE, enqueue_desired
from tinyfleet_service.publish.transfers import publish_blob

_DEVICE = (
    *("id", "project_id", "device_class", "state", "public_key", "nonce", "director_epoch", "reported_sequence"),
    "active_image",
)


class Order(NamedTuple):
    """The build a device shall run, and until which state."""

    build_id: int
    until: SlotState


class Assigned(NamedTuple):
    """What became of the orders, by device: the blob that travels, or why there is no assignment."""

    blobs: dict[str, TransferBlob]
    refused: dict[str, FleetError]


def assign_many(
    session: Session,
    store: BlobStore,
    keys: DirectorKeys,
    orders: Mapping[str, Order],
    *,
    rollout_id: int | None,
    component: str,
    fence: int,
    **entry: Any,
) -> Assigned:
    """`assign` for every device of `orders`, all of one rollout; a device that cannot be assigned stops no other.

    At most as many as a database takes parameters: some thousands. Raises LeaseLostError, UnavailableError.
    """
    check_fence(session, CONTROLLER_LEASE, fence)
    shared = _Shared(session, store, keys, component, rollout_id, fence, entry)
    done, rows = Assigned({}, {}), []
    found = {row.id: row for row in _rows(session, orders)}
    for device_id, order in orders.items():
        try:
            row = found.get(device_id)
            if row is None:
                raise NotFoundError(f"device {device_id} is gone", next="nothing to do")
            blob, item, columns = shared.parts(row, order)
            values = next_values(keys, row, (row.stored_epoch or 0, row.stored_sequence or 0), (item,), shared.now)
            rows.append(values | columns | {"device_id": device_id})
            done.blobs[device_id] = blob
        except UnavailableError:
            raise
        except FleetError as error:
            done.refused[device_id] = error
    known = {row.id for row in found.values() if row.stored_sequence is not None}
    _write(session, rows, known, fence)
    return done


def _rows(session: Session, orders: Mapping[str, Order]) -> Sequence[Any]:
    """Devices with their present assignment; `Assignee`s all of them."""
    columns: list[Any] = [getattr(Device, name) for name in _DEVICE]
    stored: tuple[Any, ...] = (
        col(Desired.director_epoch).label("stored_epoch"),
        col(Desired.sequence).label("stored_sequence"),
        col(Desired.build_id).label("stored_build"),
        col(Desired.blob_id).label("stored_blob"),
    )
    query = select(*columns, REPORTED_TEXT, *stored).outerjoin(Desired, col(Desired.device_id) == col(Device.id))
    return session.connection().execute(query.where(col(Device.id).in_(list(orders)))).all()


class _Parts(NamedTuple):
    """What devices have in common that run, hold and get the same: blob, entry and columns of `Desired`."""

    blob: TransferBlob
    item: AssignmentEntry
    columns: dict[str, Any]


class _Shared:
    """Blobs and entries of one call, each made for the first device that needs it."""

    def __init__(
        self,
        session: Session,
        store: BlobStore,
        keys: DirectorKeys,
        component: str,
        rollout_id: int | None,
        fence: int,
        fields: dict[str, Any],
    ) -> None:
        self._session, self._store, self._keys, self._fence = session, store, keys, fence
        self._fields = {"component": component, **fields}
        self._columns = {"component": component, "rollout_id": rollout_id}
        self._builds: dict[int, tuple[Build, str]] = {}
        self._blobs: dict[tuple[Any, ...], TransferBlob] = {}
        self._parts: dict[tuple[Any, ...], _Parts] = {}
        self.now = utc_now()

    def parts(self, row: Any, order: Order) -> _Parts:
        """What one device gets. Raises what `assign` raises."""
        build, image = self._builds.get(order.build_id) or self._find(order.build_id)
        runs = None if holds(row, image) else row.active_image
        key = (order, row.state, row.project_id, row.device_class, runs, row.stored_build, row.stored_blob)
        found = self._parts.get(key)
        if found is None:
            check_pair(row, build)
            found = self._make(row, order, build, self._blob(row, build, runs))
            if found.item.content_key is None:  # one with a key is for this device alone
                self._parts[key] = found
        return found

    def _make(self, row: Any, order: Order, build: Build, blob: TransferBlob) -> _Parts:
        item = entry_of(self._keys, row, build, blob, until=order.until, **self._fields)
        columns = {"build_id": order.build_id, "until": int(order.until), "blob_id": blob.id}
        columns |= self._columns | {"wrapped_for": row.public_key if blob.encrypted else None}
        return _Parts(blob, item, columns)

    def _find(self, build_id: int) -> tuple[Build, str]:
        build = self._session.get(Build, build_id)
        if build is None:
            raise NotFoundError(f"no build {build_id}", next="see the model's builds", what="build", name=str(build_id))
        self._builds[build_id] = build, (build.image_sha256 or "")[:32]
        return self._builds[build_id]

    def _blob(self, row: Any, build: Build, runs: str | None) -> TransferBlob:
        kept = row.stored_blob if row.stored_build == build.id else None
        key = (build.id, row.project_id, row.device_class, runs, kept)
        if key not in self._blobs:
            with self._session.begin_nested():
                blob = choose_blob(self._session, self._store, self._keys, row, build, kept)
                publish_blob(self._session, self._store, build, blob, self._fence)
            self._blobs[key] = blob
        return self._blobs[key]


def _write(session: Session, rows: list[dict[str, Any]], known: set[str], fence: int) -> None:
    connection = session.connection()
    if new := [row for row in rows if row["device_id"] not in known]:
        connection.execute(insert(Desired), new)
    if old := [row | {"known": row["device_id"]} for row in rows if row["device_id"] in known]:
        connection.execute(update(Desired).where(col(Desired.device_id) == bindparam("known")), old)
    enqueue_desired(session, [row["device_id"] for row in rows], fence)
