"""Firmware images as `imgtool sign` makes them, checked before they count: MCUboot would refuse the others at the swap.

Source: MCUboot, docs/design.md, "Image format": a header of 32 bytes, the body behind `header bytes`, protected TLVs,
then the TLVs with the SHA-256 of all before them. Numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tinyfleet_service.errors import InvalidInputError

HEADER = struct.Struct("<IIHHIIBBHII")
TLV_AREA = struct.Struct("<HH")
MAGIC = 0x96F3B83D
PROTECTED, UNPROTECTED = 0x6908, 0x6907
SHA256 = 0x10
SIGNATURES = frozenset(range(0x20, 0x26))
ENCRYPTED = 0x04 | 0x08
"""Flags of an image whose body is encrypted."""
_NEXT = "make it with `imgtool sign`, without --pad and without encryption"


@dataclass(frozen=True)
class FirmwareImage:
    """What an image says of itself."""

    version: str
    """`major.minor.revision+build`, as given to `imgtool sign --version`."""
    body_bytes: int
    sha256: str
    """Of header, body and protected TLVs: MCUboot's hash, not that of the file."""
    signed: bool


def read_firmware(path: Path, name: str) -> FirmwareImage:
    """The image at `path`, which people know as `name`. Raises InvalidInputError naming what is wrong with it."""
    return parse_firmware(path.read_bytes(), name)


def parse_firmware(data: bytes, name: str) -> FirmwareImage:
    """The image in `data`, whole and nothing behind it. Raises InvalidInputError."""
    if len(data) < HEADER.size or data[:4] != MAGIC.to_bytes(4, "little"):
        raise _bad(name, "is no image for MCUboot: its magic is missing")
    _, _, header_bytes, protected_bytes, body_bytes, flags, *version, _ = HEADER.unpack_from(data)
    end = header_bytes + body_bytes
    if header_bytes < HEADER.size or not body_bytes or end + protected_bytes + TLV_AREA.size > len(data):
        raise _bad(name, f"is cut short or its header is wrong: it names {end + protected_bytes} bytes before its TLVs")
    if flags & ENCRYPTED:
        raise _bad(name, "is encrypted, so that it cannot be checked here")
    protected = list(_area(data, end, PROTECTED, name)) if protected_bytes else []
    if protected_bytes != _span(protected):
        raise _bad(name, "has protected TLVs of another size than its header says")
    found = list(_area(data, end + protected_bytes, UNPROTECTED, name))
    if end + protected_bytes + _span(found) != len(data):
        raise _bad(name, "has bytes behind its TLVs: the trailer of --pad, which the agent writes itself")
    digest = hashlib.sha256(data[: end + protected_bytes]).digest()
    if digest not in [value for kind, value in found if kind == SHA256]:
        raise _bad(name, "is damaged: the SHA-256 in its TLVs is not that of its bytes")
    major, minor, revision, build = version
    signed = any(kind in SIGNATURES for kind, _ in found)
    return FirmwareImage(f"{major}.{minor}.{revision}+{build}", body_bytes, digest.hex(), signed)


def _area(data: bytes, at: int, magic: int, name: str) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each TLV of the area at `at`."""
    found, total = TLV_AREA.unpack_from(data, at) if at + TLV_AREA.size <= len(data) else (0, 0)
    end = at + total
    if found != magic or end > len(data):
        raise _bad(name, f"has no whole TLV area at byte {at}")
    at += TLV_AREA.size
    while at < end:
        kind, size = TLV_AREA.unpack_from(data, at) if at + TLV_AREA.size <= end else (0, end)
        at += TLV_AREA.size + size
        if at > end:
            raise _bad(name, "has a TLV that ends behind its area")
        yield kind, data[at - size : at]


def _span(tlvs: list[tuple[int, bytes]]) -> int:
    """Bytes of an area with these TLVs; 0 for none."""
    return TLV_AREA.size + sum(TLV_AREA.size + len(value) for _, value in tlvs) if tlvs else 0


def _bad(name: str, why: str) -> InvalidInputError:
    return InvalidInputError(f"{re.sub(r'[^ -~]', '?', name)} {why}", next=_NEXT)
