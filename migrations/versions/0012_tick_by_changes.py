"""Ticks follow what changed: a queue of changed devices, when to look at a member, where the work on a rollout stands.

Revision 0012. Nothing to fill: a rollout without a row of progress is looked at whole.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "device_change",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device_change")),
    )
    op.create_table(
        "rollout_progress",
        sa.Column("rollout_id", sa.Integer(), nullable=False),
        sa.Column("stale", sa.Boolean(), nullable=False),
        sa.Column("pass_after", sa.String(), nullable=True),
        sa.Column("look_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"], name=op.f("fk_rollout_progress_rollout_id")),
        sa.PrimaryKeyConstraint("rollout_id", name=op.f("pk_rollout_progress")),
    )
    op.add_column("rollout_member", sa.Column("due_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_index("ix_rollout_member_rollout_id", "rollout_member")
    op.create_index("ix_member_status", "rollout_member", ["rollout_id", "status"])
    op.create_index("ix_member_due", "rollout_member", ["rollout_id", "due_at"])
    op.create_index("ix_desired_epoch", "desired", ["director_epoch"])


def downgrade() -> None:
    op.drop_index("ix_desired_epoch", "desired")
    op.drop_index("ix_member_due", "rollout_member")
    op.drop_index("ix_member_status", "rollout_member")
    op.create_index("ix_rollout_member_rollout_id", "rollout_member", ["rollout_id"])
    with op.batch_alter_table("rollout_member") as table:
        table.drop_column("due_at")
    op.drop_table("rollout_progress")
    op.drop_table("device_change")
