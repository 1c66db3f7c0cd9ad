"""What every command needs to know: how to print, and which service to talk to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from tinyfleet_service.data_dir import DataDir
from tinyfleet_service.errors import SettingsError

if TYPE_CHECKING:
    from tinyfleet_service.client import Client


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


@dataclass(frozen=True)
class Context:
    """The global options."""

    output: Output = Output.TABLE
    data: Path | None = None
    url: str | None = None
    token: str | None = None

    @property
    def wants_document(self) -> bool:
        """Stdout is for a program."""
        return self.output not in (Output.TABLE, Output.WIDE)

    def client(self) -> Client:
        """A client of the service named by `--url` and `--token`, or by the data directory of one on this machine.

        A token found in a directory nobody named goes to no address but the one found there. Raises SettingsError when
        neither says where the service is.
        """
        folder = DataDir(self.data or Path("fleet-data"))
        here = _url_of(folder)
        url = self.url or here
        token = self.token or (_token_of(folder) if self.data or url == here else None)
        if url and token:
            from tinyfleet_service.client import Client  # what works without a service starts without its libraries

            return Client(url, token)
        if self.data and not url:
            raise SettingsError(
                f"no `fleetctl serve` has run on {self.data}",
                next=f"start it with `fleetctl serve --data {self.data}`, or name the right directory with --data",
            )
        raise SettingsError(
            "which service?" if not url else "no API token",
            next="start one with `fleetctl serve`, name one with --data DIR, or set TINYFLEET_URL and TINYFLEET_TOKEN",
        )


def _url_of(folder: DataDir) -> str | None:
    try:
        return str(json.loads(folder.serve_json.read_text())["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _token_of(folder: DataDir) -> str | None:
    try:
        return folder.admin_token.read_text().strip()
    except (OSError, ValueError):
        return None
