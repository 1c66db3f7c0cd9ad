"""Numbers of device changes that do not run out: PostgreSQL counted them as 32-bit integers; SQLite's are larger.

Revision 0019. On the way back the changes that wait are numbered anew.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("device_change", "id", type_=sa.BigInteger())
        op.execute("ALTER SEQUENCE device_change_id_seq AS bigint")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("CREATE TEMPORARY TABLE waiting ON COMMIT DROP AS SELECT DISTINCT device_id FROM device_change")
        op.execute("TRUNCATE device_change RESTART IDENTITY")
        op.alter_column("device_change", "id", type_=sa.Integer())
        op.execute("ALTER SEQUENCE device_change_id_seq AS integer")
        op.execute("INSERT INTO device_change (device_id) SELECT device_id FROM waiting")
