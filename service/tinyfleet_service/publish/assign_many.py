"""Assignments of many devices in one transaction, from plain rows.

What thousands of devices share (build, blob, entry) is looked up and checked once; what is left for each is a
signature and its rows, written a statement a table. `make bench-assignment` counts what that takes. What a device with
several components was assigned before is read for those devices alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import and_, bindparam, delete, insert, literal, null, select, update
from sqlmodel import Session, col

from tinyfleet_ota import AssignmentEntry
from tinyfleet_ota.protocol import SlotState
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import check_fence
from tinyfleet_service.database.models import Build, Desired, DesiredEntry, Device, TransferBlob, utc_now
from tinyfleet_service.database.reported import REPORTED_TEXT
from tinyfleet_service.errors import FleetError, NotFoundError, UnavailableError
from tinyfleet_service.publish.assignments import (
    DirectorKeys,
    check_pair,
    choose_blob,
    entry_of,
    in_order,
    next_values,
    take_over,
)
from tinyfleet_service.publish.bases import holds, running_image
from tinyfleet_service.publish.outbox import CONTROLLER_LEASE, enqueue_desired
from tinyfleet_service.publish.transfers import publish_blob

_DEVICE = (
    *("id", "project_id", "device_class", "state", "public_key", "nonce", "director_epoch", "reported_sequence"),
    "active_image",
)


_BROUGHT = ("device_id", "component", "director_epoch", "sequence")


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
    shared = _Shared(session, store, keys, component, fence, entry)
    entries: dict[_Columns, list[str]] = {}
    done, rows, others = Assigned({}, {}), [], _Others(session, keys, component, orders)
    found = {row.id: row for row in _rows(session, orders, component)}
    for device_id, order in orders.items():
        try:
            row = found.get(device_id)
            if row is None:
                raise NotFoundError(f"device {device_id} is gone", next="nothing to do")
            blob, item, columns = shared.parts(row, order)
            items = others.beside(row, item)
            values = next_values(keys, row, (row.stored_epoch or 0, row.stored_sequence or 0), items, shared.now)
            rows.append(values | {"device_id": device_id})
            entries.setdefault(columns, []).append(device_id)
            done.blobs[device_id] = blob
        except UnavailableError:
            raise
        except FleetError as error:
            done.refused[device_id] = error
    known = {row.id for row in found.values() if row.stored_sequence is not None}
    _write(session, rows, known)
    _write_entries(session, entries, component, rollout_id, shared.now)
    others.forget(session, done.blobs)
    enqueue_desired(session, [row["device_id"] for row in rows], fence)
    return done


def withdraw_many(
    session: Session, keys: DirectorKeys, devices: Sequence[str], *, component: str, fence: int
) -> dict[str, FleetError]:
    """Assign nothing to `component` of these devices any more: what runs there stays, what is on its way is dropped.

    At most some thousands, which have an assignment; who keeps it, and why. Raises LeaseLostError.
    """
    check_fence(session, CONTROLLER_LEASE, fence)
    others, now = _Others(session, keys, component, devices), utc_now()
    rows: dict[str, dict[str, Any]] = {}
    refused: dict[str, FleetError] = {}
    for row in _rows(session, devices, component):
        try:
            values = next_values(keys, row, (row.stored_epoch, row.stored_sequence), others.beside(row), now)
            rows[row.id] = values | {"device_id": row.id}
        except FleetError as error:
            refused[row.id] = error
    _write(session, list(rows.values()), set(rows))
    here = and_(col(DesiredEntry.device_id).in_(rows), col(DesiredEntry.component) == component)
    session.connection().execute(delete(DesiredEntry).where(here))
    others.forget(session, rows)
    enqueue_desired(session, list(rows), fence)
    return refused


def _rows(session: Session, orders: Iterable[str], component: str) -> Sequence[Any]:
    """Devices with their present assignment and its entry of `component`; `Assignee`s all of them."""
    columns: list[Any] = [getattr(Device, name) for name in _DEVICE]
    stored: tuple[Any, ...] = (
        col(Desired.director_epoch).label("stored_epoch"),
        col(Desired.sequence).label("stored_sequence"),
        col(DesiredEntry.build_id).label("stored_build"),
        col(DesiredEntry.blob_id).label("stored_blob"),
    )
    this = and_(col(DesiredEntry.device_id) == col(Device.id), col(DesiredEntry.component) == component)
    query = select(*columns, REPORTED_TEXT, *stored).outerjoin(Desired, col(Desired.device_id) == col(Device.id))
    query = query.outerjoin(DesiredEntry, this)
    return session.connection().execute(query.where(col(Device.id).in_(list(orders)))).all()


class _Others:
    """Entries of other components, for the devices of one call that have any: they are taken over as they are."""

    def __init__(self, session: Session, keys: DirectorKeys, component: str, devices: Iterable[str]) -> None:
        self._keys = keys
        self._rows: dict[str, dict[str, Any]] = {}
        columns: list[Any] = [getattr(DesiredEntry, name) for name in _BROUGHT]
        query = select(*columns).where(col(DesiredEntry.device_id).in_(list(devices)))
        for row in session.connection().execute(query.where(col(DesiredEntry.component) != component)):
            self._rows.setdefault(row.device_id, {})[row.component] = row
        signed = select(col(Desired.device_id), col(Desired.payload)).where(col(Desired.device_id).in_(self._rows))
        found = session.connection().execute(signed) if self._rows else ()
        self._payloads: dict[str, bytes] = {row.device_id: row.payload for row in found}
        self._gone: list[tuple[str, str]] = []

    def beside(self, device: Any, *items: AssignmentEntry) -> tuple[AssignmentEntry, ...]:
        """The entries of the device's next assignment."""
        rows = self._rows.get(device.id)
        if rows is None:
            return items
        kept = take_over(self._keys, device, self._payloads[device.id], rows)
        self._gone += [(device.id, component) for component in rows.keys() - kept.keys()]
        return in_order(kept | {item.component: item for item in items})

    def forget(self, session: Session, assigned: Collection[str]) -> None:
        """Drop the rows of entries that were not taken over."""
        for device_id, component in self._gone:
            if device_id in assigned:
                this = and_(col(DesiredEntry.device_id) == device_id, col(DesiredEntry.component) == component)
                session.connection().execute(delete(DesiredEntry).where(this))


