"""Counter snapshots as pages: a row per image and arm of a look, not one per device.

Revision 0015. `rollouts/frozen.py` is the format; what is stored is taken along both ways.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import numpy as np
import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

PAGE = 50_000
KEY = ("rollout_id", "stage", "look", "arm", "kind", "image_id")
SUMMED = ("inferences", "labelled", "correct", "faults", "active_s", "shadow_inferences", "shadow_agree")
PAIRS = ("both_right", "active_right", "candidate_right", "both_wrong")
FLAGS = ("silent", "failed", "heard")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
US = timedelta(microseconds=1)

snapshots = sa.table(
    "counter_snapshot",
    *(sa.column(name) for name in ("id", *KEY, "device_id")),
    sa.column("counters", sa.JSON),
    sa.column("taken_at", sa.DateTime(timezone=True)),
)
pages = sa.table(
    "snapshot_page",
    *(sa.column(name) for name in ("id", *KEY, "devices")),
    sa.column("columns", sa.LargeBinary),
    sa.column("taken_at", sa.DateTime(timezone=True)),
)


def upgrade() -> None:
    op.create_table(
        "snapshot_page",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("rollout_id", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("look", sa.Integer(), nullable=False),
        sa.Column("arm", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("columns", sa.LargeBinary(), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"], name=op.f("fk_snapshot_page_rollout_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshot_page")),
    )
    op.create_index("ix_snapshot_page", "snapshot_page", ["rollout_id", "stage", "look"])
    query = sa.select(snapshots).order_by(*(snapshots.c[name] for name in KEY), snapshots.c.device_id)
    for key, group in groupby(op.get_bind().execute(query), key=lambda row: tuple(row._mapping[name] for name in KEY)):
        for rows in _parts(group):
            values = dict(zip(KEY, key, strict=True)) | {"devices": len(rows), "taken_at": rows[0].taken_at}
            op.get_bind().execute(sa.insert(pages).values(**values, columns=_encode(rows)))
    op.drop_index("ix_snapshot", "counter_snapshot")
    op.drop_table("counter_snapshot")


def downgrade() -> None:
    op.create_table(
        "counter_snapshot",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("rollout_id", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("look", sa.Integer(), nullable=False),
        sa.Column("arm", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("counters", sa.JSON(), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"], name=op.f("fk_counter_snapshot_rollout_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_counter_snapshot")),
    )
    op.create_index("ix_snapshot", "counter_snapshot", ["rollout_id", "stage", "look"])
    for page in op.get_bind().execute(sa.select(pages).order_by(pages.c.id)).all():
        common = {name: page._mapping[name] for name in (*KEY, "taken_at")}
        rows = [common | {"device_id": device, "counters": counters} for device, counters in _decode(page.columns)]
        op.get_bind().execute(sa.insert(snapshots), rows)
    op.drop_index("ix_snapshot_page", "snapshot_page")
    op.drop_table("snapshot_page")


def _parts(group: Iterator[Any]) -> Iterator[list[Any]]:
    part: list[Any] = []
    for row in group:
        part.append(row)
        if len(part) == PAGE:
            yield part
            part = []
    if part:
        yield part


def _encode(rows: Sequence[Any]) -> bytes:
    counters = [row.counters for row in rows]
    columns: dict[str, Any] = {}
    if "inferences" in counters[0]:
        columns = {name: _narrow([row[name] for row in counters]) for name in SUMMED}
        columns |= {name: _narrow([row["shadow_pairs"][at] for row in counters]) for at, name in enumerate(PAIRS)}
        buckets = sorted({bucket for row in counters for bucket in row["latency"]}, key=int)
        columns |= {f"latency:{b}": _narrow([row["latency"].get(b, 0) for row in counters]) for b in buckets}
    columns |= {name: np.array([row[name] for row in counters], bool) for name in FLAGS if name in counters[0]}
    if "started_at" in counters[0]:
        columns["started_us"] = _narrow([(datetime.fromisoformat(row["started_at"]) - EPOCH) // US for row in counters])
    if "at_risk_s" in counters[0]:
        columns["at_risk_s"] = np.array([row["at_risk_s"] for row in counters], "<f8")
    kinds = {name: column.dtype.str for name, column in columns.items()}
    head = json.dumps({"devices": [row.device_id for row in rows], "columns": kinds}, separators=(",", ":"))
    return zlib.compress(b"".join([head.encode(), b"\n", *(column.tobytes() for column in columns.values())]), 1)


def _narrow(values: Sequence[int]) -> Any:
    column = np.array(values, np.int64)
    kind = np.dtype(np.int64) if column.min() < 0 else np.min_scalar_type(column.max())
    return column.astype(kind.newbyteorder("<"))


def _decode(data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    line, _, rest = zlib.decompress(data).partition(b"\n")
    head, at, columns = json.loads(line), 0, {}
    for name, kind in head["columns"].items():
        columns[name] = np.frombuffer(rest, kind, len(head["devices"]), at).tolist()
        at += len(head["devices"]) * np.dtype(kind).itemsize
    for row, device in enumerate(head["devices"]):
        yield device, _counters({name: values[row] for name, values in columns.items()})


def _counters(row: dict[str, Any]) -> dict[str, Any]:
    found = {name: row[name] for name in (*SUMMED, *FLAGS, "at_risk_s") if name in row}
    if "inferences" in row:
        found["shadow_pairs"] = [row[name] for name in PAIRS]
        latency = {name.removeprefix("latency:"): n for name, n in row.items() if name.startswith("latency:") and n}
        found["latency"] = latency
    if "started_us" in row:
        found["started_at"] = (EPOCH + row["started_us"] * US).isoformat()
    return found
