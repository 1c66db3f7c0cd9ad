"""What each component of a device shall run as a row of its own, beside the signed assignment of the whole device.

Revision 0014. The way back is refused while an assignment has several entries: the older schema holds one, and which
of a device's components the service forgets is not for a migration to choose.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import sqlalchemy as sa
from alembic import op

from tinyfleet_service.errors import SettingsError

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

ENTRY = ("component", "build_id", "until", "blob_id", "rollout_id", "wrapped_for")
LINKS = {"build_id": "build.id", "blob_id": "transfer_blob.id", "rollout_id": "rollout.id"}


def upgrade() -> None:
    op.create_table(
        "desired_entry",
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("component", sa.String(length=16), nullable=False),
        sa.Column("build_id", sa.Integer(), nullable=False),
        sa.Column("until", sa.Integer(), nullable=False),
        sa.Column("blob_id", sa.Integer(), nullable=False),
        sa.Column("rollout_id", sa.Integer(), nullable=True),
        sa.Column("director_epoch", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("wrapped_for", sa.LargeBinary(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["desired.device_id"], name=op.f("fk_desired_entry_device_id")),
        *(
            sa.ForeignKeyConstraint([name], [target], name=op.f(f"fk_desired_entry_{name}"))
            for name, target in LINKS.items()
        ),
        sa.PrimaryKeyConstraint("device_id", "component", name=op.f("pk_desired_entry")),
    )
    columns = ", ".join(ENTRY)
    op.execute(
        f"INSERT INTO desired_entry (device_id, director_epoch, sequence, since, {columns}) "
        f"SELECT device_id, director_epoch, sequence, assigned_at, {columns} FROM desired"
    )
    with op.batch_alter_table("desired") as table:
        for name in LINKS:
            table.drop_constraint(op.f(f"fk_desired_{name}"), type_="foreignkey")
        for name in ENTRY:
            table.drop_column(name)
    _count_beside(op.get_bind())


def downgrade() -> None:
    _refuse_several()
    op.execute("DELETE FROM fleet_count WHERE kind = 'beside'")
    with op.batch_alter_table("desired") as table:
        table.add_column(sa.Column("component", sa.String(), nullable=True))
        table.add_column(sa.Column("build_id", sa.Integer(), nullable=True))
        table.add_column(sa.Column("until", sa.Integer(), nullable=True))
        table.add_column(sa.Column("blob_id", sa.Integer(), nullable=True))
        table.add_column(sa.Column("rollout_id", sa.Integer(), nullable=True))
        table.add_column(sa.Column("wrapped_for", sa.LargeBinary(), nullable=True))
    for name in ENTRY:
        op.execute(
            f"UPDATE desired SET {name} = "
            f"(SELECT {name} FROM desired_entry WHERE desired_entry.device_id = desired.device_id)"
        )
    op.drop_table("desired_entry")
    with op.batch_alter_table("desired") as table:
        for name in ("component", "build_id", "until", "blob_id"):
            table.alter_column(name, nullable=False)
        for name, target in LINKS.items():
            table.create_foreign_key(op.f(f"fk_desired_{name}"), *_split(name, target))


def _count_beside(connection: sa.Connection) -> None:
    """Count what devices with several components run besides `model/0`, as every write since does."""
    several = 'CAST(reported AS TEXT) LIKE \'%"component"%"component"%\''
    rows = connection.execute(sa.text(f"SELECT project_id, reported FROM device WHERE {several}"))
    sums = Counter((row.project_id, image) for row in rows for image in _beside(row.reported))
    add = sa.text("INSERT INTO fleet_count (project_id, kind, key, change) VALUES (:project, 'beside', :image, :n)")
    if sums:
        connection.execute(add, [{"project": p, "image": image, "n": n} for (p, image), n in sums.items()])


def _beside(reported: Any) -> list[str]:
    said = json.loads(reported) if isinstance(reported, str) else reported
    parts = [part for part in said["components"] if part["component"] != "model/0" and part["active"] is not None]
    return [image for part in parts if (image := part["slots"][part["active"]]["image"])]


def _split(name: str, target: str) -> tuple[str, list[str], list[str]]:
    table, column = target.split(".")
    return table, [name], [column]


def _refuse_several() -> None:
    several = "SELECT device_id FROM desired_entry GROUP BY device_id HAVING COUNT(*) > 1"
    devices = op.get_bind().execute(sa.text(several)).scalars().all()
    if devices:
        raise SettingsError(
            f"{len(devices)} devices are assigned several components (the first is {devices[0]}), "
            "and revision 0013 holds one of each device",
            next="restore the backup from before the upgrade",
        )
