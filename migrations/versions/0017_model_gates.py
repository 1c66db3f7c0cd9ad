"""A model has a policy of gates of its own.

Revision 0017. On the way back the policies go; rollouts keep theirs, which their specs hold.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("model") as table:
        table.add_column(sa.Column("gates", sa.JSON(), nullable=False, server_default="{}"))
    with op.batch_alter_table("model") as table:
        table.alter_column("gates", server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("model") as table:
        table.drop_column("gates")
