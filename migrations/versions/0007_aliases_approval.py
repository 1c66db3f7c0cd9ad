"""Aliases and approval of versions.

Revision 0007.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_alias",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name=op.f("fk_model_alias_model_id")),
        sa.ForeignKeyConstraint(["version_id"], ["model_version.id"], name=op.f("fk_model_alias_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_alias")),
        sa.UniqueConstraint("model_id", "name", name=op.f("uq_model_alias_model_id_name")),
    )
    with op.batch_alter_table("model_version", schema=None) as batch_op:
        batch_op.add_column(sa.Column("approval", sa.String(), nullable=False, server_default="none"))
        batch_op.add_column(sa.Column("approved_by", sa.String(), nullable=False, server_default=""))
    with op.batch_alter_table("model_version", schema=None) as batch_op:
        batch_op.alter_column("approval", server_default=None)
        batch_op.alter_column("approved_by", server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("model_version", schema=None) as batch_op:
        batch_op.drop_column("approved_by")
        batch_op.drop_column("approval")
    op.drop_table("model_alias")
