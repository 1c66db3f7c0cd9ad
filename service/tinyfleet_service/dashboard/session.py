"""The key of the dashboard's forms and of logins under way; sessions themselves are in the database."""

from __future__ import annotations

from pathlib import Path

from cryptography.fernet import Fernet

from tinyfleet_service.broker import write_private

COOKIE = "tinyfleet_session"


def load_key(path: Path) -> bytes:
    """The key beside the other keys, made when missing (mode 0600)."""
    if not path.exists():
        write_private(path, Fernet.generate_key())
    return path.read_bytes()
