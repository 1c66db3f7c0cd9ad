"""What the last reason in a device's `state` asks of the service."""

from __future__ import annotations

FORGED = frozenset(
    {"ASSIGNMENT_MALFORMED", "ASSIGNMENT_SIGNATURE", "ASSIGNMENT_OTHER_DEVICE", "ASSIGNMENT_OLD_SEQUENCE"}
)
"""Why a device refuses a `desired` that we did not write."""
DAMAGED = frozenset({"MANIFEST_DIGEST", "DIGEST_MISMATCH", "PATCH_INVALID", "DOWNLOAD_FAILED", "BLOB_GONE"})
"""Why a download ends although what was signed is sound."""
STALE_NONCE = "ASSIGNMENT_STALE_NONCE"
"""A device refused an assignment that echoes an old nonce; where it refused none, nothing fresh came for long."""
HELP_REASONS = FORGED | DAMAGED
