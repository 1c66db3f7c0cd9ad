"""Encrypted blobs: a switch per class, content keys at rest, the key of each device, blobs withdrawn from the broker.

Revision 0002.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

PAIR = "uq_transfer_blob_image_sha256_base_sha256"


def upgrade() -> None:
    with op.batch_alter_table("project_class") as table:
        table.add_column(sa.Column("encrypted", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("transfer_blob") as table:
        table.add_column(sa.Column("encrypted", sa.Boolean(), nullable=False, server_default=sa.false()))
        table.add_column(sa.Column("content_key", sa.LargeBinary(), nullable=True))
        table.add_column(sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True))
        table.drop_constraint(PAIR, type_="unique")
        table.create_unique_constraint(f"{PAIR}_encrypted", ["image_sha256", "base_sha256", "encrypted"])
    with op.batch_alter_table("device") as table:
        table.add_column(sa.Column("public_key", sa.LargeBinary(), nullable=True))
    with op.batch_alter_table("desired") as table:
        table.add_column(sa.Column("wrapped_for", sa.LargeBinary(), nullable=True))
    for name in ("project_class", "transfer_blob"):  # the default was for rows that were there
        with op.batch_alter_table(name) as table:
            table.alter_column("encrypted", server_default=None)
    _read_device_keys()


def downgrade() -> None:
    """Assignments of encrypted blobs go: the older service could not publish those; it assigns anew."""
    encrypted = "(SELECT id FROM transfer_blob WHERE encrypted)"
    op.execute(f"DELETE FROM desired WHERE blob_id IN {encrypted}")
    op.execute("DELETE FROM transfer_blob WHERE encrypted")
    with op.batch_alter_table("desired") as table:
        table.drop_column("wrapped_for")
    with op.batch_alter_table("device") as table:
        table.drop_column("public_key")
    with op.batch_alter_table("transfer_blob") as table:
        table.drop_constraint(f"{PAIR}_encrypted", type_="unique")
        table.create_unique_constraint(PAIR, ["image_sha256", "base_sha256"])
        table.drop_column("withdrawn_at")
        table.drop_column("content_key")
        table.drop_column("encrypted")
    with op.batch_alter_table("project_class") as table:
        table.drop_column("encrypted")


def _read_device_keys() -> None:
    """The key of each device's newest certificate, from the events that keep the certificates."""
    connection = op.get_bind()
    rows = connection.execute(
        sa.text("SELECT device_id, detail FROM event WHERE kind IN ('enrolled', 'renewed') ORDER BY id")
    )
    keys = {device: key for device, detail in rows if (key := _key_of(detail)) is not None}
    for device, key in keys.items():
        update = sa.text("UPDATE device SET public_key = :key WHERE id = :device")
        connection.execute(update, {"key": key, "device": device})


def _key_of(detail: Any) -> bytes | None:
    fields = json.loads(detail) if isinstance(detail, str) else detail
    if "certificate" not in fields:
        return None
    key = x509.load_pem_x509_certificate(fields["certificate"].encode()).public_key()
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
