"""Configuration of the mosquitto child, from the templates in `deploy/mosquitto`."""

from __future__ import annotations

import getpass
import re
from pathlib import Path

from tinyfleet_service.broker.files import PRIVATE, write_file
from tinyfleet_service.broker.pki import INGESTERS, Pki
from tinyfleet_service.errors import SettingsError
from tinyfleet_service.settings import Settings

INFLIGHT_BATCHES = 2
"""Messages in flight per client, in ingest batches: one being committed, one on its way."""
QUEUED_MESSAGES = 200_000
QUEUED_BYTES = 128 << 20
PACKET_BYTES = 128 << 10
_HERE = Path(__file__).resolve().parent
_PLACES = (_HERE / "mosquitto", _HERE.parents[2] / "deploy" / "mosquitto")  # wheel, repository
_INGESTER = "user {name}\ntopic read fleet/v1/d/+/telemetry\ntopic read $SYS/#\n"


def write_config(settings: Settings, pki: Pki, port: int) -> Path:
    """Write `mosquitto.conf` and `fleet.acl` into `<data>/broker`; the path of the first.

    Raises SettingsError, StorageError.
    """
    folder = settings.dirs.broker
    acl = _fill("fleet.acl", {"ingesters": "\n".join(_INGESTER.format(name=name) for name in INGESTERS)})
    write_file(folder / "fleet.acl", acl.encode(), PRIVATE)
    config = _fill("mosquitto.conf", _values(settings, pki, port, folder))
    write_file(folder / "mosquitto.conf", config.encode(), PRIVATE)
    return folder / "mosquitto.conf"


def _values(settings: Settings, pki: Pki, port: int, folder: Path) -> dict[str, str]:
    values = {
        "user": getpass.getuser(),  # started as root, mosquitto would otherwise drop to a user who cannot read the key
        "port": str(port),
        "host": settings.host,
        "ca": str(pki.server.ca),
        "certificate": str(pki.server.certificate),
        "key": str(pki.server.key),
        "crl": str(pki.clients_crl),
        "acl": str(folder / "fleet.acl"),
        "persistence": str(folder),
        "inflight": str(INFLIGHT_BATCHES * settings.ingest_batch),
        "queued": str(QUEUED_MESSAGES),
        "queued_bytes": str(QUEUED_BYTES),
        "packet_bytes": str(PACKET_BYTES),
    }
    bad = [name for name, value in values.items() if "\n" in value or "\r" in value]
    if bad:
        raise SettingsError(
            f"a line break in {', '.join(bad)} cannot stand in the broker's configuration",
            next="choose a data directory and host without line breaks",
        )
    return values


def _fill(name: str, values: dict[str, str]) -> str:
    template = next((place / name for place in _PLACES if (place / name).exists()), None)
    if template is None:
        raise SettingsError(f"broker template {name} is missing", next="install tinyfleet again")
    return re.sub(r"@(\w+)@", lambda match: values[match.group(1)], template.read_text())
