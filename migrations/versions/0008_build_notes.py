"""What builds did, step by step.

Revision 0008.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "build_note",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("build_id", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["build_id"], ["build.id"], name=op.f("fk_build_note_build_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_build_note")),
    )
    op.create_index(op.f("ix_build_note_build_id"), "build_note", ["build_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_build_note_build_id"), table_name="build_note")
    op.drop_table("build_note")
