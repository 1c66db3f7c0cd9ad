"""The signature that a receiver checks: HMAC-SHA256 over timestamp and body."""

from __future__ import annotations

import hashlib
import hmac


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """`v1=<hex>`, of `<timestamp>.<body>` under the secret as it was shown."""
    message = str(timestamp).encode() + b"." + body
    return "v1=" + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
