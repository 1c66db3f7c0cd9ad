"""Signed messages for people: what they say, signatures shown and not checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from enum import IntEnum
from typing import Any

from tinyfleet_ota import cose
from tinyfleet_ota.assignment import ASSIGNMENT_BYTES_MAX
from tinyfleet_ota.errors import OtaError, ProtocolError
from tinyfleet_ota.protocol_codec import decode_message
from tinyfleet_ota.release import read_release
from tinyfleet_ota.roots import ROOT_BYTES_MAX


def describe_message(data: bytes) -> dict[str, Any]:
    """A release manifest, assignment or root by field names, JSON-able: bytes as hex, enumerations as names.

    Raises ProtocolError when `data` is none of them, with what each reader said.
    """
    refused: dict[str, str] = {}
    for kind, reader in _READERS.items():
        try:
            return {"type": kind, **_plain(reader(data))}
        except OtaError as error:
            refused[kind] = str(error)
    said = "; ".join(f"no {kind}, {why}" for kind, why in refused.items())
    raise ProtocolError(f"no signed message of ours: {said}", **refused)


def _release(data: bytes) -> dict[str, Any]:
    return asdict(read_release(data))


def _assignment(data: bytes) -> dict[str, Any]:
    payload, kid = cose.read_sign1(data, size_max=ASSIGNMENT_BYTES_MAX)
    return decode_message("assignment", payload, size_max=ASSIGNMENT_BYTES_MAX) | {"kid": kid}


def _root(data: bytes) -> dict[str, Any]:
    payload, signatures = cose.read_sign(data, size_max=ROOT_BYTES_MAX)
    return decode_message("root", payload, size_max=ROOT_BYTES_MAX) | {"kids": [one.kid for one in signatures]}


_READERS: dict[str, Callable[[bytes], dict[str, Any]]] = {
    "release": _release,
    "assignment": _assignment,
    "root": _root,
}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, IntEnum):
        return value.name
    return value.hex() if isinstance(value, bytes) else value
