"""Groups of devices and their members.

Revision 0011.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "device_group",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_device_group_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device_group")),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_device_group_project_id_name")),
    )
    op.create_table(
        "group_member",
        sa.Column("group_id", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["device_group.id"], name=op.f("fk_group_member_group_id")),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_group_member_device_id")),
        sa.PrimaryKeyConstraint("group_id", "device_id", name=op.f("pk_group_member")),
    )
    op.create_index("ix_group_member_device", "group_member", ["device_id"])


def downgrade() -> None:
    op.drop_table("group_member")
    op.drop_table("device_group")
