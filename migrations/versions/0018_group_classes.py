"""A group keeps how many of its devices are of each class.

Revision 0018. On the way back the counts go; they follow from the members.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

GROUPS = sa.table("device_group", sa.column("id", sa.Integer), sa.column("by_class", sa.JSON))
COUNTS = sa.text(
    "SELECT group_member.group_id AS id, device.device_class AS name, count(*) AS devices FROM group_member "
    "JOIN device ON device.id = group_member.device_id GROUP BY group_member.group_id, device.device_class"
)


def upgrade() -> None:
    with op.batch_alter_table("device_group") as table:
        table.add_column(sa.Column("by_class", sa.JSON(), nullable=False, server_default="{}"))
    with op.batch_alter_table("device_group") as table:
        table.alter_column("by_class", server_default=None)
    found: dict[int, dict[str, int]] = {}
    for row in op.get_bind().execute(COUNTS):
        found.setdefault(row.id, {})[row.name] = row.devices
    for number, by_class in found.items():
        op.execute(GROUPS.update().where(GROUPS.c.id == number).values(by_class=by_class))


def downgrade() -> None:
    with op.batch_alter_table("device_group") as table:
        table.drop_column("by_class")
