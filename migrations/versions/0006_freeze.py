"""A fleet can be frozen: since when and by whom.

Revision 0006.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("project") as table:
        table.add_column(sa.Column("frozen_at", sa.DateTime(timezone=True), nullable=True))
        table.add_column(sa.Column("frozen_by", sa.String(), nullable=False, server_default=""))
    with op.batch_alter_table("project") as table:  # the default was for rows that were there
        table.alter_column("frozen_by", server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("project") as table:
        table.drop_column("frozen_by")
        table.drop_column("frozen_at")
