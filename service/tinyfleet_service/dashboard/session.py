"""The dashboard's login: an API token once, then an encrypted cookie that names the token's row and expires."""

from __future__ import annotations

import time
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

COOKIE = "tinyfleet_session"
LIFETIME_S = 12 * 3600


class Sessions:
    """Makes and reads session cookies with a key kept beside the other keys (mode 0600)."""

    def __init__(self, key_file: Path) -> None:
        self.key = _load_key(key_file)
        self._fernet = Fernet(self.key)

    def issue(self, token_id: int) -> str:
        """A cookie value for the token with this row id."""
        return self._fernet.encrypt(f"{token_id}".encode()).decode()

    def read(self, cookie: str | None) -> int | None:
        """The token's row id, or None for a missing, forged or expired cookie."""
        if not cookie:
            return None
        try:
            return int(self._fernet.decrypt_at_time(cookie.encode(), ttl=LIFETIME_S, current_time=int(time.time())))
        except (InvalidToken, ValueError):
            return None


def _load_key(path: Path) -> bytes:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(Fernet.generate_key())
    return path.read_bytes()
