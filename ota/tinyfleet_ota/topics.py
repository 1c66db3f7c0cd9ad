"""Every topic, written once: `python -m tinyfleet_ota.generate` turns `TOPICS` into C format strings.

`{blob}` and `{manifest}` are ids as text: 16 bytes as base64url without padding, 22 characters.
"""

from __future__ import annotations

import base64
import binascii
import re

from tinyfleet_ota.errors import ProtocolError

PREFIX = "fleet/v1"
TOPICS = {
    "desired": f"{PREFIX}/d/{{device}}/desired",
    "state": f"{PREFIX}/d/{{device}}/state",
    "telemetry": f"{PREFIX}/d/{{device}}/telemetry",
    "event": f"{PREFIX}/d/{{device}}/event",
    "command": f"{PREFIX}/d/{{device}}/command",
    "manifest": f"{PREFIX}/m/{{manifest}}",
    "chunk": f"{PREFIX}/b/{{blob}}/{{chunk_bytes}}/{{n}}",
    "root": f"{PREFIX}/root/{{number}}",
    "sentinel": f"{PREFIX}/sentinel",
}
DEVICE_ID = re.compile(r"[a-z0-9-]{1,64}")
ID_BYTES = 16
ID_TEXT_LENGTH = 22


def blob_id_text(blob_id: bytes) -> str:
    """Id of a blob or manifest as it stands in topics. Raises ProtocolError unless `blob_id` has 16 bytes."""
    if len(blob_id) != ID_BYTES:
        raise ProtocolError(
            f"an id has {ID_BYTES} bytes, not {len(blob_id)}: cut the SHA-256 to its first 16", got=blob_id
        )
    return base64.urlsafe_b64encode(blob_id).rstrip(b"=").decode()


def blob_id_bytes(text: str) -> bytes:
    """Inverse of `blob_id_text`. Raises ProtocolError for anything that is not an id as text."""
    try:
        blob_id = base64.b64decode(text + "==", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError("not an id: expected 22 characters of base64url", got=text) from error
    if len(blob_id) != ID_BYTES or blob_id_text(blob_id) != text:
        raise ProtocolError("not an id: expected 22 characters of base64url", got=text)
    return blob_id


def _device_topic(name: str, device: str) -> str:
    if not DEVICE_ID.fullmatch(device):
        raise ProtocolError("a device id is 1 to 64 of a-z, 0-9 and -", got=device)
    return TOPICS[name].format(device=device)


def desired(device: str) -> str:
    """Topic of the device's assignment, retained."""
    return _device_topic("desired", device)


def state(device: str) -> str:
    """Topic of the device's reported state, retained."""
    return _device_topic("state", device)


def telemetry(device: str) -> str:
    """Topic of the device's counters."""
    return _device_topic("telemetry", device)


def event(device: str) -> str:
    """Topic of the device's events."""
    return _device_topic("event", device)


def command(device: str) -> str:
    """Topic of signed commands to the device."""
    return _device_topic("command", device)


def manifest(manifest_id: bytes) -> str:
    """Topic of a release manifest, by the first 16 bytes of its digest, retained."""
    return TOPICS["manifest"].format(manifest=blob_id_text(manifest_id))


def chunk(blob_id: bytes, chunk_bytes: int, n: int) -> str:
    """Topic of chunk `n` of a blob cut in pieces of `chunk_bytes`, retained."""
    return TOPICS["chunk"].format(blob=blob_id_text(blob_id), chunk_bytes=chunk_bytes, n=n)


def root(number: int) -> str:
    """Topic of root `number`, retained for ever."""
    return TOPICS["root"].format(number=number)


def sentinel() -> str:
    """Topic that marks the broker's contents as ours, retained."""
    return TOPICS["sentinel"]


def device_of(topic: str) -> str | None:
    """The device id in a `fleet/v1/d/<device>/...` topic, or None."""
    parts = topic.split("/")
    known = len(parts) == 5 and parts[:3] == [*PREFIX.split("/"), "d"] and DEVICE_ID.fullmatch(parts[3])
    return parts[3] if known else None