class _Columns(NamedTuple):
    """Columns of `DesiredEntry` that many devices have in common."""

    build_id: int
    until: int
    blob_id: int
    encrypted: bool


class _Parts(NamedTuple):
    """What devices have in common that run, hold and get the same."""

    blob: TransferBlob
    item: AssignmentEntry
    columns: _Columns


class _Shared:
    """Blobs and entries of one call, each made for the first device that needs it."""

    def __init__(
        self,
        session: Session,
        store: BlobStore,
        keys: DirectorKeys,
        component: str,
        fence: int,
        fields: dict[str, Any],
    ) -> None:
        self._session, self._store, self._keys, self._fence = session, store, keys, fence
        self._component, self._fields = component, {"component": component, **fields}
        self._builds: dict[int, tuple[Build, str]] = {}
        self._blobs: dict[tuple[Any, ...], TransferBlob] = {}
        self._parts: dict[tuple[Any, ...], _Parts] = {}
        self.now = utc_now()

    def parts(self, row: Any, order: Order) -> _Parts:
        """What one device gets. Raises what `assign` raises."""
        build, image = self._builds.get(order.build_id) or self._find(order.build_id)
        runs = None if holds(row, image) else running_image(row, self._component)
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
        return _Parts(blob, item, _Columns(order.build_id, int(order.until), blob.id or 0, blob.encrypted))

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
                blob = choose_blob(self._session, self._store, self._keys, row, build, kept, self._component)
                publish_blob(self._session, self._store, build, blob, self._fence)
            self._blobs[key] = blob
        return self._blobs[key]


def _write(session: Session, rows: list[dict[str, Any]], known: set[str]) -> None:
    connection = session.connection()
    if new := [row for row in rows if row["device_id"] not in known]:
        connection.execute(insert(Desired), new)
    if old := [row | {"known": row["device_id"]} for row in rows if row["device_id"] in known]:
        connection.execute(update(Desired).where(col(Desired.device_id) == bindparam("known")), old)


def _write_entries(
    session: Session, entries: Mapping[_Columns, list[str]], component: str, rollout_id: int | None, now: datetime
) -> None:
    """The rows of `component`, from those of `Desired` that were just written: two statements for each group."""
    connection = session.connection()
    for columns, devices in entries.items():
        here = and_(col(DesiredEntry.device_id).in_(devices), col(DesiredEntry.component) == component)
        connection.execute(delete(DesiredEntry).where(here))
        common = {"component": component, "rollout_id": rollout_id, "since": now}
        common |= {name: getattr(columns, name) for name in ("build_id", "until", "blob_id")}
        constants = [literal(value, getattr(DesiredEntry, name).type) for name, value in common.items()]
        signed: list[Any] = [col(Desired.device_id), col(Desired.director_epoch), col(Desired.sequence)]
        wrapped_for = col(Device.public_key) if columns.encrypted else null()
        rows = select(*signed, wrapped_for, *constants).where(col(Desired.device_id).in_(devices))
        if columns.encrypted:
            rows = rows.join(Device, col(Device.id) == col(Desired.device_id))
        names = ["device_id", "director_epoch", "sequence", "wrapped_for", *common]
        connection.execute(insert(DesiredEntry).from_select(names, rows))
