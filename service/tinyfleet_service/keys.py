"""Signing keys of an installation in `<data>/keys`: encrypted PKCS#8 files and, by default, their passphrase.

The first start makes root keys, the release and the director key, and root 1, which names them. A person who wants the
root and release keys offline takes their files and the passphrase away; builds then wait for a signature.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from tinyfleet_ota import FileSigner, OtaError, Root, Signer, make_root
from tinyfleet_service.errors import SettingsError, StorageError
from tinyfleet_service.settings import Settings

ROOT_KEYS = 3
ROOT_THRESHOLD = 2
ROOT_ONE = "root-1.cbor"


def ensure_keys(settings: Settings) -> None:
    """Make what a first start needs; keys that are there are never replaced. Raises SettingsError, StorageError.

    Order matters: root 1 is written last, so a start cut in the middle goes on where it stopped.
    """
    folder = settings.dirs.keys
    if (folder / ROOT_ONE).exists():
        return
    passphrase = _passphrase(settings, create=True)
    roots = [_ensure_key(folder / f"root{n}.key", passphrase) for n in range(1, ROOT_KEYS + 1)]
    release = _ensure_key(folder / "release.key", passphrase)
    director = _ensure_key(folder / "director.key", passphrase)
    root = Root(
        number=1,
        threshold=ROOT_THRESHOLD,
        root_keys=tuple(sorted(key.public_key for key in roots)),
        release_keys=(release.public_key,),
        director_keys=(director.public_key,),
        director_epoch=1,
    )
    _write_private(folder / ROOT_ONE, make_root(root, roots[:ROOT_THRESHOLD]))


def load_signer(settings: Settings, name: str) -> Signer:
    """The signer of `release`, `director` or `root<n>`. Raises SettingsError."""
    path = settings.dirs.keys / f"{name}.key"
    try:
        return FileSigner.load(path, _passphrase(settings, create=False))
    except (OtaError, OSError) as error:
        raise SettingsError(
            f"cannot use the signing key {path}: {error}",
            next="restore the keys folder from a backup, or TINYFLEET_DATA names another installation",
            path=str(path),
        ) from error


def root_one(settings: Settings) -> bytes:
    """Root 1, which devices get with their firmware. Raises SettingsError before the first start."""
    return _read(settings.dirs.keys / ROOT_ONE)


def _ensure_key(path: Path, passphrase: bytes) -> Signer:
    try:
        if path.exists():
            return FileSigner.load(path, passphrase)
        signer = FileSigner.generate()
        signer.save(path, passphrase)
        return signer
    except OtaError as error:
        raise SettingsError(f"cannot use {path}: {error}", next="restore the keys folder from a backup") from error


def _passphrase(settings: Settings, *, create: bool) -> bytes:
    path = settings.dirs.keys / "passphrase"
    if create and not path.exists():
        _write_private(path, secrets.token_urlsafe(32).encode())
    return _read(path).strip()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"cannot read {path}: {error.strerror}", next="start `fleetctl serve` once, or restore the keys folder"
        ) from error


def _write_private(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".new")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}", next="check the data directory") from error
