"""Claim certificates can be revoked.

Revision 0013. Nothing to fill: whatever is there is not revoked.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("claim_certificate", sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("claim_certificate") as table:
        table.drop_column("revoked_at")
