"""Signing keys and roots of an installation, in `<data>/keys`; `ceremony` changes them, ota/SPEC.md defines them.

The first start makes root keys, the release and the director key, and root 1, which names them. Whoever wants root and
release keys offline moves their files to another machine; builds then wait for a signature.
"""

from __future__ import annotations

from tinyfleet_ota import Signer
from tinyfleet_service.keys.ceremony import make_first_root
from tinyfleet_service.keys.folder import KeyFolder
from tinyfleet_service.settings import Settings

__all__ = ["KeyFolder", "ensure_keys", "key_folder", "load_signer", "root_one"]


def key_folder(settings: Settings) -> KeyFolder:
    """The installation's keys."""
    return KeyFolder(settings.dirs.keys)


def ensure_keys(settings: Settings) -> None:
    """Make what a first start needs; keys that are there are never replaced. Raises SettingsError, StorageError."""
    make_first_root(key_folder(settings))


def load_signer(settings: Settings, name: str) -> Signer:
    """The signer of `release`, `director` or `root<n>`. Raises SettingsError."""
    return key_folder(settings).load(name)


def root_one(settings: Settings) -> bytes:
    """Root 1, which devices get with their firmware. Raises SettingsError before the first start."""
    return key_folder(settings).roots()[0]
