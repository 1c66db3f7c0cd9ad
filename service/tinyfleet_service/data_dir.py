"""Where things lie in the data directory: apart from the settings, as a command line needs no more of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tinyfleet_service.errors import SettingsError

PRIVATE_DIR = 0o700


@dataclass(frozen=True)
class DataDir:
    """Layout of the data directory: the one thing to back up."""

    path: Path

    @property
    def database(self) -> Path:
        """SQLite file of the control plane."""
        return self.path / "tinyfleet.db"

    @property
    def telemetry(self) -> Path:
        """SQLite file of telemetry, with a writer of its own."""
        return self.path / "telemetry.db"

    @property
    def blobs(self) -> Path:
        """Models, images, reports and transfer blobs by SHA-256."""
        return self.path / "blobs"

    @property
    def broker(self) -> Path:
        """Broker configuration and persistence."""
        return self.path / "broker"

    @property
    def pki(self) -> Path:
        """Certificate authority and certificates."""
        return self.path / "pki"

    @property
    def keys(self) -> Path:
        """Release, director and root signing keys, encrypted."""
        return self.path / "keys"

    @property
    def log(self) -> Path:
        """One `<process>.log` per process, JSON lines."""
        return self.path / "log"

    @property
    def admin_token(self) -> Path:
        """The first administrator's token, readable by the owner only."""
        return self.path / "admin.token"

    @property
    def serve_json(self) -> Path:
        """URL, ports and pids of a running `serve`."""
        return self.path / "serve.json"

    @property
    def lock(self) -> Path:
        """Held by the running `serve`."""
        return self.path / "serve.lock"

    @property
    def settings_toml(self) -> Path:
        """Settings kept with the data."""
        return self.path / "settings.toml"

    def create(self) -> DataDir:
        """Make every folder. Raises SettingsError when that is not possible."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIR)
            for folder in (self.blobs, self.broker, self.pki, self.keys, self.log):
                folder.mkdir(parents=True, exist_ok=True)
            for private in (self.pki, self.keys):
                private.chmod(PRIVATE_DIR)
        except OSError as error:
            raise SettingsError(
                f"cannot use the data directory {self.path}: {error.strerror or error}",
                next="choose a writable directory with --data or TINYFLEET_DATA",
                path=str(self.path),
            ) from error
        return self
