"""Counts of devices, tags as rows, indexes in the order of pages, and a mark on devices that may need help.

Revision 0010.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

OLD_INDEXES = ("active_image", "device_class", "project_id", "state")
NEW_INDEXES = {
    "ix_device_by_class": ["project_id", "device_class", "id"],
    "ix_device_by_state": ["project_id", "state", "id"],
    "ix_device_by_image": ["project_id", "active_image", "id"],
    "ix_device_by_id": ["project_id", "id"],
}
UPDATING = ("WRITING", "STAGED", "SHADOW", "TESTING")
PAGE = 5000


def upgrade() -> None:
    for column in OLD_INDEXES:
        op.drop_index(f"ix_device_{column}", "device")
    op.add_column("device", sa.Column("needs_help", sa.Boolean(), nullable=False, server_default=sa.true()))
    with op.batch_alter_table("device") as table:  # who was there is looked at once, then by its next report
        table.alter_column("needs_help", server_default=None)
    for name, columns in NEW_INDEXES.items():
        op.create_index(name, "device", columns)
    where = sa.text("needs_help")
    op.create_index("ix_device_needs_help", "device", ["needs_help"], postgresql_where=where, sqlite_where=where)
    op.create_table(
        "device_tag",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_device_tag_device_id")),
        sa.PrimaryKeyConstraint("device_id", "name", name=op.f("pk_device_tag")),
    )
    op.create_index("ix_device_tag_value", "device_tag", ["project_id", "name", "value", "device_id"])
    op.create_table(
        "fleet_count",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("change", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_count")),
    )
    op.create_index("ix_fleet_count_key", "fleet_count", ["project_id", "kind", "key"])
    _fill(op.get_bind())


def downgrade() -> None:
    op.drop_table("fleet_count")
    op.drop_table("device_tag")
    for name in ("ix_device_needs_help", *NEW_INDEXES):
        op.drop_index(name, "device")
    with op.batch_alter_table("device") as table:
        table.drop_column("needs_help")
    for column in OLD_INDEXES:
        op.create_index(f"ix_device_{column}", "device", [column])


def _fill(connection: sa.Connection) -> None:
    """Counts and tags of the devices there are, page by page."""
    sums: Counter[tuple[int, str, str]] = Counter()
    page = sa.text(
        "SELECT id, project_id, device_class, state, active_image, tags, reported FROM device "
        f"WHERE id > :last ORDER BY id LIMIT {PAGE}"
    )
    add_tag = sa.text(
        "INSERT INTO device_tag (device_id, project_id, name, value) VALUES (:device, :project, :name, :value)"
    )
    last = ""
    while rows := connection.execute(page, {"last": last}).all():
        tags = []
        for row in rows:
            last = row.id
            sums.update((row.project_id, kind, key) for kind, key in _keys(row))
            named = _document(row.tags).items()
            tags += [{"device": row.id, "project": row.project_id, "name": n, "value": v} for n, v in named]
        if tags:
            connection.execute(add_tag, tags)
    add = sa.text("INSERT INTO fleet_count (project_id, kind, key, change) VALUES (:project, :kind, :key, :change)")
    counts = [{"project": p, "kind": kind, "key": key, "change": n} for (p, kind, key), n in sums.items()]
    if counts:
        connection.execute(add, counts)


def _keys(row: Any) -> list[tuple[str, str]]:
    found = [("class", row.device_class), ("state", row.state), ("image", row.active_image or "")]
    updating = False
    for component in _document(row.reported).get("components", []):
        for number, slot in enumerate(component["slots"]):
            updating = updating or slot["state"] in UPDATING
            if slot["image"] and slot["state"] != "EMPTY":
                fallback = slot["state"] == "CONFIRMED" and component["active"] != number
                found.append(("slot", f"{slot['image']}|{'FALLBACK' if fallback else slot['state']}"))
    return [*found, *([("updating", "")] if updating else [])]


def _document(value: Any) -> dict[str, Any]:
    """JSON comes as text from SQLite and as a dictionary from PostgreSQL."""
    found: dict[str, Any] = json.loads(value) if isinstance(value, str) else value or {}
    return found
